"""Any height and width: forty sizes, square and not, multiples of nothing, against the slow reference."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, randomized

from swinv2.config import SwinV2Config
from swinv2.model import SwinV2, create_model

SIZES = [
    (32, 32), (32, 33), (33, 32), (33, 33), (35, 61), (36, 100), (40, 40), (47, 53), (48, 48), (50, 75),
    (63, 65), (64, 64), (64, 96), (65, 64), (77, 91), (96, 97), (100, 100), (112, 112), (127, 129), (128, 40),
    (131, 67), (144, 99), (160, 160), (176, 144), (192, 192), (200, 125), (224, 224), (225, 224), (240, 135),
    (256, 256), (299, 299), (300, 33), (33, 1000), (320, 180), (333, 251), (384, 192), (512, 32), (512, 640),
    (1000, 33), (1536, 1536),
]  # fmt: skip


def wide() -> SwinV2:
    """Shallow, so that the loop over thousands of windows ends; every stage has a straight and a shifted block."""
    config = SwinV2Config(image_size=64, window=8, embed_dim=16, depths=(2, 2), heads=(1, 2),
                          pretrained_windows=(0, 0), num_classes=5)  # fmt: skip
    return randomized(SwinV2(config)).eval()


def test_there_are_forty_sizes():
    assert len(set(SIZES)) == 40
    assert min(map(min, SIZES)) == 32
    assert max(map(max, SIZES)) == 1536


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_any_size_equals_the_reference(size):
    model, x = wide(), torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        model.backend = "reference"
        expected = model(x)
        assert expected.isfinite().all()
        for backend in ("matmul", "sdpa"):
            model.backend = backend
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (50, 70), (33, 200), (160, 96), (127, 129)])
def test_four_stages_of_any_size_equal_the_reference(small, size):
    x = torch.randn(2, 3, *size)
    with torch.inference_mode():
        small.backend = "reference"
        expected = small(x)
        for backend in ("matmul", "sdpa"):
            small.backend = backend
            torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [96, 160, 256])
def test_a_size_seen_at_run_time_equals_a_model_built_for_it(size):
    """Where windows divide the grids: the same weights, built for 64 pixels and built for this size."""
    built = SwinV2Config(**SMALL.to_dict() | {"image_size": (size, size)})
    model, x = randomized(SwinV2(SMALL)).eval(), torch.randn(1, 3, size, size)
    other = SwinV2(built).eval()
    other.load_state_dict(model.state_dict())
    trained = SwinV2(SMALL.resized(size, window=4)).eval()
    trained.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(model(x), trained(x))
        if built.trained_windows == SMALL.trained_windows:
            assert torch.equal(model(x), other(x))


def test_one_model_serves_many_sizes_without_rebuilding():
    model = create_model("swinv2_pico", num_classes=3).eval()
    before = {n: p.data_ptr() for n, p in model.named_parameters()}
    with torch.inference_mode():
        for size in [(256, 256), (33, 65), (640, 96)]:
            assert model(torch.randn(1, 3, *size)).shape == (1, 3)
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == before
