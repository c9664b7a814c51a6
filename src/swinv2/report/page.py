"""report.html: one file that holds its pictures and asks nothing of the network.

A section that cannot be made says why in its place; nothing that goes wrong with one keeps the others from being
made.
"""

from __future__ import annotations

import os
from pathlib import Path

from swinv2 import console
from swinv2.report import markup
from swinv2.report.files import write_text
from swinv2.report.headline import header, headline
from swinv2.report.saved import Missing, Saved
from swinv2.report.sections import CLASSIFYING, LEARNING, SECTIONS, Options, Section

NAME = "report.html"


def write(
    run_folder: str | os.PathLike, *, data: str | os.PathLike | None = None, grad_cam: bool = True
) -> Path:
    """Make report.html from the files of a run; returns its path.

    Args:
        run_folder: folder with summary.json, metrics.jsonl, predictions.csv and so on. What is missing leaves
            a sentence in its section.
        data: where the pictures of the gallery are; default: where summary.json says they were.
        grad_cam: show where the model looked, beside each picture of the gallery.

    Raises:
        FileNotFoundError, ValueError: a folder that holds no run, or a damaged file, in one sentence.
        ImportError: matplotlib or scikit-learn is missing.
    """
    folder = Path(run_folder)
    saved = Saved.read(folder)
    options = Options(None if data is None else Path(data), grad_cam)
    write_text(folder / NAME, page(saved, options))
    return folder / NAME


def page(saved: Saved, options: Options) -> str:
    """The HTML text."""
    left_out = {"reconstruction"}
    if saved.is_pretraining or saved.is_evaluation:
        left_out = set(CLASSIFYING if saved.is_pretraining else LEARNING)
    sections = {name: row for name, row in SECTIONS.items() if name not in left_out}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
    parts = [
        header(saved, links),
        "<main>",
        _made("headline", lambda saved, _: headline(saved), saved, options),
    ]
    for name, (title, make) in sections.items():
        body = _made(title, make, saved, options)
        parts.append(f'<section id="{name}">\n<h2>{title}</h2>\n{body}\n</section>')
    parts += [
        "</main>",
        f"<footer><p>Made by swinv2 from the files in {markup.text(saved.folder.name)}.</p></footer>",
    ]
    return markup.document(saved.title, parts)


def _made(title: str, make: Section, saved: Saved, options: Options) -> str:
    try:
        return make(saved, options)
    except Missing as why:
        return markup.paragraph(str(why), "note")
    except ImportError:
        raise
    except Exception as error:  # whatever a plotting library makes of odd figures, the rest is worth having
        said = " ".join(f"{type(error).__name__}: {error}".split())
        console.stderr().print(f"report: the section {title!r} could not be made: {said}", markup=False)
        return markup.paragraph(f"This section could not be made: {said}", "note")
