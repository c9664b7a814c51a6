"""PaddleClas: the file that is written has its names and layout, gives the same logits, and Paddle itself reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, TWO_STAGES, randomized
from exports import small_model, write_small

from swinv2 import checkpoints, pdparams, probe
from swinv2.artifact import ArtifactError
from swinv2.export import export
from swinv2.model import SwinV2
from swinv2.runtimes import open_session, paddle
from swinv2.runtimes.base import Options

PYTHON = os.environ.get("SWINV2_PADDLE_PYTHON", "")  # of an environment with paddlepaddle


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paddle")
    return export(write_small(folder / "model.safetensors"), "paddle")[0]


def test_the_logits_are_those_of_the_model(exported):
    assert [c.batch for c in exported.comparisons] == [1, 2, 7]
    assert max(c.error for c in exported.comparisons) < 1e-5


def test_names_and_layout_are_those_of_paddleclas(exported):
    """Official names; every matrix of a linear layer is [in, out]."""
    official, found = small_model().state_dict(), pdparams.read(exported.path)
    assert found.keys() >= official.keys()
    for name, tensor in official.items():
        is_linear = tensor.ndim == 2 and name.endswith(".weight")
        assert np.array_equal(found[name], (tensor.T if is_linear else tensor).numpy()), name


def test_a_session_says_what_it_is(exported):
    with open_session(exported.path, "paddle", device="cpu") as session:
        assert (session.runtime, session.precision, session.record.classes) == (
            "paddle",
            "fp32",
            tuple("abcdefg"),
        )


def test_the_record_beside_the_weights_names_architecture_and_classes(exported):
    """Without it nobody can say how many heads a new architecture has."""
    model = checkpoints.load(exported.path)
    assert model.config == TWO_STAGES
    assert model.record.classes == tuple("abcdefg")
    x = probe.images(model.record, 1)
    with torch.no_grad():
        exact = small_model()(torch.from_numpy(x)).numpy()
    with open_session(exported.path, device="cpu") as session:
        assert session.runtime == "torch"
        assert np.abs(session.run(x) - exact).max() < 1e-5 * np.abs(exact).max()


def test_two_exports_have_the_same_bytes(tmp_path):
    for name in ("a.pdparams", "b.pdparams"):
        paddle.export(small_model(), tmp_path / name, Options())
    assert (tmp_path / "a.pdparams").read_bytes() == (tmp_path / "b.pdparams").read_bytes()


def test_a_window_that_paddleclas_cannot_have_is_refused(tmp_path):
    oblong = ((4, 8), (0, 0), (0, 0), (0, 0))
    model = randomized(SwinV2(replace(SMALL, pretrained_windows=oblong))).eval()
    with pytest.raises(ValueError, match="PaddleClas cannot express small_for_tests"):
        paddle.export(model, tmp_path / "model.pdparams", Options())


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 a picture", None])
def test_files_that_hold_no_weights_are_refused(exported, tmp_path, content):
    for file in exported.path.parent.glob("model.pdparams*"):
        shutil.copy(file, tmp_path)
    path: Path = tmp_path / "model.pdparams"
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(ArtifactError, match=str(path)):
        open_session(path, "paddle", device="cpu")


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON, reason="set SWINV2_PADDLE_PYTHON to the python of an environment with paddlepaddle"
)
def test_paddle_reads_the_file_and_computes_the_first_block_with_it(exported, tmp_path):
    """paddle.load gives the tensors, and the first projection in Paddle's own layer gives torch's values."""
    x = np.random.default_rng(0).standard_normal((5, SMALL.embed_dim)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = f"""
import json, numpy, paddle
state = paddle.load({str(exported.path)!r})
layer = paddle.nn.Linear({SMALL.embed_dim}, {SMALL.embed_dim})
missing, unexpected = layer.set_state_dict({{n: state["layers.0.blocks.0.attn.proj." + n] for n in ("weight", "bias")}})
numpy.save({str(tmp_path / "y.npy")!r}, layer(paddle.to_tensor(numpy.load({str(tmp_path / "x.npy")!r}))).numpy())
shapes = {{name: list(tensor.shape) for name, tensor in state.items() if hasattr(tensor, "shape")}}
print(json.dumps({{"shapes": shapes, "left": [missing, unexpected]}}))
"""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["left"] == [[], []]
    assert found["shapes"]["layers.0.blocks.0.mlp.fc1.weight"] == [SMALL.embed_dim, 4 * SMALL.embed_dim]
    assert len(found["shapes"]) >= len(small_model().state_dict())
    proj = small_model().layers[0].blocks[0].attn.proj
    with torch.no_grad():
        assert np.allclose(np.load(tmp_path / "y.npy"), proj(torch.from_numpy(x)).numpy(), atol=1e-5)
