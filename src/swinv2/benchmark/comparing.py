"""Two runs of a benchmark beside each other: what became faster, what slower, and what is only noise.

The interval of a ratio is that of its two medians. A machine is another one tomorrow, though, and no interval of one
run can know that. Contenders that are the same in both runs, to the last bit of their files and the versions of what
runs them, have a true ratio of 1: what they show instead is the noise between the runs, and nothing counts as changed
that does not stand out of it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinv2.artifact import ArtifactError
from swinv2.runtimes import RUNTIMES

WITH_OUR_CODE = (
    "torch",
    "engine",
)  # the network is code of ours, not of the file: another commit is another contender


@dataclass(frozen=True)
class Change:
    """One contender at one batch.

    Args:
        ratio: new time over old; low, high: its interval, None where a run had too few rounds.
        is_same: whether file, versions and settings are those of the other run.
    """

    label: str
    batch: int
    old_ms: float
    new_ms: float
    low: float | None
    high: float | None
    is_same: bool

    @property
    def ratio(self) -> float:
        return self.new_ms / self.old_ms

    def verdict(self, noise: float | None) -> str:
        """In words.

        Args:
            noise: largest ratio, above 1, of what is the same in both runs; None where nothing is.
        """
        if self.is_same:
            return "the same: noise"
        if self.low is None or self.high is None:
            return "too few rounds to say"
        if self.low <= 1 <= self.high or (noise is not None and max(self.ratio, 1 / self.ratio) <= noise):
            return "inside the noise"
        return f"{1 / self.ratio:.2f} x as fast" if self.ratio < 1 else f"{self.ratio:.2f} x as slow"


@dataclass(frozen=True)
class Changes:
    """All that two runs have in common, and what a reader must know."""

    changes: tuple[Change, ...]
    others: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def noise(self) -> float | None:
        """The largest ratio, above 1, of contenders that are the same in both runs."""
        return max((max(c.ratio, 1 / c.ratio) for c in self.changes if c.is_same), default=None)

    def table(self) -> list[tuple[str, ...]]:
        """Cells; the first line is the head."""
        rows: list[tuple[str, ...]] = [
            ("contender", "batch", "old ms", "new ms", "new / old", "interval", "verdict")
        ]
        for c in self.changes:
            between = "" if c.low is None or c.high is None else f"{c.low:.3f} to {c.high:.3f}"
            times = (f"{c.old_ms:.2f}", f"{c.new_ms:.2f}", f"{c.ratio:.3f}")
            rows.append((c.label, str(c.batch), *times, between, c.verdict(self.noise)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "noise": self.noise,
            "latency": [
                {"contender": c.label, "batch": c.batch, "old_ms": c.old_ms, "new_ms": c.new_ms, "ratio": c.ratio,
                 "low": c.low, "high": c.high, "is_same": c.is_same, "verdict": c.verdict(self.noise)}
                for c in self.changes
            ],
            "others": list(self.others),
            "notes": list(self.notes),
        }  # fmt: skip


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What --output wrote.

    Raises:
        FileNotFoundError, ArtifactError: there is no such file, or it is something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("benchmark") != 1:
        raise ArtifactError(f"{path} holds no figures of `swinv2 benchmark`; --output writes such a file")
    return found


def compare_runs(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    """What changed from one run to another, of contenders with the same label.

    Raises:
        ArtifactError: the runs have nothing in common.
    """
    before = {row["label"]: row for row in old["contenders"]}
    after = {row["label"]: row for row in new["contenders"]}
    changes, others = [], []
    for label in [label for label in after if label in before]:
        a, b = before[label], after[label]
        same = identity(a, old) == identity(b, new)
        for batch in [batch for batch in b["batches"] if batch in a["batches"]]:
            changes.append(_change(label, int(batch), a["batches"][batch], b["batches"][batch], same))
        others.append({"contender": label, **{key: [_of(a, key), _of(b, key)] for key in OTHERS}})
    if not changes:
        raise ArtifactError("the two runs have no contender and batch in common that ran in both")
    found = Changes(tuple(changes), tuple(others), ())
    return Changes(found.changes, found.others, tuple(_notes(found, old, new)))


OTHERS = {  # other figures: where they are, how much they may differ without being mentioned
    "size":      (("bytes",), 0.0),
    "load":      (("load_ms",), 0.5),
    "first":     (("first_ms",), 0.5),
    "error":     (("compared", "error"), 0.5),
    "accuracy":  (("data", "accuracy"), 0.0),
    "agreement": (("data", "agreement"), 0.0),
}  # fmt: skip


def _of(row: dict[str, Any], key: str) -> float | None:
    found: Any = row
    for name in OTHERS[key][0]:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _change(label: str, batch: int, a: dict[str, Any], b: dict[str, Any], same: bool) -> Change:
    ratio = b["p50_ms"] / a["p50_ms"]
    bounds = [one[key] for one in (a, b) for key in ("p50_low_ms", "p50_high_ms")]
    if None in bounds:
        return Change(label, batch, a["p50_ms"], b["p50_ms"], None, None, same)
    # Independent of each other: the squares of what the logarithms are uncertain by add up, on each side.
    down = math.hypot(math.log(a["p50_high_ms"] / a["p50_ms"]), math.log(b["p50_ms"] / b["p50_low_ms"]))
    up = math.hypot(math.log(a["p50_ms"] / a["p50_low_ms"]), math.log(b["p50_high_ms"] / b["p50_ms"]))
    return Change(label, batch, a["p50_ms"], b["p50_ms"], ratio * math.exp(-down), ratio * math.exp(up), same)


def identity(row: dict[str, Any], run: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a contender the same in two runs."""
    package = RUNTIMES[row["runtime"]].package if row["runtime"] in RUNTIMES else ""
    versions = run["versions"]
    ours = (versions.get("swinv2"), run["commit"]) if row["runtime"] in WITH_OUR_CODE else ()
    return (
        row["sha256"] or row["path"], row["runtime"], row["device"], row["precision"], versions.get(package), *ours,
        run["settings"]["threads"], run["machine"]["cpu"],
    )  # fmt: skip


def _notes(found: Changes, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the runs besides times."""
    notes = []
    if found.noise is None:
        notes.append(
            "no contender is the same in both runs, so that a change of the machine cannot be told from one of the "
            "models; put old and new into one run, `swinv2 benchmark old.onnx new.onnx`, to be sure"
        )
    else:
        notes.append(
            f"noise between the runs: what is the same in both differs by up to {found.noise - 1:.1%}"
        )
    for what in ("cpu", "cores"):
        if old["machine"].get(what) != new["machine"].get(what):
            notes.append(f"{what}: {old['machine'].get(what)} before, {new['machine'].get(what)} now")
    for what in ("threads", "rounds", "device"):
        if old["settings"][what] != new["settings"][what]:
            notes.append(f"{what}: {old['settings'][what]} before, {new['settings'][what]} now")
    for name in sorted(old["versions"].keys() | new["versions"].keys()):
        a, b = old["versions"].get(name, "absent"), new["versions"].get(name, "absent")
        if a != b:
            notes.append(f"{name}: {a} before, {b} now")
    if old["commit"] != new["commit"]:
        notes.append(f"commit: {old['commit']} before, {new['commit']} now")
    for row in found.others:
        for key, (_, tolerance) in OTHERS.items():
            a, b = row[key]
            if a is not None and b is not None and abs(b - a) > tolerance * max(abs(a), abs(b)):
                notes.append(f"{row['contender']}: {key} {_plain(a)} before, {_plain(b)} now")
    labels = [{row["label"] for row in run["contenders"] if row["batches"]} for run in (old, new)]
    for which, missing in (("old", labels[0] - labels[1]), ("new", labels[1] - labels[0])):
        if missing:
            notes.append(f"only in the {which} run: {', '.join(sorted(missing))}")
    return notes


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
