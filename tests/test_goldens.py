"""Our logits are the official ones: figures of the official implementation, by its parameter names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens.recipe import image, weight

from swinv2.fold import fold
from swinv2.model import SwinV2, create_model

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "official_logits.json").read_text())
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}  # relative to the largest logit


def official(name: str, dtype: torch.dtype) -> SwinV2:
    model = create_model(name).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(torch.from_numpy(weight(key, tuple(p.shape))))
    return model.to(dtype)


def error(logits: torch.Tensor, golden: dict) -> float:
    y = logits[0].double().numpy()
    first = np.abs(y[:16] - golden["logits16"]).max() / np.abs(y).max()
    norm = abs(np.linalg.norm(y) - golden["logits_norm"]) / golden["logits_norm"]
    mean = abs(y.mean() - golden["logits_mean"]) / np.abs(y).max()
    return max(first, norm, mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", GOLDENS)
def test_logits_and_stages_are_official(name, dtype):
    golden, model = GOLDENS[name], official(name, dtype)
    x = torch.from_numpy(image(golden["img"])).to(dtype)
    with torch.inference_mode():
        logits = model(x)
        # The official stage ends with its patch merging.
        maps = [
            m if layer.downsample is None else layer.downsample(m)
            for layer, m in zip(model.layers, model.stage_outputs(x), strict=True)
        ]
    assert error(logits, golden) <= TOLERANCE[dtype]
    assert logits[0].argmax() == golden["argmax"]
    means = [m.abs().mean().item() for m in maps]
    assert means == pytest.approx(golden["stage_abs_mean"], rel=TOLERANCE[dtype])
    assert sum(p.numel() for p in model.parameters()) == golden["params"]


@pytest.mark.parametrize("backend", ["sdpa", "matmul"])
def test_every_fast_back_end_is_official(backend):
    name = "swinv2_tiny_window16_256"
    golden, model = GOLDENS[name], official(name, torch.float64)
    model.backend = backend
    with torch.inference_mode():
        assert error(model(torch.from_numpy(image(256)).double()), golden) <= 1e-9


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("name", GOLDENS)
def test_folded_logits_are_official(name, convolution, monkeypatch):
    monkeypatch.setattr("swinv2.linear.prefers_convolution", lambda x: convolution)
    golden = GOLDENS[name]
    folded = fold(official(name, torch.float32))
    with torch.inference_mode():
        assert error(folded(torch.from_numpy(image(golden["img"]))), golden) <= TOLERANCE[torch.float32]
