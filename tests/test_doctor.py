"""swinv2 doctor: what is broken is named, with its cure, and nothing that is broken can break the doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from swinv2 import cli, doctor, packages
from swinv2.verbs import Exit


def lay(folder: Path, name: str, version: str, code: str, *requires: str) -> None:
    """Install a package that is nothing but this code into a folder."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def run_doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "swinv2", "doctor", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
class backends: pass
get_num_threads = lambda: 2
"""


def test_a_torchvision_of_another_torch_is_named_with_its_cure(tmp_path):
    """What a machine has that offers a torch 2.13 of its own beside the torchvision of the index."""
    lay(tmp_path, "torch", "2.13.0+cpu", TORCH)
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    lay(tmp_path, "torchvision", "0.29.1", broken, "numpy", "torch==2.14.1")
    done = run_doctor("--json", PYTHONPATH=str(tmp_path))
    report = json.loads(done.stdout)
    found = {f["name"]: f for f in report["findings"] if f["topic"] == "packages"}
    assert (done.returncode, report["ok"]) == (Exit.FAILED, False)
    assert found["torchvision"]["status"] == "broken"
    assert found["torchvision"]["detail"].startswith(
        "torchvision 0.29.1 needs torch==2.14.1 and finds torch 2.13.0+cpu "
        "(RuntimeError: operator torchvision::nms does not exist"
    )
    assert found["torchvision"]["cure"] == 'pip install --upgrade "torch>=2.14" "torchvision>=0.29"'
    assert found["torch"]["detail"] == "2.13.0+cpu, and swinv2 needs >=2.14"
    runtime = next(f for f in report["findings"] if (f["topic"], f["name"]) == ("runtimes", "torch"))
    assert (runtime["status"], runtime["detail"]) == ("broken", "torch is broken, see packages")


def test_a_healthy_machine_is_healthy(capsys):
    assert cli.main(["doctor", "--json"]) == Exit.DONE
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["ok"], err) == (True, "")
    assert {f["status"] for f in report["findings"]} <= {"ok", "missing"}
    assert {f["topic"] for f in report["findings"]} == {
        "machine", "packages", "runtimes", "devices", "files", "network",
    }  # fmt: skip
    versions = {f["name"]: f["detail"] for f in report["findings"] if f["topic"] == "packages"}
    assert versions["torch"] == version("torch")
    assert versions["numpy"] == version("numpy")


def test_switches_that_are_set_are_shown_and_whether_they_are_on(monkeypatch):
    for name in doctor.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    assert list(doctor.switches()) == []
    monkeypatch.setenv("SWINV2_TRITON", "1")
    monkeypatch.setenv("SWINV2_CUDA_GRAPHS", "yes")
    assert [(found.name, found.detail) for found in doctor.switches()] == [
        ("SWINV2_TRITON", "on"),
        ("SWINV2_CUDA_GRAPHS", "off, since it is 'yes' and not 1"),
    ]


def test_the_report_is_for_people():
    findings = [
        doctor.Finding("machine", "python", "ok", "3.11"),
        doctor.Finding("packages", "timm", "missing", "not installed", 'pip install "swinv2[train]"'),
        doctor.Finding("packages", "torch", "broken", "2.13", "pip install torch"),
    ]
    lines = doctor._report(findings).splitlines()[1:]
    assert lines == [
        "",
        "machine",
        "  ok      python  3.11",
        "",
        "packages",
        '  missing timm    not installed -- pip install "swinv2[train]"',
        "  BROKEN  torch   2.13 -- pip install torch",
        "",
        "broken: torch",
    ]


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_a_package_that_takes_its_process_down_is_a_finding_and_the_others_are_still_tried(
    processes, tmp_path, monkeypatch
):
    (tmp_path / "bad_signal.py").write_text("import os; os.abort()")
    (tmp_path / "bad_exit.py").write_text("import os; os._exit(7)")
    (tmp_path / "bad_import.py").write_text("raise ValueError('two\\nlines')")
    (tmp_path / "chatty.py").write_text("print('{hello}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    modules = ["bad_signal", "chatty", "bad_exit", "bad_import", "json"]
    assert packages.probe(modules, processes) == {
        "bad_signal": {"error": "ends the process (exit code -6)"},
        "chatty": {},
        "bad_exit": {"error": "ends the process (exit code 7)"},
        "bad_import": {"error": "ValueError: two lines"},
        "json": {},
    }


def test_a_package_that_waits_for_ever_is_a_finding(tmp_path, monkeypatch):
    (tmp_path / "waits.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(packages, "PROBE_SECONDS", 1)
    assert packages.probe(["json", "waits"]) == {"json": {}, "waits": {"error": "is not imported after 1 s"}}


@pytest.mark.parametrize(
    ("package", "status", "detail", "cure"),
    [
        (packages.Package("nope", ">=1", "onnx"), "missing", "not installed", 'pip install "swinv2[onnx]"'),
        (packages.Package("nope", ">=1", ""), "broken", "not installed", 'pip install "nope>=1"'),
        (
            packages.Package("numpy", ">=99", ""),
            "broken",
            "and swinv2 needs >=99",
            'pip install --upgrade "numpy>=99"',
        ),
    ],
)
def test_what_is_optional_is_missing_and_what_is_needed_is_broken(package, status, detail, cure, monkeypatch):
    monkeypatch.setattr(packages, "wanted", lambda: {package.name: package})
    (finding,) = doctor.installed({})
    assert (finding.status, finding.cure) == (status, cure)
    assert detail in finding.detail


LEFT_OUT = {"wandb", "mnn", "tensorrt"}  # of the extra test; imported by the names that pip knows


def test_the_packages_are_those_of_pyproject():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(r for e, rows in extras.items() if e not in ("test", "dev") for r in rows),
    ]
    named = {canonicalize_name(Requirement(line).name) for line in lines} - {"swinv2"}
    assert set(packages.wanted()) == named
    for package in packages.wanted().values():
        if package.name in LEFT_OUT:
            assert package.module.lower() == package.name
        else:
            assert find_spec(package.module), f"{package.name} is not imported as {package.module}"
        assert not package.extra or package.extra in extras


@pytest.mark.parametrize(
    ("module", "cure"),
    [
        ("torch", 'pip install "swinv2[torch]"'),
        ("sklearn", 'pip install "swinv2[train]"'),
        ("PIL", 'pip install "pillow>='),
        ("unheard_of", ""),
    ],
)
def test_cure_is_the_smallest_extra_that_brings_a_module(module, cure):
    assert packages.cure(module).startswith(cure)
    assert bool(packages.cure(module)) == bool(cure)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nmodel name\t: AMD EPYC 9B45\nflags\t\t: fpu avx2 fma avx512f avx512_bf16 tsc\n",
            ("AMD EPYC 9B45", ("avx2", "fma", "avx512f", "avx512_bf16")),
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp bf16\nmodel name\t: Neoverse-V2\n",
            ("Neoverse-V2", ("asimd", "asimdhp", "asimddp", "bf16")),
        ),
    ],
    ids=["x86", "arm"],
)
def test_the_processor_is_read_from_linux(text, expected):
    assert doctor.processor(text) == expected


def test_the_processor_of_another_system_has_a_name():
    name, features = doctor.processor("")
    assert name
    assert features == ()


def test_a_folder_that_cannot_be_written_to_is_said_so(tmp_path):
    (tmp_path / "file").touch()
    assert doctor.unwritable(tmp_path / "new" / "folder") == ""
    assert doctor.unwritable(tmp_path / "file" / "folder") == f"cannot be made: {tmp_path / 'file'} is a file"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
