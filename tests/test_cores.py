"""How a training run on a CPU shares its processors with its loader."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swinv2.config import VARIANTS
from swinv2.train.cores import is_decided, network_threads

PICO, LARGE = VARIANTS["swinv2_pico_window8_256"], VARIANTS["swinv2_large_window12to16_192to256"]


@pytest.mark.parametrize("processors", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("config", [PICO, LARGE], ids=["pico", "large"])
def test_there_is_a_thread_and_none_too_many(config, processors):
    assert 1 <= network_threads(config, "fp32", processors) <= processors


def test_a_small_model_leaves_processors_to_its_pictures_and_a_large_one_does_not():
    small = replace(PICO, image_size=(128, 128))
    assert network_threads(small, "bf16", 2) == 1  # measured: 136 pictures a second, 85 with two threads
    assert network_threads(LARGE, "bf16", 2) == 2
    assert network_threads(small, "bf16", 16) < network_threads(LARGE, "bf16", 16) == 16


def test_what_the_environment_says_is_kept(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert not is_decided()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert is_decided()
