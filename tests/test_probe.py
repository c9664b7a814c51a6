"""The probe images: real pixels, any size, the same whoever asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL
from PIL import Image

from swinv2 import probe
from swinv2.artifact import Record
from swinv2.preprocess import Preprocess

RECORD = Record(SMALL, Preprocess.official(64))


def record(channels: int) -> Record:
    return Record(replace(SMALL, in_chans=channels), Preprocess.official(64, channels))


def test_the_first_image_is_the_corner_of_the_first_photograph():
    path = probe.resources.files(probe).joinpath(f"{probe.PHOTOGRAPHS[0]}.png")
    with path.open("rb") as file:
        corner = np.asarray(Image.open(file).convert("RGB"))[:64, :64] / 255
    mean, std = RECORD.preprocess.mean, RECORD.preprocess.std
    expected = ((corner - mean) / std).transpose(2, 0, 1)
    assert np.abs(probe.images(RECORD, 1)[0] - expected).max() < 1e-6


def test_more_images_start_with_the_same():
    assert np.array_equal(probe.images(RECORD, 7)[:2], probe.images(RECORD, 2))


def test_no_two_images_are_alike():
    images = probe.images(RECORD, 12).reshape(12, -1)
    alike = np.corrcoef(images) - np.eye(12)
    assert alike.max() < 0.999


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (700, 512)])
def test_any_size_is_filled_with_a_photograph(size):
    images = probe.images(RECORD, 2, size)
    assert images.shape == (2, 3, *size)
    assert images.dtype == np.float32
    assert images.std() > 0.3
    assert images[:, :, -8:, -8:].std() > 0.01  # mirrored to the last corner, not padded with a constant


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_any_number_of_channels(channels):
    assert probe.images(record(channels), 3).shape == (3, channels, 64, 64)


def test_grey_is_the_mean_of_the_colours():
    grey, colour = record(1), RECORD
    a = probe.images(grey, 1)[0, 0] * grey.preprocess.std[0] + grey.preprocess.mean[0]
    b = probe.images(colour, 1)[0].transpose(1, 2, 0) * colour.preprocess.std + colour.preprocess.mean
    assert np.abs(a - b.mean(-1)).max() < 1e-5
