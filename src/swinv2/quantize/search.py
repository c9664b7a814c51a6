"""How many of the most sensitive layers have to stay in float: few tries, because each one converts and measures.

All in int8 first. Where that costs too much, ever more stay in float until it does not, and two tries more look for
fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

SHARES = (
    1 / 16,
    1 / 8,
    1 / 4,
    1 / 2,
)  # of the layers; with more than half in float a model is not int8 any more
REFINEMENTS = 2

T = TypeVar("T")


class Tried(Generic[T]):
    """What came of so many layers in float.

    Args:
        good: whether it costs no more than allowed.
    """

    def __init__(self, kept: int, found: T, *, good: bool):
        self.kept, self.found, self.good = kept, found, good


def fewest(layers: int, attempt: Callable[[int], Tried[T]]) -> list[Tried[T]]:
    """All tries in their order; the best is the good one with the fewest layers in float, if any is good.

    Args:
        layers: of the network.
        attempt: writes the model with so many in float, and measures it.
    """
    tried = [attempt(0)]
    for count in dict.fromkeys(max(1, round(share * layers)) for share in SHARES):
        if tried[-1].good:
            break
        tried.append(attempt(count))
    if not tried[-1].good or len(tried) == 1:
        return tried
    enough, too_few = tried[-1].kept, tried[-2].kept
    for _ in range(REFINEMENTS):
        if enough - too_few < 2:
            break
        between = (enough + too_few) // 2
        tried.append(attempt(between))
        enough, too_few = (between, too_few) if tried[-1].good else (enough, between)
    return tried


def best(tried: list[Tried[T]]) -> Tried[T] | None:
    """The good try with the fewest layers in float."""
    return min((one for one in tried if one.good), key=lambda one: one.kept, default=None)
