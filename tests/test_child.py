"""A function in another process: its result, its errors in their kind, and a sentence where the process dies."""

from __future__ import annotations

import errno
import os
import signal
import sys
import textwrap
import threading
import time

import pytest

from swinv2 import child
from swinv2.artifact import ArtifactError


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module that the other process can import."""
    (tmp_path / "functions_of_a_child.py").write_text(
        textwrap.dedent(
            """
            import os, sys, signal, time, errno

            def double(x): return {"twice": 2 * x, "pid": os.getpid()}
            def talk(): print("said on stdout"); print("said on stderr", file=sys.stderr); return 1
            def crash(): print("about to crash"); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGSEGV)
            def leave(): print("I leave"); sys.exit(3)
            def full(): raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")
            def defect(): return {}["no such key"]
            def foreign(): return int("no number")
            def sleep(path): open(path, "w").write(str(os.getpid())); time.sleep(60)
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "functions_of_a_child"


def test_the_result_comes_back_from_another_process(functions):
    found = child.call(f"{functions}:double", {"x": 21}, doing="doubling")
    assert found["twice"] == 42
    assert found["pid"] != os.getpid()


def test_what_a_process_prints_is_not_shown(functions, capfd):
    assert child.call(f"{functions}:talk", {}, doing="talking") == 1
    assert capfd.readouterr() == ("", "")


def test_a_crash_is_a_sentence_with_the_signal_and_the_last_words(functions):
    with pytest.raises(
        child.Died, match=r"^crashing ended with signal SIGSEGV; its last words: about to crash"
    ):
        child.call(f"{functions}:crash", {}, doing="crashing")


def test_leaving_without_a_result_is_a_sentence(functions):
    with pytest.raises(child.Died, match=r"^leaving ended with exit code 3; its last words: I leave$"):
        child.call(f"{functions}:leave", {}, doing="leaving")


def test_a_full_disk_over_there_is_a_full_disk_here(functions):
    with pytest.raises(OSError, match="No space left") as found:
        child.call(f"{functions}:full", {}, doing="filling")
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, "model.onnx")


def test_our_own_sentences_keep_their_kind(tmp_path):
    missing = str(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError) as found:
        child.call("swinv2.artifact:read_record", {"path": missing}, doing="reading")
    assert found.value.filename == missing
    (tmp_path / "text.safetensors").write_text("no model, but a text that is long enough")
    with pytest.raises(ArtifactError, match="is not a safetensors file"):
        child.call(
            "swinv2.artifact:read_record", {"path": str(tmp_path / "text.safetensors")}, doing="reading"
        )


@pytest.mark.parametrize(("name", "kind"), [("defect", "KeyError"), ("foreign", "ValueError")])
def test_an_error_from_the_depths_of_others_is_no_sentence_for_users(functions, name, kind):
    with pytest.raises(child.Died, match=rf"^working failed: {kind}: ") as found:
        child.call(f"{functions}:{name}", {}, doing="working")
    assert "Traceback" in found.value.said


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_takes_the_other_process_along(functions, tmp_path):
    note = tmp_path / "pid"

    def interrupt():
        while not note.exists() or not note.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            child.call(f"{functions}:sleep", {"path": str(note)}, doing="sleeping")
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
