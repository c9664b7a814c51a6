"""What a score is worth: does a model that says 90 % turn out right nine times in ten?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swinv2.metrics import BINS, Measurement, reliability
from swinv2.report.style import HELD_OUT, LINE, QUIET, TRAIN, WRONG, label, panel, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_panel(measured: Measurement) -> Figure:
    """Accuracy by score, beside the diagonal of a model that knows how sure it may be."""
    figure, axes = panel(f"Reliability: calibration error (ECE) {measured.ece:.2f} %", grid="both")
    answered = measured.is_answered
    rows = reliability(measured.scores[answered], measured.is_correct[answered])
    x = np.array([(row["low"] + row["high"]) / 2 for row in rows])
    right, said = (np.array([row[key] for row in rows]) for key in ("accuracy", "confidence"))
    width = 0.9 / BINS
    axes.bar(x, right, width, color=HELD_OUT, alpha=0.85, label="share that is right")
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls="--")
    axes.hlines(said, x - width / 2, x + width / 2, color=WRONG, lw=3, label="mean score")
    axes.set(xlim=(0, 1), ylim=(0, 1.18))  # room for the legend
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    label(axes, "score of the answer", "share of answers that are right")
    return figure


def scores_panel(measured: Measurement) -> Figure:
    """How often the model is how sure, when it is right and when it is wrong."""
    figure, axes = panel("Scores of right and of wrong answers")
    answered = measured.is_answered
    scores, correct = measured.scores[answered], measured.is_correct[answered]
    axes.hist(
        [scores[correct], scores[~correct]], bins=20, range=(0, 1), stacked=True, rwidth=0.92,
        color=[HELD_OUT, WRONG], label=["right", "wrong"],
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    whole(axes, "y")
    label(axes, "score of the answer", "pictures")
    return figure


def coverage_panel(measured: Measurement) -> Figure:
    """What asking a person about the least sure answers would bring."""
    figure, axes = panel("Accuracy of the surest answers (%)")
    share, accuracy = coverage(measured)
    axes.plot(100 * share, 100 * accuracy, color=HELD_OUT, lw=2)
    axes.axhline(100 * accuracy[-1], color=LINE, lw=1)
    at = max(0, round(0.8 * len(share)) - 1)
    axes.plot(100 * share[at], 100 * accuracy[at], "o", ms=6, color=HELD_OUT)
    low = float(100 * accuracy[max(0, len(accuracy) // 20) :].min())  # the first few answers are noise
    low = min(low, 95.0)
    axes.set(xlim=(0, 101), ylim=(max(0, low - 0.35 * (100 - low) - 1), 100.8))
    axes.text(
        0.03, 0.05, f"surest 80 %: {100 * accuracy[at]:.1f} % right\nall: {100 * accuracy[-1]:.1f} % right",
        transform=axes.transAxes, va="bottom", fontsize=9.5, color=HELD_OUT, fontweight="bold",
    )  # fmt: skip
    label(axes, "share of pictures that are answered (%)")
    return figure


def threshold_panel(measured: Measurement) -> Figure:
    """What a lowest score would do to the share of answers, and to how many of them are right."""
    figure, axes = panel("Answers above a score (%)")
    share, accuracy = coverage(measured)
    scores = np.sort(measured.scores)[::-1]
    axes.step(scores, 100 * share, where="pre", color=TRAIN, lw=1.6, label="pictures answered")
    axes.step(scores, 100 * accuracy, where="pre", color=HELD_OUT, lw=2, label="of them right")
    axes.set(xlim=(0, 1), ylim=(0, 118))
    axes.set_yticks(range(0, 101, 20))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    label(axes, "lowest score")
    return figure


def coverage(measured: Measurement) -> tuple[np.ndarray, np.ndarray]:
    """(share of pictures answered, accuracy among them), by falling score."""
    order = np.argsort(-measured.scores, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), np.cumsum(measured.is_correct[order]) / count
