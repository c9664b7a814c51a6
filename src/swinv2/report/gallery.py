"""The pictures that a model got most wrong, small enough to be put into a page, and where it looked."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinv2 import images
from swinv2.report.saved import Missing, Saved

if TYPE_CHECKING:
    from PIL import Image

    from swinv2.data import Split

SHOWN = 12  # pictures of each kind
SIDE = 220  # pixels of the longer side
TINY = 64  # pixels up to which a picture is shown pixel by pixel
SECONDS = 90.0  # for all maps together; a large model on a CPU takes seconds for one
BEST = "best.safetensors"


@dataclass(frozen=True)
class Exhibit:
    """A picture and what was said about it.

    Args:
        uri, map_uri: the picture, and the same under its Grad-CAM map, as data URIs; empty where there is none.
        width, height: in pixels, as it is stored in the page.
    """

    file: str
    label: str
    prediction: str
    score: float
    loss: float
    uri: str
    map_uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """Exhibits of both kinds, and what has to be said about them."""

    mistakes: list[Exhibit]
    hardest: list[Exhibit]
    notes: list[str]


def choose(saved: Saved) -> tuple[list[int], list[int]]:
    """(wrong answers with the highest score, other pictures with the highest loss), as positions in answers."""
    saved.require_answers()
    score, loss = (np.array([row[key] for row in saved.answers]) for key in ("score", "loss"))
    wrong = np.array([row["label"] != row["prediction"] for row in saved.answers])
    answered = np.array([row["prediction"] != "" or saved.is_multi_label for row in saved.answers])
    by_score = np.argsort(-score, kind="stable")
    mistakes = [int(i) for i in by_score if wrong[i] and answered[i]][:SHOWN]
    by_loss = np.argsort(-np.nan_to_num(loss, nan=-1), kind="stable")
    taken = set(mistakes)
    hardest = [int(i) for i in by_loss if not np.isnan(loss[i]) and int(i) not in taken][:SHOWN]
    return mistakes, hardest


def gallery(saved: Saved, data: Path | None, *, grad_cam: bool = True) -> Gallery:
    """The exhibits of a run.

    Raises:
        Missing: no answers, or no pictures.
    """
    mistakes, hardest = choose(saved)
    split, position = _pictures(saved, data, [saved.answers[i]["file"] for i in (*mistakes, *hardest)])
    notes: list[str] = []
    explainer = _explainer(saved, notes) if grad_cam else None
    if explainer is None and not notes:
        notes.append("Grad-CAM maps were not asked for.")
    deadline = time.perf_counter() + SECONDS
    exhibits: list[list[Exhibit]] = []
    for chosen in (mistakes, hardest):
        exhibits.append([])
        for i in chosen:
            answer = saved.answers[i]
            try:
                given = split.read(position[answer["file"]])
                picture = images.decode(given, name=answer["file"])
            except (OSError, ValueError) as error:
                notes.append(f"{answer['file']} is not shown: {error}.")
                continue
            if explainer and time.perf_counter() > deadline:
                explainer = None
                notes.append(
                    f"Maps take long on this machine: after {SECONDS:.0f} seconds there are no more."
                )
            under = explainer(given).overlay(SIDE) if explainer else None
            exhibits[-1].append(_exhibit(answer, picture, under))
    return Gallery(exhibits[0], exhibits[1], notes)


def data_uri(data: bytes, kind: str) -> str:
    """A file inside of a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _exhibit(answer: dict[str, Any], picture: Image.Image, under: Image.Image | None) -> Exhibit:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return Exhibit(
        file=answer["file"], label=answer["label"], prediction=answer["prediction"], score=answer["score"],
        loss=answer["loss"], uri=_encoded(small), map_uri=_encoded(under) if under else "",
        width=small.width, height=small.height,
    )  # fmt: skip


def _encoded(picture: Image.Image) -> str:
    """Tiny pictures as they are, others as JPEG."""
    file = io.BytesIO()
    if max(picture.size) <= TINY:
        picture.save(file, "PNG")
        return data_uri(file.getvalue(), "image/png")
    picture.save(file, "JPEG", quality=85)
    return data_uri(file.getvalue(), "image/jpeg")


def _pictures(saved: Saved, data: Path | None, files: Sequence[str]) -> tuple[Split, dict[str, int]]:
    """The part of the data set that has the files, and where in it each is."""
    from swinv2.data import DataError, read_split

    root = data or saved.data
    if root is None:
        raise Missing("summary.json does not say where the pictures are; --data FOLDER does.")
    problem = ""
    for name in dict.fromkeys((saved.summary.get("held_out_split"), None, "test", "train")):
        try:
            split = read_split(root, name)
        except (OSError, DataError) as error:
            problem = problem or str(error)
            continue
        position = {file: i for i, file in enumerate(split.names)}
        if all(file in position for file in files):
            return split, position
    why = problem or f"{root} does not have the pictures of predictions.csv"
    raise Missing(f"The pictures are not here ({why}); --data FOLDER says where they are.")


def _explainer(saved: Saved, notes: list[str]) -> Any:
    """What makes Grad-CAM maps, or None with the reason in notes."""
    if not (saved.folder / BEST).exists():
        notes.append(f"There are no Grad-CAM maps, since the folder has no {BEST}.")
        return None
    if find_spec("torch") is None:
        notes.append("There are no Grad-CAM maps, which need torch.")
        return None
    from swinv2.artifact import read_record
    from swinv2.explain.explainer import Explainer, clear_stage

    record = read_record(saved.folder / BEST)
    return Explainer(saved.folder / BEST, stage=clear_stage(record))
