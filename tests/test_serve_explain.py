"""Where a model looked, asked of a server: the answer of `swinv2 explain`, from a process that the server can lose."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import Running, picture, serving, write_model

from swinv2 import export
from swinv2.explain import Explainer
from swinv2.serve import explaining
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.explaining import Explaining, Overlay, Question

WIDE = picture(4, (300, 90))
SECONDS = 300  # for a map: the first one waits for torch, on a machine that may be busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    write_model(root / "animals.safetensors")
    export(root / "animals.safetensors", to="onnx", output=root / "exported.onnx")
    return root


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Running]:
    models = folder / "animals.safetensors", folder / "exported.onnx"
    with serving(*models, "--no-grpc", "--timeout", str(SECONDS)) as running:
        yield running


def ask(server: Running, query: str, body: bytes = WIDE) -> tuple[dict, Image.Image]:
    request = urllib.request.Request(f"{server.http}/explain?{query}", body, {"content-type": "image/png"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        assert answer.headers["content-type"] == "image/webp"
        return json.loads(answer.headers["swinv2-explanation"]), Image.open(io.BytesIO(answer.read()))


def refusal(server: Running, query: str, body: bytes = WIDE) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, query, body)
    return error.value.code, json.loads(error.value.read())["error"]


@pytest.mark.parametrize("class_id", [None, 0, 6])
def test_the_map_is_the_one_of_explain(server, folder, class_id):
    explainer = Explainer(folder / "animals.safetensors", target=class_id, device="cpu", stage=3)
    expected = explainer(WIDE)  # stage 3 is the last one with 4 x 4 cells at 64 pixels
    told, image = ask(server, "model=animals" + ("" if class_id is None else f"&class_id={class_id}"))
    assert told["class_id"] == expected.class_id
    assert told["score"] == pytest.approx(expected.score, abs=1e-5)
    assert (told["is_empty"], told["is_whole"]) == (expected.is_empty, False)
    exact = np.asarray(expected.overlay(), np.float32)
    assert np.abs(np.asarray(image, np.float32) - exact).mean() < 3  # of 255: WebP is not exact
    assert np.abs(exact - np.asarray(Image.open(io.BytesIO(WIDE)), np.float32)).mean() > 20


def test_the_server_itself_never_loads_torch(server):
    ask(server, "model=animals")
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{process_of(server)}/maps").read_text()


def test_what_cannot_be_explained_is_a_sentence(server):
    assert refusal(server, "model=exported") == (
        501, "this model is an export, which has no gradients; serve the .safetensors file that it was made from",
    )  # fmt: skip
    code, sentence = refusal(server, "model=animals", b"no picture")
    assert code == 400
    assert sentence.startswith("the image")
    assert refusal(server, "model=animals&class_id=7") == (
        400, "class 7 is none of animals's; it has classes 0 to 6",
    )  # fmt: skip
    assert refusal(server, "model=animals&class_id=-1")[0] == 400
    assert refusal(server, "model=animals", b"") == (400, "the request has 0 pictures; send one")
    assert refusal(server, "model=ants")[0] == 404
    assert refusal(server, "")[0] == 400  # there are two models


def test_a_process_that_is_killed_is_started_again(server):
    told, _ = ask(server, "model=animals")
    os.kill(process_of(server), signal.SIGKILL)
    assert ask(server, "model=animals")[0] == told


def test_the_models_say_whether_they_can_be_asked(server):
    with urllib.request.urlopen(f"{server.http}/models") as answer:
        told = json.load(answer)
    rows = {row["name"]: row for row in told["models"]}
    assert rows["animals"] == {
        "name": "animals", "version": "1", "architecture": "small_for_tests", "runtime": rows["animals"]["runtime"],
        "device": "cpu", "precision": "fp32", "classes": 7, "input": [3, 64, 64], "not_explained": "",
    }  # fmt: skip
    assert rows["exported"]["not_explained"].startswith("this model is an export")
    assert told["limits"] == {"body_bytes": 64 << 20}


def process_of(server: Running) -> int:
    """The process of the server that has loaded torch."""
    (found,) = [pid for pid in server.children() if "libtorch" in Path(f"/proc/{pid}/maps").read_text()]
    return found


# ---------------------------------------------------------------------- the queue, without a process

QUESTION = Question("model.safetensors", "cpu", b"")
ANSWER = Overlay(b"webp", 0, 1.0, False, True)


def refused(work: asyncio.Future) -> Kind:
    why = work.exception()
    assert isinstance(why, Refused)
    return why.kind


def test_one_question_at_a_time_and_few_wait(monkeypatch):
    go, running, most = threading.Event(), [], []

    def answer(self: Explaining, question: Question, until: float) -> Overlay:
        running.append(question)
        most.append(len(running))
        assert go.wait(20)
        running.pop()
        return ANSWER

    async def run() -> None:
        monkeypatch.setattr(Explaining, "_answer", answer)
        desk = Explaining(20)
        asked = [asyncio.ensure_future(desk.ask(QUESTION)) for _ in range(explaining.WAITING + 3)]
        await asyncio.sleep(0.05)
        assert [refused(one) for one in asked if one.done()] == [Kind.BUSY] * 2
        gone = asked[explaining.WAITING]
        gone.cancel()  # a client that leaves makes room
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.append(asyncio.ensure_future(desk.ask(QUESTION)))
        go.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers.count(ANSWER) == explaining.WAITING + 1
        assert set(most) == {1}
        assert len(most) == explaining.WAITING + 1  # the one that left was not computed
        await desk.close()

    asyncio.run(run())


def test_an_answer_that_is_late_is_refused_and_its_process_ended(monkeypatch):
    """The process sleeps instead of answering; it must not keep the next question waiting."""
    monkeypatch.setattr(explaining, "_work", sleep_at_the_second)

    async def run() -> None:
        desk = Explaining(2.0)
        desk._thread.submit(desk._started).result()
        first = desk.pid
        begun = time.monotonic()
        with pytest.raises(Refused) as why:
            await desk.ask(QUESTION)
        assert why.value.kind is Kind.EXPIRED
        assert 1.9 < time.monotonic() - begun < 5
        await asyncio.sleep(0.3)
        assert desk.pid is None
        assert not Path(f"/proc/{first}").exists()
        await desk.close()

    asyncio.run(run())


def sleep_at_the_second(pipe) -> None:
    pipe.send_bytes(json.dumps({"result": None}).encode())
    time.sleep(60)


def test_the_process_ends_when_nobody_asks(monkeypatch):
    monkeypatch.setattr(explaining, "_work", answer_without_torch)
    monkeypatch.setattr(explaining, "IDLE_SECONDS", 0.5)

    async def run() -> None:
        desk = Explaining(20)
        assert await desk.ask(QUESTION) == ANSWER
        assert desk.pid is not None
        async with asyncio.timeout(20):
            while desk.pid is not None:
                await asyncio.sleep(0.02)
        assert await desk.ask(QUESTION) == ANSWER
        await desk.close()
        assert desk.pid is None

    asyncio.run(run())


def answer_without_torch(pipe) -> None:
    pipe.send_bytes(json.dumps({"result": None}).encode())
    try:
        while pipe.recv_bytes():
            pipe.recv_bytes()
            told = {name: value for name, value in vars(ANSWER).items() if name != "webp"}
            pipe.send_bytes(json.dumps({"result": told}).encode())
            pipe.send_bytes(ANSWER.webp)
    except EOFError:
        return


def test_without_torch_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(explaining, "find_spec", lambda name: None)
    assert "swinv2[torch]" in explaining.why_not("model.safetensors")

    async def run() -> None:
        desk = Explaining(20)
        with pytest.raises(Refused) as why:
            await desk.ask(QUESTION)
        assert why.value.kind is Kind.UNSUPPORTED
        await desk.close()

    asyncio.run(run())
