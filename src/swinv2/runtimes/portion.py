"""How many images of a batch a CPU takes through the network at a time.

Whole batches leave the caches, and memory is slower than products. Many threads need more work at a time, and have
more caches.
"""

from __future__ import annotations

from swinv2.config import Pair, SwinV2Config

CACHED_VALUES = 4 << 20  # activations that are in the caches together (docs/log.md)


def images_at_a_time(config: SwinV2Config, size: Pair, threads: int) -> int:
    """For images of a size, with a number of threads that work together."""
    height, width = (-(-side // config.patch_size) for side in size)
    widest = int(config.mlp_ratio * config.embed_dim) * height * width  # values of an image in the first MLP
    return max(1, CACHED_VALUES // widest, threads // 2)
