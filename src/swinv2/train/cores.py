"""How a CPU is shared between the network and the processes that prepare its pictures.

A step waits for its slowest thread. Where loader processes need the same processors, a network that has a thread on
each of them is held up by every picture that is decoded meanwhile: a small model at 128 pixels learnt 136 pictures a
second with one thread on two processors, and 85 with two (docs/log.md). The share follows from constants and not from
a measurement, because the number of threads decides the last digits of a sum: a run is the same each time.
"""

from __future__ import annotations

import os

from swinv2.config import SwinV2Config
from swinv2.counts import macs

PICTURE_SECONDS = 6e-3  # to decode and augment a photograph, on one processor
FLOPS = {"fp32": 1e11, "bf16": 1.5e11, "bf16_all": 1.5e11}  # that one processor reaches in training


def network_threads(config: SwinV2Config, precision: str, processors: int) -> int:
    """Threads of a network that trains on the processors which also prepare its pictures.

    Args:
        config: at the size that is trained at.
        processors: of this process, its loader included.
    """
    processors = max(processors, 1)
    step = 3 * 2 * macs(config) / FLOPS.get(precision, FLOPS["fp32"])  # backward takes twice the forward pass
    return max(1, min(processors, round(processors * step / (step + PICTURE_SECONDS))))


def is_decided() -> bool:
    """Whether the person who started the process has said how many threads there are."""
    return "OMP_NUM_THREADS" in os.environ
