"""What a reader of a benchmark's figures must know, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swinv2.benchmark.latency import FEWEST, rounds_for
from swinv2.benchmark.pictures import Pictures
from swinv2.benchmark.result import Row

BUSY = 0.3  # share of the processors from which on other programs disturb
GOAL = 0.01  # how well medians should be known
MORE = 25  # times as many rounds as there were are no advice any more


def notes(
    rows: Sequence[Row], rounds: int, load: float | None, cores: int, compared: bool, pictures: Pictures
) -> Iterator[str]:
    """Of what is known how well, and of what was not measured.

    Args:
        load: programs that wanted a processor before it began.
        compared: whether there was something to compare answers with.
    """
    latencies = [latency for row in rows for latency in row.latency.values()]
    known = [latency.uncertainty for latency in latencies if latency.uncertainty is not None]
    if known:
        yield _known(max(known), rounds)
    elif latencies:
        yield f"too few rounds to tell how well medians are known; --rounds {FEWEST} tells, and more know them better"
    if load is not None and load > BUSY * cores:
        yield f"other programs used the processors before this began (load {load:g} on {cores}); trust ratios"
    if not compared and latencies:
        yield "answers were not compared: that needs the model itself and torch, or exports that swinv2 wrote"
    if pictures.why_no_labels:
        yield f"no accuracy: {pictures.why_no_labels}"
    if any(row.answers and row.answers.unanswered for row in rows):
        yield "pictures that could not be read, or whose answers are no numbers, count as wrong"


def _known(worst: float, rounds: int) -> str:
    known = f"all medians are known to within {worst:.1%} (95 % interval)"
    if worst <= GOAL:
        return known
    if (needed := rounds_for(GOAL, rounds, worst)) <= MORE * rounds:
        return f"{known}; --rounds {needed} would know them to {GOAL:.0%}"
    return f"{known}, which a quiet machine would mend sooner than more rounds"
