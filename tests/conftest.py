"""Shared by all tests: few threads, small models, no network."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from swinv2.extras import share_processors

share_processors()  # before torch: on a busy machine the tests take a fraction of the time

import torch  # noqa: E402

from swinv2.config import SwinV2Config  # noqa: E402
from swinv2.model import SwinV2  # noqa: E402

torch.set_num_threads(2)
os.environ.pop("PYTHONUNBUFFERED", None)  # what a program reads from a command has to come without it

SMALL = SwinV2Config(
    architecture="small_for_tests", image_size=64, window=4, embed_dim=32, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8),
    num_classes=7,
)  # fmt: skip
# Every kind of layer there is, a shifted block and a merging among them, in a third of the time of four stages.
TWO_STAGES = replace(
    SMALL, architecture="two_stages_for_tests", depths=(2, 1), heads=(1, 2), pretrained_windows=(0, 0)
)


def randomized(model: SwinV2, seed: int = 0) -> SwinV2:
    """Weights that matter everywhere: fresh blocks are the identity, since their norms start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator).to(p)
            if name.endswith("logit_scale"):
                p.copy_(2.3 + noise)
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif "cpb_mlp" in name:
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise / p[0].numel() ** 0.5)
    return model


@pytest.fixture
def small() -> SwinV2:
    """A four-stage model of 32 channels for 64-pixel images, all of whose weights matter."""
    return randomized(SwinV2(SMALL)).eval()


@pytest.fixture(scope="module")
def quick_runs():
    """A variant of two blocks by name, one thread, and runs that draw nothing.

    Two threads wait for each other longer than such small products take, where others use the processors.
    """
    from training import SPECK

    from swinv2 import config, report
    from swinv2.train.shown import results

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
        patch.setattr(results, "write", lambda *_: None)
        patch.setattr(report, "save", lambda *_: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_process():
    """Exports of a module call what has a process of its own in this one (exports.one_process)."""
    from exports import one_process

    with one_process():
        yield


@pytest.fixture
def pretend(monkeypatch):
    """A format whose converter and runtime do as they are told (exports.Pretend), without other processes."""
    from exports import install_pretend

    return install_pretend(monkeypatch)
