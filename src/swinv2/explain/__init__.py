"""Where a model looks: a picture in, the same picture under a map out.

    explain("dog.jpg", "swinv2_tiny_window8_256").overlay().save("dog-explained.png")

Grad-CAM shows what speaks for a class, attention maps what is looked at whatever the class. Both are computed on
the trained network, at the size of its preprocessing or at any other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import console
from swinv2.explain.drawing import overlay
from swinv2.explain.explainer import DEFAULT_MODEL, Explainer, Explanation, Method
from swinv2.inputs import Failure, Urls
from swinv2.verbs import Exit, make_callable

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2

__all__ = ["Explainer", "Explanation", "explain", "grad_cam", "overlay"]

make_callable(__name__)


def explain(
    images: Any, model: str | os.PathLike[str] | SwinV2 = DEFAULT_MODEL, **options: Any
) -> Explanation | list[Explanation | Failure]:
    """Open a model, ask it once. Options are those of Explainer; keep one for more questions."""
    return Explainer(model, **options)(images)


def grad_cam(
    model: SwinV2, image: Any, class_id: int | None = None, *, stage: int | None = None
) -> np.ndarray:
    """What speaks for a class, [height, width] of the picture, from 0 to 1; overlay() lays it over the picture.

    Args:
        model: with a record, which says how it sees pictures.
        image: anything that Preprocess.load takes.
        class_id: default: the predicted one.
        stage: from 1; default: the last.
    """
    found = Explainer(model, target=class_id, stage=stage)(image)
    assert isinstance(found, Explanation)
    return found.map


def command(
    images: list[str],
    *,
    model: str = DEFAULT_MODEL,
    method: Method = "grad-cam",
    target: str | None = None,
    stage: int | None = None,
    image_size: int | None = None,
    whole: bool = False,
    device: str = "auto",
    private_urls: bool = False,
    output: str = "explained",
    json: bool = False,
) -> int:
    """Show where in a picture a model looks.

    Each picture is written under its map: bright where most speaks for the class (Grad-CAM), or where most is
    looked at (attention); dark where the model does not see the picture. Pictures that cannot be read are named
    on stderr, and the exit code is then 5.

    Args:
        images: files, folders (searched below), globs, http(s) URLs, or - for stdin.
        model: model file, or the name of a published model (`swinv2 models`).
        method: grad-cam explains a class, attention belongs to none.
        target: class to explain, by name, synset or number; default is the predicted one.
        stage: whose output is looked at, from 1; default is the last one for grad-cam, all for attention.
        image_size: look at pictures at another size than predictions do.
        whole: look at the whole picture instead of its centre.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator where there is one.
        private_urls: fetch from private, loopback and link-local addresses as well.
        output: folder for the pictures.

    Examples:
        swinv2 explain photo.jpg
        swinv2 explain photos/ --model runs/photos/best.safetensors --target rose --output roses
        swinv2 explain photo.jpg --method attention --stage 3
    """
    urls: Urls = "any" if private_urls else "public"
    explainer = Explainer(
        model, method=method, target=target, stage=stage, image_size=image_size, whole=whole, device=device,
        allow_urls=urls,
    )  # fmt: skip
    folder, failed, documents, taken = Path(output), 0, [], set[str]()
    for answer in explainer.stream(images):
        if isinstance(answer, Failure):
            failed += 1
            console.stderr().print(answer.error, markup=False)
            documents.append(answer.to_dict())
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _file_name(answer, taken)
        answer.overlay().save(path)
        documents.append(answer.to_dict() | {"overlay": str(path)})
        if not json:
            _print(answer, path)
    if json:
        console.emit_json(documents)
    return Exit.PARTIAL if failed else Exit.DONE


def _file_name(answer: Explanation, taken: set[str]) -> str:
    """photo.grad-cam.png; photo-2.grad-cam.png where another folder has a photo as well."""
    stem = Path(answer.file.rpartition("/")[2].partition("?")[0]).stem or "picture"
    what = answer.method if answer.stage is None else f"{answer.method}.stage{answer.stage}"
    number = 1
    while (name := f"{stem}{f'-{number}' if number > 1 else ''}.{what}.png") in taken:
        number += 1
    taken.add(name)
    return name


def _print(answer: Explanation, path: Path) -> None:
    """A line per picture, and what is to be known about its map."""
    if answer.grid.size == 1:
        console.stderr().print(
            f"{answer.file}: at this size stage {answer.stage} has one cell, which says nothing of where; take an "
            f"earlier --stage, or a larger --image-size",
            markup=False,
        )
    elif answer.is_empty:
        console.stderr().print(
            f"{answer.file}: nothing in it speaks for {answer.class_name!r}; the map is empty", markup=False
        )
    console.stdout().print(f"{path}   {100 * answer.score:.2f} % {answer.class_name}", markup=False)
