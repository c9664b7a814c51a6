"""The top of the page: what was trained on what, how it ended, and the figures that people ask for first."""

from __future__ import annotations

import time
from typing import Any

from swinv2.metrics import wilson
from swinv2.report import learning, markup
from swinv2.report.saved import Missing, Saved

Tile = tuple[str, str]  # a figure, and what it is

MULTI_LABEL = {"f1_micro": "F1, all answers", "exact": "pictures with all classes right"}


def header(saved: Saved, links: str) -> str:
    """Title, how the run ended, links to the sections."""
    summary = saved.summary
    status = summary.get("status", "")
    kind = "done" if status == "done" else "other"
    badge = f' <span class="status {kind}">{markup.text(status)}</span>' if status else ""
    facts = []
    if count := len(saved.classes):
        facts.append(f"{count:,} classes")
    if images := summary.get("train_images"):
        facts.append(f"{images:,} pictures to learn from")
    if recipe := saved.recipe.get("name"):
        facts.append(f"recipe {recipe}")
    if device := summary.get("device"):
        facts.append(f"{'measured' if saved.is_evaluation else 'trained'} on {device}")
    newest = max(path.stat().st_mtime for path in saved.folder.iterdir() if path.is_file())
    facts.append(time.strftime("%Y-%m-%d", time.gmtime(newest)))
    return (
        f"<header>\n<h1>{markup.text(saved.title)}</h1>\n"
        f'<div class="quiet">{markup.text(", ".join(facts))}{badge}</div>\n<nav>{links}</nav>\n</header>'
    )


def headline(saved: Saved) -> str:
    """The tiles."""
    return markup.tiles(main_figure(saved), [*quality(saved), *effort(saved)])


def main_figure(saved: Saved) -> Tile | None:
    """What a run is known by: right answers with their interval, mean average precision, or the loss."""
    held_out: dict[str, Any] = saved.summary.get("held_out", {})
    images, correct = held_out.get("images"), held_out.get("correct")
    if "map" in held_out:
        return f"{held_out['map']:.2f} %", f"mean average precision on {images or 0:,} held-out pictures"
    if saved.answers:
        images, correct = len(saved.answers), sum(row["label"] == row["prediction"] for row in saved.answers)
    if images and correct is not None:
        low, high = (100 * end for end in wilson(correct, images))
        said = f"top-1: {correct:,} of {images:,} held-out pictures; 95 % interval {low:.1f} to {high:.1f} %"
        return f"{100 * correct / images:.2f} %", said
    if not saved.epochs:
        return None
    best, key = learning.best_epoch(saved.epochs), learning.score_key(saved.epochs)
    if key:
        return f"{best[key]:.2f} %", f"held out, in epoch {best['epoch']}"
    return f"{best['loss']:.4f}", f"lowest held-out loss, in epoch {best['epoch']}"


def quality(saved: Saved) -> list[Tile]:
    """Other figures of the held-out pictures, as far as they are known."""
    held_out: dict[str, Any] = saved.summary.get("held_out", {})
    found = [(f"{held_out[key]:.2f} %", what) for key, what in MULTI_LABEL.items() if key in held_out]
    for key, value in held_out.items():
        k = int(key[3:]) if key.startswith("top") and key[3:].isdigit() else 0
        if 1 < k < len(saved.classes):  # all classes contain the right one
            found.append((f"{value:.2f} %", f"top-{k}"))
    try:
        rows = saved.per_class()
        found.append((f"{sum(row['f1'] for row in rows) / len(rows):.2f} %", "F1, mean over the classes"))
        if not saved.is_multi_label:
            found.append((f"{saved.measured.ece:.2f} %", "calibration error (ECE)"))
    except Missing:
        pass  # the sections say why
    if (loss := held_out.get("loss")) is not None and not saved.is_pretraining:
        found.append((f"{loss:.4f}", "held-out loss"))
    return found


def effort(saved: Saved) -> list[Tile]:
    """What it took."""
    summary, found = saved.summary, []
    if epoch := summary.get("best_epoch"):
        found.append((f"{epoch} of {summary.get('epochs', epoch)}", "best epoch"))
    if rates := [row["images_per_second"] for row in saved.epochs if row.get("images_per_second")]:
        found.append((f"{sum(rates) / len(rates):,.0f}", "training pictures per second"))
    elif rate := summary.get("held_out", {}).get("images_per_second"):
        found.append((f"{rate:,.0f}", "pictures per second"))
    if count := summary.get("parameters"):
        found.append((f"{count / 1e6:.1f} M", "parameters"))
    if seconds := summary.get("seconds"):
        found.append((lasted(seconds), "for the whole run"))
    return found


def lasted(seconds: float) -> str:
    """For people: 42 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
