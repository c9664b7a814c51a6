"""The engine gives the answers of the official implementation and of the torch model, and refuses in words."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, randomized
from exports import small_model, write_small
from goldens.recipe import image, weight

import swinv2
from swinv2 import artifact, runtimes
from swinv2.artifact import ArtifactError, Record
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.runtimes import RUNTIMES, Unsupported, engine, open_session
from swinv2.runtimes.engine import EngineSession

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "official_logits.json").read_text())
SETS = (
    "avx512_amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2",
    "neon_i8mm", "neon_bf16", "neon_dot", "neon", "reference",
)  # fmt: skip
LIMITS = {"fp32": 1e-5, "bf16": 4e-2, "int8": 8e-2}  # of the largest logit, for the small model


def has(instructions: str, precision: str) -> str | None:
    """Why this processor cannot; None where it can."""
    library = engine.library()
    if library.swinv2_check(engine._settings(precision, None, instructions)) == 0:
        return None
    return library.swinv2_last_error().decode()


def need(instructions: str, precision: str) -> None:
    if why := has(instructions, precision):
        pytest.skip(why)


def random_images(batch: int, height: int = 64, width: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, channels, height, width)).astype(np.float32)


def by_torch(model: SwinV2, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.double()(torch.from_numpy(images).double()).numpy()


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def save(model: SwinV2, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    config = model.config
    record = model.record or Record(config, Preprocess.official(config.image_size, config.in_chans))
    artifact.write(path, record, {name: t.to(dtype) for name, t in model.state_dict().items()})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("engine") / "model.safetensors", config=SMALL)


# ---------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", GOLDENS)
def test_logits_and_stages_are_official(name, tmp_path):
    golden, config = GOLDENS[name], VARIANTS[name]
    tensors = {key: weight(key, shape) for key, shape in parameter_shapes(config).items()}
    artifact.write(
        tmp_path / "m.safetensors", Record(config, Preprocess.official(config.image_size)), tensors
    )
    with EngineSession(tmp_path / "m.safetensors") as session:
        found = session.trace(image(golden["img"]))
    logits = found["logits"].astype(np.float64)
    assert np.abs(logits[:16] - golden["logits16"]).max() <= 1e-4 * np.abs(logits).max()
    assert np.linalg.norm(logits) == pytest.approx(golden["logits_norm"], rel=1e-4)
    assert abs(logits.mean() - golden["logits_mean"]) <= 1e-4 * np.abs(logits).max()
    assert logits.argmax() == golden["argmax"]
    stages = [f"stage{i + 1}" for i in range(len(config.depths))]
    stages[-1] += f".block{config.depths[-1]}"  # ends without patch merging
    means = [np.abs(found[stage]).mean() for stage in stages]
    assert means == pytest.approx(golden["stage_abs_mean"], rel=1e-4)


def test_every_intermediate_is_that_of_torch(path):
    model, expected = small_model(config=SMALL), {}

    def keep(name, *, of=lambda arguments, output: output):
        def hook(module, arguments, output):
            expected[name] = of(arguments, output)[0].numpy()

        return hook

    model.patch_embed.register_forward_hook(keep("embed"))
    for i, layer in enumerate(model.layers, 1):
        for j, block in enumerate(layer.blocks, 1):
            block.register_forward_hook(keep(f"stage{i}.block{j}"))
        if layer.downsample is not None:
            layer.downsample.register_forward_hook(keep(f"stage{i}"))
    model.norm.register_forward_hook(keep("norm"))
    model.head.register_forward_hook(keep("pooled", of=lambda arguments, output: arguments[0]))
    images = random_images(1, 72, 53)
    with torch.inference_mode():
        expected["logits"] = model(torch.from_numpy(images))[0].numpy()
    with EngineSession(path) as session:
        found = session.trace(images)
    assert list(found) == list(expected)
    errors = {name: error(found[name], expected[name]) for name in expected}
    assert {name: value for name, value in errors.items() if value > 1e-5} == {}
    assert {name: map.shape for name, map in found.items()} == {n: m.shape for n, m in expected.items()}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("instructions", SETS)
def test_every_set_of_instructions_gives_the_logits(path, instructions, precision):
    need(instructions, precision)
    images = random_images(2, 64, 96)
    exact = by_torch(small_model(config=SMALL), images)
    with EngineSession(path, precision=precision, instructions=instructions) as session:
        assert (session.precision, session.instructions) == (precision, instructions)
        found = error(session.run(images), exact)
    assert found <= LIMITS[precision]
    assert precision == "fp32" or found > 1e-5  # really less precise


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [
        (1, 64, 64), (7, 64, 64), (1, 1, 1), (2, 33, 65), (1, 64, 640), (3, 127, 36), (1, 300, 333), (40, 32, 32),
    ],
)  # fmt: skip
def test_any_batch_and_size_equal_torch(path, batch, height, width):
    images = random_images(batch, height, width)
    with EngineSession(path) as session:
        assert error(session.run(images), by_torch(small_model(config=SMALL), images)) <= LIMITS["fp32"]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 0}, {"in_chans": 1}, {"in_chans": 5}, {"extra_norm_period": 1}, {"patch_size": 3},
        {"window": 7}, {"image_size": (48, 80)}, {"pretrained_windows": (6, 6, 6, 3)}, {"mlp_ratio": 1.5},
        {"depths": (1, 3), "heads": (1, 4), "pretrained_windows": (0, 0)}, {"num_classes": 1}, {"heads": (2, 2, 1, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_every_architecture_equals_torch(changes, tmp_path):
    model = randomized(SwinV2(replace(SMALL, **changes))).eval()
    images = random_images(2, 61, 90, model.config.in_chans)
    with EngineSession(save(model, tmp_path / "m.safetensors")) as session:
        assert error(session.run(images), by_torch(model, images)) <= 3e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_every_type_are_read(dtype, tmp_path):
    model, images = small_model(config=SMALL), random_images(2)
    with EngineSession(save(model, tmp_path / "m.safetensors", dtype)) as session:
        found = session.run(images)
    assert error(found, by_torch(model.to(dtype), images)) <= LIMITS["fp32"]


def test_images_of_a_batch_do_not_touch_each_other(path):
    images = random_images(9)
    with EngineSession(path) as session:
        together = session.run(images)
        assert error(together, np.concatenate([session.run(one[None]) for one in images])) <= 1e-6
        images[4] = np.nan
        spoilt = session.run(images)
    assert np.isnan(spoilt[4]).all()
    assert np.array_equal(np.delete(spoilt, 4, 0), np.delete(together, 4, 0))


def test_logits_do_not_depend_on_memory_layout(path):
    images = random_images(3)
    with EngineSession(path) as session:
        backwards = np.ascontiguousarray(images[..., ::-1])[..., ::-1]
        assert np.array_equal(session.run(backwards), session.run(images))


# ---------------------------------------------------------------------- threads and sessions


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_number_of_threads_gives_the_same(path, threads):
    images = random_images(5, 40, 72)
    with EngineSession(path, threads=threads) as session, EngineSession(path, threads=1) as one:
        assert session.threads == threads
        assert error(session.run(images), one.run(images)) <= 1e-6


def test_threads_of_python_share_a_session(path):
    images = [random_images(1, 32 + i, 64) for i in range(8)]
    with EngineSession(path, threads=2) as session:
        expected, found = [session.run(one) for one in images], {}

        def work(i):
            found[i] = session.run(images[i])

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert all(np.array_equal(found[i], expected[i]) for i in range(len(images)))


def test_two_sessions_do_not_know_of_each_other(path, tmp_path):
    other, images = write_small(tmp_path / "other.safetensors", seed=1, config=SMALL), random_images(2)
    with EngineSession(path) as first:
        expected = first.run(images)
        with EngineSession(other) as second:
            assert error(second.run(images), by_torch(small_model(1, SMALL), images)) <= LIMITS["fp32"]
            assert np.array_equal(first.run(images), expected)
        assert np.array_equal(first.run(images), expected)


def test_memory_is_given_back(path):
    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory is used")
    images = random_images(1, 512, 512)
    for round in range(14):
        session = EngineSession(path)
        session.run(images)
        del session  # closed or not
        gc.collect()
        if round == 5:
            before = used()
    assert used() - before < 16 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own(path):
    program = """
import os, sys
import numpy as np
from swinv2.runtimes.engine import EngineSession
session = EngineSession(sys.argv[1], threads=3)
x = np.ones((1, 3, 64, 64), np.float32)
whole = session.run(x)
child = os.fork()
same = np.array_equal(session.run(x), whole)
if child == 0:
    session.close()
    os._exit(0 if same else 1)
sys.exit(os.waitpid(child, 0)[1] or not same)
"""
    done = subprocess.run([sys.executable, "-c", program, os.fspath(path)], timeout=60)
    assert done.returncode == 0


# What leaves room for the stacks of some threads; what gives a user, who is not root, no thread beside the first.
LIMITS_OF_THREADS = {
    "stacks": """
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), hard))
""",
    "processes": """
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if os.getuid() == 0:
    os.setuid(65534)
""",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these limits are kept by Linux")
@pytest.mark.parametrize("limit", LIMITS_OF_THREADS)
def test_more_threads_than_the_system_gives_are_refused(path, limit):
    """In one sentence; those that were started have ended, and one still works."""
    program = """
import os, resource, sys, time
import numpy as np
from pathlib import Path
from swinv2.runtimes import Unsupported
from swinv2.runtimes.engine import EngineSession
EngineSession(sys.argv[1], threads=1).close()  # loads all there is to load
exec(sys.argv[2])
def threads():  # there now and later: the system lists a thread for a moment after its end
    found = set(os.listdir("/proc/self/task"))
    time.sleep(0.2)
    return len(found & set(os.listdir("/proc/self/task")))
before = threads()
try:
    EngineSession(sys.argv[1], threads=1024)
except Unsupported as error:
    print(error)
for _ in range(25):
    if (left := threads() - before) <= 0:
        break
print(left)
with EngineSession(sys.argv[1], threads=1) as session:
    print(np.isfinite(session.run(np.ones((1, 3, 64, 64), np.float32))).all())
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the folders of pytest are closed to whom the program becomes
        model = shutil.copy(path, folder)
        done = subprocess.run(
            [sys.executable, "-c", program, model, LIMITS_OF_THREADS[limit]],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, left, works = done.stdout.splitlines()
    sentence = r"the system gives no more than (\d+) threads, and 1024 were asked for; give fewer"
    given = re.fullmatch(sentence, refused)
    assert given, refused
    assert 1 <= int(given[1]) < 1024
    assert (left, works) == ("0", "True")


def test_a_closed_session_says_so(path):
    session = EngineSession(path)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="the session is closed"):
        session.run(random_images(1))


# ---------------------------------------------------------------------- opening and refusing


def test_a_session_says_what_it_is(path):
    with open_session(path, "engine", threads=2) as session:
        assert (session.runtime, session.device, session.precision) == ("engine", "cpu", "fp32")
        assert (session.record, session.threads) == (artifact.read_record(path), 2)
        assert session.instructions in SETS
        assert 0 < session.weight_bytes <= 1.1 * path.stat().st_size


def test_auto_on_a_cpu_is_the_engine(path):
    assert open_session(path, device="cpu").runtime == "engine"
    assert open_session(path, device="cpu", precision="fp16").runtime == "torch"


def test_what_the_engine_cannot_run_goes_to_torch(tmp_path):
    config = SwinV2Config(image_size=32, window=4, embed_dim=24, depths=(1, 1), heads=(2, 2),
                          pretrained_windows=(0, 0), num_classes=3)  # fmt: skip
    odd = save(randomized(SwinV2(config)), tmp_path / "odd.safetensors")
    assert open_session(odd, device="cpu").runtime == "torch"
    with pytest.raises(
        ValueError, match="stage 1 has 24 channels in heads of 12; the engine runs heads of 16"
    ):
        open_session(odd, "engine")


def test_files_of_other_libraries_go_to_torch(tmp_path):
    from safetensors.torch import save_file

    theirs = tmp_path / "theirs.safetensors"
    save_file(small_model(config=SMALL).state_dict(), theirs)
    with pytest.raises(
        ValueError, match=r"engine opens the model files of swinv2, and .* is none; `swinv2 convert`"
    ):
        open_session(theirs, "engine")
    with pytest.raises(ArtifactError):  # which cannot know the architecture either, but was asked
        open_session(theirs, device="cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp16"}, "engine computes in fp32, bf16, int8, not in 'fp16'"),
        ({"device": "cuda"}, "engine runs on cpu, not on 'cuda'"),
        ({"threads": 2000}, "threads is 2000; give 1 to 1024"),
    ],
)
def test_impossible_options_are_refused(path, options, words):
    with pytest.raises(ValueError, match=words):
        open_session(path, "engine", **options)


def test_a_precision_that_the_processor_lacks_is_refused(path):
    for instructions in SETS:
        if not has(instructions, "fp32") and has(instructions, "bf16"):
            with pytest.raises(
                Unsupported, match=f"the {instructions} instructions have no products of bf16"
            ):
                EngineSession(path, precision="bf16", instructions=instructions)
            return
    pytest.skip("every set of instructions here has bf16")


def test_unknown_instructions_are_refused_with_those_that_are_there(path):
    with pytest.raises(
        Unsupported, match=r'instructions are "sse"; this processor and build have .*reference'
    ):
        EngineSession(path, instructions="sse")


@pytest.mark.parametrize(
    "shape", [(1, 1, 64, 64), (3, 64, 64), (1, 3, 0, 64), (0, 3, 64, 64)], ids=lambda s: "x".join(map(str, s))
)
def test_images_of_another_shape_are_refused(path, shape):
    with (
        EngineSession(path) as session,
        pytest.raises(ValueError, match=r"this model takes \[batch, 3, height, width\]"),
    ):
        session.run(np.zeros(shape, np.float32))


def test_trace_takes_one_image(path):
    with EngineSession(path) as session, pytest.raises(ValueError, match="trace takes one image"):
        session.trace(random_images(2))


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.safetensors"):
        open_session("nowhere.safetensors", "engine")


def test_a_wrong_bit_is_found(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    (tmp_path / "wrong.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged: its weights do not have the hash it records"):
        open_session(tmp_path / "wrong.safetensors", "engine")


def test_a_file_that_was_cut_off_is_refused(path, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match="was cut off"):
        open_session(tmp_path / "cut.safetensors", "engine")


def test_a_published_name_is_its_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("SWINV2_HOME", str(tmp_path))
    name = "swinv2_tiny_window8_256"
    write_small(tmp_path / f"{name}.ms_in1k.safetensors", config=SMALL)
    with open_session(name, "engine") as session:
        assert session.record.config == SMALL


@pytest.mark.parametrize("content", [None, b"no library"], ids=["missing", "wrong"])
def test_a_library_that_is_not_there_is_said_with_the_cure(content, tmp_path, monkeypatch):
    monkeypatch.setenv(engine.VARIABLE, str(tmp_path / "libswinv2.so"))
    if content:
        (tmp_path / "libswinv2.so").write_bytes(content)
    engine.library.cache_clear()
    try:
        why = RUNTIMES["engine"].unsupported()
        expected = (
            "cannot be used" if content else "SWINV2_ENGINE is .* no such file; give the library or unset"
        )
        with pytest.raises(ValueError, match=expected) as raised:
            open_session("m.safetensors", "engine")
        assert str(raised.value) == why
    finally:
        engine.library.cache_clear()


def test_an_engine_that_was_not_built_names_the_cure(monkeypatch):
    monkeypatch.setattr(engine, "_places", list)
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    engine.library.cache_clear()
    try:
        assert "needs a C++17 compiler (Debian: apt-get install g++)" in RUNTIMES["engine"].unsupported()
        assert runtimes.choose("m.safetensors", device="cpu").name == "torch"
    finally:
        engine.library.cache_clear()


# ---------------------------------------------------------------------- as part of the package


def test_the_library_has_the_version_of_the_package():
    assert engine.library().swinv2_build().decode().split()[0] == swinv2.__version__


def test_the_package_holds_the_library():
    places = [Path(folder, name) for folder in swinv2.__path__ for name in engine.NAMES]
    if not any(place.exists() for place in places):
        pytest.skip("swinv2 runs from its source folder here, without being installed")
    code = "from swinv2.runtimes.engine import unsupported; print(unsupported('cpu', 'fp32'))"
    environment = {name: value for name, value in os.environ.items() if name != engine.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "None"


def test_prediction_needs_no_torch(path, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(tmp_path / "photo.png")
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "transformers"]))
from swinv2 import Predictor
predictor = Predictor({str(path)!r})
print(predictor.session.runtime, predictor({str(tmp_path / "photo.png")!r}).top.name in "abcdefg")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["engine", "True"]
