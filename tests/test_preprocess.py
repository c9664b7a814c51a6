"""Preprocessing equals the official pipeline: torchvision's transforms on Pillow images, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as T

from swinv2 import preprocess
from swinv2.preprocess import ImageError, Preprocess

FILTERS = {"bicubic": T.InterpolationMode.BICUBIC, "bilinear": T.InterpolationMode.BILINEAR}


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def official(recipe: Preprocess) -> T.Compose:
    """What microsoft/Swin-Transformer composes for evaluation, without ToTensor and Normalize."""
    how = FILTERS[recipe.interpolation]
    if recipe.resize == "squash":
        return T.Compose([T.Resize(recipe.size, how)])
    return T.Compose([T.Resize(recipe.resize_to, how), T.CenterCrop(recipe.size)])


def differing(recipe: Preprocess, image: Image.Image) -> int:
    expected = np.asarray(official(recipe)(image)).reshape(*recipe.size, recipe.channels)
    return int((recipe.pixels(image) != expected).sum())


@st.composite
def recipes(draw: st.DrawFn) -> Preprocess:
    side = st.integers(1, 70)
    return Preprocess(
        size=(draw(side), draw(side)),
        resize=draw(st.sampled_from(["shorter", "squash"])),
        resize_to=draw(st.integers(1, 80)),  # often smaller than the crop, which is then padded
        interpolation=draw(st.sampled_from(["bicubic", "bilinear"])),
    )


@settings(deadline=None, max_examples=100, derandomize=True)
@given(recipe=recipes(), height=st.integers(1, 2000), width=st.integers(1, 2000), mode=st.sampled_from("RL"))
def test_pixels_equal_torchvision_at_any_size(recipe, height, width, mode):
    if mode == "L":
        recipe = Preprocess(
            recipe.size, recipe.resize, recipe.resize_to, recipe.interpolation, (0.5,), (0.5,)
        )
    image = noise(height, width, "L" if mode == "L" else "RGB", seed=height * 2003 + width)
    assert differing(recipe, image) == 0


@pytest.mark.parametrize("size", [192, 224, 256, 384])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (17, 900), (375, 500), (292, 292), (293, 1001), (1200, 801), (257, 384)]
)
def test_official_recipes_equal_torchvision(size, height, width):
    assert differing(Preprocess.official(size), noise(height, width)) == 0


@pytest.mark.parametrize(
    ("size", "expected"), [(192, (219, "shorter")), (256, (292, "shorter")), (224, (256, "shorter"))]
)
def test_official_recipe_scales_the_shorter_side(size, expected):
    recipe = Preprocess.official(size)
    assert (recipe.resize_to, recipe.resize) == expected


@pytest.mark.parametrize("size", [384, (256, 320)])
def test_official_recipe_squashes_large_and_oblong_inputs(size):
    assert Preprocess.official(size).resize == "squash"


def test_values_equal_to_tensor_and_normalize_to_the_last_bit():
    recipe = Preprocess(size=(16, 48), resize="squash")
    every_byte = np.arange(256 * 9, dtype=np.uint32).astype(np.uint8).reshape(16, 48, 3)
    image = Image.fromarray(every_byte)
    expected = T.Compose([T.ToTensor(), T.Normalize(recipe.mean, recipe.std)])(image)
    assert torch.equal(torch.from_numpy(recipe(image)), expected)


def test_tensor_is_float32_channels_first_and_contiguous():
    tensor = Preprocess.official(64)(noise(50, 80))
    assert (tensor.dtype, tensor.shape, tensor.flags.c_contiguous) == (np.float32, (3, 64, 64), True)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 700), (700, 1), (2, 301), (30, 31), (1, 2), (5, 5), (39, 400), (400, 39)]
)
def test_strips_are_computed_in_part_and_equal_the_whole(height, width, interpolation, monkeypatch):
    recipe = Preprocess(size=(48, 64), resize_to=40, interpolation=interpolation)  # 48 > 40: padded as well
    expected = np.asarray(official(recipe)(noise(height, width)))
    monkeypatch.setattr(preprocess, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(Image.Image, "resize", None)  # the whole is not computed
    assert int((recipe.pixels(noise(height, width)) != expected).sum()) == 0


def test_pictures_that_shrink_are_left_to_pillow(monkeypatch):
    monkeypatch.setattr(preprocess, "WHOLE_PIXELS", 0)
    assert differing(Preprocess(size=(30, 30), resize_to=40), noise(40, 90)) == 0
    assert differing(Preprocess(size=(30, 30), resize_to=40), noise(77, 50)) == 0


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1_000_000)])
def test_a_thin_strip_does_not_become_a_huge_picture(shape, monkeypatch):
    monkeypatch.setattr(Image.Image, "resize", None)
    assert Preprocess.official(256).pixels(noise(*shape)).shape == (256, 256, 3)


def test_grey_models_see_luminance():
    recipe = Preprocess.official(32, in_chans=1)
    colour = noise(40, 60)
    expected = T.Compose([T.Grayscale(), *official(recipe).transforms])(colour)
    assert np.array_equal(recipe.pixels(colour)[..., 0], np.asarray(expected))


def test_grey_normalisation_is_the_average_of_the_colours():
    recipe = Preprocess.official(32, in_chans=1)
    assert (*recipe.mean, *recipe.std) == pytest.approx((0.449, 0.226))


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_other_channel_counts_are_resized_channel_by_channel(channels):
    recipe = Preprocess.official(32, in_chans=channels)
    array = np.random.default_rng(0).integers(0, 256, (50, 41, channels), dtype=np.uint8)
    planes = [np.asarray(official(recipe)(Image.fromarray(array[..., c]))) for c in range(channels)]
    assert np.array_equal(recipe.pixels(array), np.stack(planes, axis=-1))
    assert recipe.load(array).shape == (channels, 32, 32)


def test_other_channel_counts_repeat_mean_and_std_in_turn():
    assert Preprocess.official(32, in_chans=4).mean == (0.485, 0.456, 0.406, 0.485)


def test_a_model_of_four_channels_refuses_pictures(tmp_path):
    with pytest.raises(ImageError, match=r"photo\.png is a str; a model of 4 channels takes numpy arrays"):
        Preprocess.official(32, in_chans=4).load("photo.png")


def test_a_picture_of_another_mode_is_converted_first():
    recipe = Preprocess.official(32)
    assert np.array_equal(recipe.pixels(noise(40, 40, "L")), recipe.pixels(noise(40, 40, "L").convert("RGB")))


def test_load_is_decoding_and_the_transform(tmp_path):
    recipe, image = Preprocess.official(64), noise(80, 90)
    image.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), image):
        assert np.array_equal(recipe.load(source), recipe(image))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": (0, 4)}, "at least 1 pixel"),
        ({"resize_to": 0}, "at least 1 pixel"),
        ({"resize": "crop"}, "shorter or squash"),
        ({"interpolation": "nearest"}, "bicubic or bilinear"),
        ({"mean": (0.5,)}, "per channel"),
        ({"std": (0.2, 0.2, 0.0)}, "std above 0"),
    ],
)
def test_impossible_records_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Preprocess(**fields)


def test_a_record_survives_json():
    import json

    recipe = Preprocess.official(384)
    assert Preprocess.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
