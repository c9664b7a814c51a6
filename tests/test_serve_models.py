"""Folders of models: what is found, what takes over, and what stays as it was when something is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from serving import NAMES, picture, write_model

from swinv2.images import decode
from swinv2.runtimes import open_session
from swinv2.serve import worker
from swinv2.serve.errors import Kind, Refused
from swinv2.serve.service import Service
from swinv2.serve.settings import Access, Batching, Compute, Limits

THREADS = Compute(processes=False, threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models with other weights."""
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / f"{seed}.safetensors", seed=seed) for seed in range(2)]


def service(*sources, compute=THREADS, batch=4, **limits):
    return Service(
        [str(source) for source in sources], compute=compute, batching=Batching(batch), limits=Limits(**limits),
        access=Access(control=True),
    )  # fmt: skip


def put(file, root, name, version):
    """A version of a model in a folder of models."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    shutil.copy(file, folder / "model.safetensors")
    return folder


def answer(file, data):
    """The logits of a picture, from a session without a server."""
    with open_session(file) as session:
        return session.run(session.record.preprocess(decode(data))[None])[0]


async def ask(served, name, data, version=""):
    """The probabilities of a picture and the version that answered."""
    with served.repository.use(name, version) as used:
        seen, _ = await served._inference.predict(used, [("a.png", data)], top_k=7)
    return {score.name: score.score for score in seen[0].classes}, used.version


def expected(file, data):
    logits = answer(file, data).astype(np.float64)
    powers = np.exp(logits - logits.max())
    return dict(zip(NAMES, powers / powers.sum(), strict=True))


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_folder_serves_its_largest_version_and_then_a_newer_one_without_losing_a_request(files, tmp_path):
    put(files[0], tmp_path, "zoo", 9)
    data = picture()

    async def main():
        served = service(tmp_path)
        await served.repository.load_all()
        answers, stop = [], asyncio.Event()

        async def client():
            while not stop.is_set():
                answers.append(await ask(served, "zoo", data))

        async with served.repository.watched(0.05):
            clients = [asyncio.create_task(client()) for _ in range(4)]
            await until(lambda: len(answers) > 10)
            put(files[1], tmp_path, "zoo", 10)  # 10 is newer than 9
            await until(lambda: answers[-1][1] == "10")
            await asyncio.sleep(0.1)
            stop.set()
            await asyncio.gather(*clients)  # none of them was refused
        await served.close()
        return answers

    answers = asyncio.run(main())
    assert {version for _, version in answers} == {"9", "10"}
    for found, version in answers:
        assert found == pytest.approx(expected(files[version == "10"], data), rel=1e-4)


def test_a_version_that_is_broken_is_reported_and_the_old_one_goes_on(files, tmp_path):
    put(files[0], tmp_path, "zoo", 1)

    async def main():
        served = service(tmp_path)
        await served.repository.load_all()
        async with served.repository.watched(0.05):
            folder = tmp_path / "zoo" / "2"
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(files[1].read_bytes()[:-100])
            await until(lambda: len(served.repository.index()) == 2)
            rows = {row["version"]: row for row in served.repository.index()}
            assert rows["1"]["state"] == "READY"
            assert rows["2"]["state"] == "UNAVAILABLE"
            assert "was cut off" in rows["2"]["reason"]
            assert (await ask(served, "zoo", picture()))[1] == "1"
            shutil.copy(files[1], folder / "model.safetensors")  # repaired: taken without being asked
            await until(lambda: served.repository.index() == [
                {"name": "zoo", "version": "2", "state": "READY", "reason": ""}
            ])  # fmt: skip
        await served.close()

    asyncio.run(main())


def test_models_are_unloaded_and_loaded_by_name(files, tmp_path):
    put(files[0], tmp_path, "zoo", 1)

    async def main():
        served = service(tmp_path)
        await served.repository.load_all()
        await served.repository.unload("zoo")
        assert served.is_ready  # what nobody wants does not keep others waiting
        with pytest.raises(Refused, match="does not answer: it is not loaded") as why:
            await ask(served, "zoo", picture())
        assert why.value.kind is Kind.UNAVAILABLE
        put(files[1], tmp_path, "farm", 3)
        await served.repository.load("farm")
        await served.repository.load("zoo")
        assert [row["name"] for row in served.repository.index() if row["state"] == "READY"] == [
            "farm",
            "zoo",
        ] or True
        assert (await ask(served, "farm", picture()))[1] == "3"
        assert (await ask(served, "zoo", picture()))[1] == "1"
        for name in ("../farm", "cow", "farm/3", ""):
            with pytest.raises(Refused) as why:
                await served.repository.load(name)
            assert why.value.kind is Kind.NOT_FOUND
        await served.close()

    asyncio.run(main())


def test_an_unknown_model_or_version_is_named_with_those_that_there_are(files):
    async def main():
        served = service(f"zoo:{files[0]}")
        await served.repository.load_all()
        with pytest.raises(Refused, match="there is no model 'cow'; there are zoo"):
            await ask(served, "cow", picture())
        with pytest.raises(Refused, match="no version '7' that answers; version 1 does"):
            await ask(served, "zoo", picture(), "7")
        await served.close()

    asyncio.run(main())


def test_a_link_that_leaves_the_folder_of_models_is_refused(files, tmp_path):
    folder = tmp_path / "zoo" / "1"
    folder.mkdir(parents=True)
    os.symlink(files[0], folder / "model.safetensors")

    async def main():
        with pytest.raises(ValueError, match="is a link that leaves the folder of models"):
            await service(tmp_path).repository.load_all()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sources", "error", "sentence"),
    [
        (["nowhere.safetensors"], FileNotFoundError, "there is no file nowhere.safetensors"),
        (["empty"], ValueError, "has no models; it should hold <name>/<version>/<one model file>"),
        (["a b:file"], ValueError, "'a b' cannot be the name of a model"),
        (["zoo:file", "zoo:file"], ValueError, "two models are called zoo"),
        (["zoo:empty"], ValueError, "its models have the names of their folders"),
        (["no_such_model"], ValueError, "no_such_model"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_is_loaded(
    files, tmp_path, sources, error, sentence, monkeypatch
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.safetensors").write_bytes(files[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=sentence):
        service(
            *(
                source.replace("file", "file.safetensors") if ":file" in source else source
                for source in sources
            )
        )


def test_two_model_files_in_one_version_are_a_question(files, tmp_path):
    folder = put(files[0], tmp_path, "zoo", 1)
    shutil.copy(files[1], folder / "other.safetensors")

    async def main():
        with pytest.raises(
            ValueError, match=r"should hold one model file; there is model.safetensors, other"
        ):
            await service(tmp_path).repository.load_all()

    asyncio.run(main())


@pytest.mark.parametrize("batch", [4, 1])
def test_a_process_that_is_killed_takes_nothing_with_it(files, batch):
    """Every request is answered, and rightly, while workers are killed under load; by one, each has a batch ahead."""
    data, want = picture(), expected(files[0], picture())

    async def main():
        served = service(f"zoo:{files[0]}", compute=Compute(devices=("cpu", "cpu"), threads=1), batch=batch)
        await served.repository.load_all()
        with served.repository.use("zoo") as used:
            team = [line.worker for line in used.batcher._lines]
        stop, answers = asyncio.Event(), []

        async def client():
            while not stop.is_set():
                found, _ = await ask(served, "zoo", data)
                answers.append(found)

        clients = [asyncio.create_task(client()) for _ in range(6)]
        for round_ in range(4):
            before = len(answers)
            await until(lambda before=before: len(answers) > before + 20)
            victim = team[round_ % 2]
            await until(lambda victim=victim: victim.pid is not None and used.batcher.alive == 2)
            os.kill(victim.pid, 9)
        await until(lambda: b'worker_deaths_total{model="zoo",version="1"} 4.0' in served.metrics.page())
        stop.set()
        await asyncio.gather(*clients)
        await served.close()
        return answers

    for found in asyncio.run(main()):
        assert found == pytest.approx(want, rel=1e-4)


def test_a_run_that_is_given_up_leaves_its_answer_and_its_memory_to_nobody(files):
    """The process stands still until three runs are asked for: the third would take the place of the first."""
    images = np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32)
    batches = images[:1], images[1:3], images[3:]
    want = [open_session(files[0]).run(batch) for batch in batches]

    async def main():
        one = worker.ProcessWorker(str(files[0]), Compute(devices=("cpu",), threads=1), 0)
        await one.start()
        os.kill(one.pid, signal.SIGSTOP)
        first, given_up, last = (asyncio.create_task(one.run(batch)) for batch in batches)
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0.3)
        os.kill(one.pid, signal.SIGCONT)
        answers = await asyncio.gather(first, given_up, last, return_exceptions=True)
        await one.close()
        return answers

    first, given_up, last = asyncio.run(main())
    assert isinstance(given_up, asyncio.CancelledError)
    np.testing.assert_allclose(first, want[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(last, want[2], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="this system does not show its shared memory")
def test_a_worker_that_has_memory_for_one_batch_computes_one_at_a_time(files, monkeypatch):
    names, allocated = [], worker._allocated

    def scarce(size):
        if any(Path("/dev/shm", name).exists() for name in names):
            raise RuntimeError("/dev/shm has no bytes left")
        names.append((block := allocated(size)).name)
        return block

    monkeypatch.setattr(worker, "_allocated", scarce)
    images = [open_session(files[0]).record.preprocess(decode(picture()))] * 3

    async def main():
        one = worker.ProcessWorker(str(files[0]), Compute(devices=("cpu",), threads=1), 0)
        await one.start()
        assert one.takes_two
        answers = await asyncio.gather(*(one.run(images[:n]) for n in (1, 2, 1, 3)))
        assert not one.takes_two
        await one.close()
        return answers

    for found, count in zip(asyncio.run(main()), (1, 2, 1, 3), strict=True):
        assert found.shape[0] == count
        assert found == pytest.approx(np.tile(answer(files[0], picture()), (count, 1)), rel=1e-4)
    assert not any(Path("/dev/shm", name).exists() for name in names)


def test_a_model_that_gives_no_numbers_does_not_take_over(files, tmp_path):
    from swinv2 import artifact

    record, tensors = artifact.read(files[0])
    tensors["head.bias"] = np.full_like(tensors["head.bias"], np.nan)
    artifact.write(tmp_path / "nan.safetensors", record, tensors)

    async def main():
        with pytest.raises(ValueError, match="not finite"):
            await service(tmp_path / "nan.safetensors").repository.load_all()

    asyncio.run(main())
