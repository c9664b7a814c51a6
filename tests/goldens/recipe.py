"""The deterministic weights and input that the figures in official_logits.json were computed with."""

from __future__ import annotations

import zlib

import numpy as np


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter by its official name, float32."""
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    noise = noise.astype(np.float32)
    if name.endswith("logit_scale"):
        return np.float32(2.302585) + np.float32(1.5) * noise
    if "norm" in name and name.endswith(".weight"):
        return np.float32(1) + np.float32(0.2) * noise
    if name.endswith("bias"):
        return np.float32(0.1) * noise
    if "cpb_mlp.0" in name:
        return np.float32(0.5) * noise
    if "cpb_mlp.2" in name:
        return np.float32(0.08) * noise
    return noise / np.float32(np.sqrt(np.prod(shape[1:])))


def image(size: int) -> np.ndarray:
    """[1, 3, size, size], already normalised."""
    return np.random.Generator(np.random.PCG64(7)).standard_normal((1, 3, size, size)).astype(np.float32)
