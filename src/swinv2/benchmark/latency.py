"""What many timed runs say: percentiles, how well the median is known, and how many rounds would know it better.

Runs of one turn follow each other closely and resemble each other, so that the rounds are what is counted: the
interval is that of the median of the rounds, from their order alone (no normal distribution is supposed), and it
holds where another program takes the processors for less than half of the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

LEVEL = 0.95
FEWEST = 6  # rounds from which on there is an interval of that level


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one batch, by round.

    Args:
        batch: images.
        rounds: of each the times of its runs, one at least.
    """

    batch: int
    rounds: tuple[tuple[float, ...], ...]

    @property
    def runs(self) -> int:
        return sum(map(len, self.rounds))

    @property
    def p50(self) -> float:
        return percentile(self._every, 0.5)

    @property
    def p90(self) -> float | None:
        """None where there are too few runs to have a tenth of them."""
        return percentile(self._every, 0.9) if self.runs >= 10 else None

    @property
    def p99(self) -> float | None:
        """None where there are too few runs to have a hundredth of them."""
        return percentile(self._every, 0.99) if self.runs >= 100 else None

    @property
    def images_per_second(self) -> float:
        """Over all runs, the slow ones too."""
        return 1000 * self.batch * self.runs / sum(self._every)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the median lies, at a level of 95 %; None for less than six rounds."""
        found = interval(self.medians)
        return None if found is None else (min(found[0], self.p50), max(found[1], self.p50))

    @property
    def uncertainty(self) -> float | None:
        """Half of the interval, as a share of the median."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2 / self.p50

    @property
    def medians(self) -> list[float]:
        """Of each round."""
        return [median(runs) for runs in self.rounds]

    @property
    def _every(self) -> list[float]:
        return [ms for runs in self.rounds for ms in runs]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; of the runs the medians of the rounds remain."""
        low, high = self.interval or (None, None)
        return {
            "runs": self.runs,
            "p50_ms": self.p50,
            "p50_low_ms": low,
            "p50_high_ms": high,
            "p90_ms": self.p90,
            "p99_ms": self.p99,
            "images_per_second": self.images_per_second,
            "rounds_ms": self.medians,
        }


def percentile(values: Sequence[float], share: float) -> float:
    """Interpolated between neighbours, as numpy does by default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """The interval of a median by the sign test: the k-th smallest value to the k-th largest.

    A value lies below the true median as often as above it, so how many do is a toss of coins.
    """
    n, k, tail = len(values), 0, 0.0
    while 2 * (tail := tail + math.comb(n, k) / 2**n) <= 1 - level:
        k += 1  # fewer than k tosses out of n are heads less often than level allows
    if k == 0:
        return None
    ordered = sorted(values)
    return ordered[k - 1], ordered[n - k]


def ratio(these: Sequence[float], those: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """How many times as long these take as those, with its interval.

    Round by round: what slows a machine down for a while slows both, and their ratio stays.
    """
    found = [a / b for a, b in zip(these, those, strict=False)]
    return median(found), interval(found)


def rounds_for(share: float, rounds: int, reached: float) -> int:
    """How many rounds know the median to a share, where so many know it to another: the square decides."""
    return max(FEWEST, math.ceil(rounds * (reached / share) ** 2))
