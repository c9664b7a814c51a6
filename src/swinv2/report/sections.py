"""The sections of a report: what each is made of, and the table of them, from top to bottom.

A section is a function of the saved files; it raises Missing with a sentence where they do not suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swinv2.report import classes, confidence, errors, gallery, learning, markup, speed
from swinv2.report.saved import Missing, Saved

MANY = 50  # classes above which the most confused pairs are shown beside the matrix
PAIRS = 15


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Args:
        data: where the pictures are; None for where summary.json says.
        grad_cam: whether the gallery shows where the model looked.
    """

    data: Path | None = None
    grad_cam: bool = True


def learnt(saved: Saved, options: Options) -> str:
    epochs, steps = saved.epochs, saved.steps
    if not epochs:
        raise Missing("There are no epochs in metrics.jsonl.")
    first, last, key = epochs[0], epochs[-1], learning.score_key(epochs)
    best = learning.best_epoch(epochs)
    has_train = any(row.get("train_loss") is not None for row in epochs)
    caption = (
        "Training figures are those of augmented pictures, and often the worse ones." if has_train else ""
    )
    alt = f"Held-out loss {first['loss']:.3f} after the first epoch, {last['loss']:.3f} after the last"
    figures = [markup.plot(learning.loss_panel(epochs, steps), alt, caption)]
    if key:
        said = f"best {best[key]:.2f} % in epoch {best['epoch']}"
        alt = f"Held-out {key} {first[key]:.2f} % after the first epoch, {said}"
        figures.append(
            markup.plot(learning.score_panel(epochs), alt, f"{said.capitalize()} of {last['epoch']}.")
        )
    figures.append(markup.plot(learning.rate_panel(epochs, steps), "Learning rate over the epochs"))
    if any(row.get("grad_norm") is not None for row in steps):
        figures.append(
            markup.plot(learning.gradient_panel(epochs, steps), "Norm of the gradient over the epochs")
        )
    return markup.plots(figures)


def confused(saved: Saved, options: Options) -> str:
    measured = saved.measured
    count = len(measured.present)
    parts = [
        markup.plot(
            errors.confusion(measured, f"{saved.title}: true and predicted classes"),
            f"Confusion matrix of {count} classes, {measured.correct} of {measured.images} pictures right",
            "Rows are true classes, columns what was answered; blue is right, orange wrong.",
            wide=True,
        )
    ]
    pairs = errors.confused(measured, PAIRS)
    if not pairs:
        parts.append(markup.paragraph("No picture was taken for another class."))
    elif len(measured.classes) > MANY:
        parts.append("<h3>The most confused pairs</h3>")
        true, said, number, share = pairs[0]
        alt = f"The most frequent mistake: {true} taken for {said}, {number} pictures, {100 * share:.0f} % of the class"
        parts.append(markup.plot(errors.pairs_panel(measured, PAIRS), alt, wide=True))
    else:
        rows = [(true, said, number, 100 * share) for true, said, number, share in pairs[:8]]
        parts.append("<h3>The most confused pairs</h3>")
        parts.append(markup.table(("class", "taken for", "pictures", "% of the class"), rows))
    return "\n".join(parts)


def per_class(saved: Saved, options: Options) -> str:
    rows = saved.per_class()
    key = classes.judged_by(rows)
    worst = min(rows, key=lambda row: row[key])
    parts = [
        markup.plot(
            classes.per_class_panels(rows),
            f"{key} of each class; the lowest is {worst[key]:.1f} % for {worst['class']}",
            wide=True,
        )
    ]
    if len(rows) > classes.SHOWN:
        parts.append(
            markup.plots(
                [
                    markup.plot(classes.spread_panel(rows), f"How many classes have which {key}"),
                    markup.plot(
                        classes.support_panel(rows), f"{key} of the classes by number of held-out pictures"
                    ),
                ]
            )
        )
    columns = {"class": "class", "images": "pictures", "accuracy": "accuracy %", "recall": "recall %",
               "precision": "precision %", "f1": "F1 %"}  # fmt: skip
    shown = [name for name in columns if name in rows[0]]
    body = [[row[name] for name in shown] for row in rows]
    parts.append("<h3>All classes</h3>" + markup.table([columns[name] for name in shown], body))
    return "\n".join(parts)


def calibrated(saved: Saved, options: Options) -> str:
    measured = saved.measured
    if saved.is_multi_label or not measured.is_answered.any():
        raise Missing("No picture has an answer with a score.")
    answered = measured.is_answered
    gap = 100 * float(measured.scores[answered].mean() - measured.is_correct[answered].mean())
    which = "surer than it may be" if gap > 0 else "less sure than it may be"
    said = (
        f"On average the model says {100 * measured.scores[answered].mean():.1f} % and is right in "
        f"{100 * measured.is_correct[answered].mean():.1f} % of the pictures: it is {which} by {abs(gap):.1f} points. "
        f"The expected calibration error (ECE, {confidence.BINS} bins) is {measured.ece:.2f} %."
    )
    share, accuracy = confidence.coverage(measured)
    at = max(0, round(0.8 * len(share)) - 1)
    figures = [
        markup.plot(
            confidence.reliability_panel(measured),
            f"Reliability diagram, expected calibration error {measured.ece:.2f} %",
            "A bar that ends at its orange mark belongs to a model that knows how sure it may be.",
        ),
        markup.plot(confidence.scores_panel(measured), "Histogram of scores of right and of wrong answers"),
        markup.plot(
            confidence.coverage_panel(measured),
            f"Accuracy of the surest 80 % of answers: {100 * accuracy[at]:.1f} %",
            "What remains right where the least sure answers are left to a person.",
        ),
        markup.plot(
            confidence.threshold_panel(measured),
            "Share of pictures that are answered, and accuracy among them, by the lowest score that counts",
            "For choosing the score from which on an answer is taken.",
        ),
    ]
    return markup.paragraph(said) + markup.plots(figures)


def shown(saved: Saved, options: Options) -> str:
    found = gallery.gallery(saved, options.data, grad_cam=options.grad_cam)
    parts = []
    if any(exhibit.map_uri for exhibit in (*found.mistakes, *found.hardest)):
        parts.append(
            markup.paragraph(
                "Beside each picture, what speaks for the answer (Grad-CAM): bright where most does.", "quiet"
            )
        )
    if found.mistakes:
        parts.append("<h3>Confident mistakes: wrong, with the highest score</h3>")
        parts.append(markup.exhibits(found.mistakes))
    else:
        parts.append(markup.paragraph("No answer is wrong."))
    if found.hardest:
        parts.append("<h3>Hardest of the others: the highest loss</h3>" + markup.exhibits(found.hardest))
    parts += [markup.paragraph(note, "note") for note in found.notes]
    return "\n".join(parts)


def augmented(saved: Saved, options: Options) -> str:
    path = saved.folder / "augmented.png"
    if not path.exists():
        raise Missing("There is no augmented.png, the first training batch as the network saw it.")
    return markup.picture(path.read_bytes(), "A batch of training pictures after augmentation")


def reconstructed(saved: Saved, options: Options) -> str:
    png = (saved.folder / "reconstruction.png").read_bytes()
    return markup.picture(png, "Held-out pictures, what was hidden of them, and what the model made of it")


def distribution(saved: Saved, options: Options) -> str:
    train, held_out = saved.counts()
    if len(saved.classes) != len(train):
        raise Missing("summary.json counts other classes than it names.")
    largest, smallest = max(train), min(train)
    names = saved.classes
    said = (
        f"{sum(train):,} to learn from and {sum(held_out):,} held out. The most frequent class, "
        f"{names[train.index(largest)]}, has {largest:,} to learn from, the rarest, "
        f"{names[train.index(smallest)]}, {smallest:,}."
    )
    figure = markup.plot(
        classes.distribution_panel(names, train, held_out), f"Pictures of each class: {said}", wide=True
    )
    return markup.paragraph(said) + figure


def timed(saved: Saved, options: Options) -> str:
    steps = saved.steps or speed.by_step(saved.epochs)
    if not steps:
        raise Missing("There are no steps in metrics.jsonl.")
    figures, parts = [], []
    if found := speed.shares(steps):
        parts.append(markup.paragraph(speed.sentence(found)))
        alt = ", ".join(f"{what} {100 * found[key]:.0f} %" for key, (what, _) in speed.PARTS.items())
        figures.append(markup.plot(speed.time_panel(steps), f"Time of a step: {alt}"))
    rates = [row["images_per_second"] for row in steps if row.get("images_per_second")]
    if rates:
        alt = f"Pictures per second, {sum(rates) / len(rates):,.0f} on average"
        figures.append(markup.plot(speed.throughput_panel(steps), alt))
    memory = max((row.get("memory_mb") or 0 for row in steps), default=0)
    if memory:
        parts.append(markup.paragraph(f"At most {memory:,.0f} MB of memory were in use.", "quiet"))
    return "\n".join(parts) + markup.plots(figures)


def circumstances(saved: Saved, options: Options) -> str:
    summary, parts = saved.summary, []
    found = {"device": summary.get("device")} | summary.get("environment", {}) | summary.get("versions", {})
    if found := {name: value for name, value in found.items() if value is not None and name != "versions"}:
        parts.append("<h3>Environment</h3>" + markup.facts(found))
    if run := {what: summary[name] for name, what in RUN.items() if summary.get(name) not in (None, [])}:
        parts.append("<h3>The run</h3>" + markup.facts(run))
    if saved.recipe:
        parts.append("<h3>Recipe</h3>" + markup.facts(saved.recipe))
    if not parts:
        raise Missing("There is neither a summary.json nor a recipe.yaml.")
    if (saved.folder / gallery.BEST).exists():
        best = saved.folder / gallery.BEST
        commands = f"swinv2 evaluate {best} {saved.data or 'DATA'}\nswinv2 predict PICTURES --model {best}"
        if saved.is_pretraining:
            commands = f"swinv2 train LABELLED --model {best} --recipe simmim_finetune"
        parts.append(f"<h3>How to go on</h3><pre>{markup.text(commands)}</pre>")
    return "\n".join(parts)


RUN = {
    "parameters": "parameters", "batch": "pictures a step", "learning_rate": "highest learning rate",
    "steps_per_epoch": "steps an epoch", "steps": "steps", "epochs": "epochs", "skipped_steps": "skipped steps",
    "unreadable": "unreadable pictures", "diverged_on": "diverged on",
}  # fmt: skip

Section = Callable[[Saved, Options], str]

SECTIONS: dict[str, tuple[str, Section]] = {
    # anchor    title                        what makes it
    "learning": ("How it learnt",            learnt),
    "confusion": ("What is taken for what",  confused),
    "classes":  ("Class by class",           per_class),
    "calibration": ("How far to trust a score", calibrated),
    "gallery":  ("The worst mistakes",       shown),
    "reconstruction": ("What it completed",  reconstructed),
    "batch":    ("What it was shown",        augmented),
    "data":     ("Pictures of each class",   distribution),
    "time":     ("Where the time went",      timed),
    "recipe":   ("Environment and recipe",   circumstances),
}  # fmt: skip
CLASSIFYING = ("confusion", "classes", "calibration", "gallery", "data")  # no part of a pre-training
LEARNING = ("learning", "reconstruction", "batch", "data", "time")  # no part of an evaluation
