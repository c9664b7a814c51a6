"""A model that is asked where it looks, and what it answers."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from swinv2.explain.drawing import Box, over_picture, overlay
from swinv2.inputs import Failure, Input, Urls, find, is_one
from swinv2.preprocess import Preprocess, decode

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from swinv2.artifact import Record
    from swinv2.model import SwinV2

DEFAULT_MODEL = "swinv2_tiny_window8_256"
METHODS = ("grad-cam", "attention")
Method = Literal["grad-cam", "attention"]
LONGEST = 1280  # pixels that an overlay is long
CELLS = 4  # along the shorter side of a map that says where


@dataclass(frozen=True)
class Explanation:
    """A map of one picture.

    Args:
        method: a name in METHODS.
        stage: whose output the map shows, from 1; None for attention through all of them.
        class_id, class_name, score: what the map speaks for, and its softmax; of attention the prediction.
        grid: [rows, columns] from 0 to 1, as coarse as the stage.
        stride: pixels of the input that a cell of the grid stands for.
        preprocess: how the model saw the picture.
        picture: decoded and upright.
    """

    file: str
    method: str
    stage: int | None
    class_id: int
    class_name: str
    score: float
    grid: np.ndarray
    stride: int
    preprocess: Preprocess
    picture: Image.Image

    @property
    def seen(self) -> Box:
        """What the model saw of the picture: left, top, right, bottom in its pixels."""
        width, height = self.picture.size
        left, top, right, bottom = self.preprocess.seen((width, height))
        return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))

    @property
    def is_empty(self) -> bool:
        """Whether no place stands out: nothing speaks for the class."""
        return not self.grid.any()

    @property
    def map(self) -> np.ndarray:
        """[height, width] of the picture, from 0 to 1; 0 where the crop ends."""
        return over_picture(self.grid, self.stride, self.preprocess, self.picture.size)

    def overlay(self, longest: int = LONGEST) -> Image.Image:
        """The picture under its map, at most so many pixels long; what the model did not see is dark."""
        small = self.picture.copy()
        small.thumbnail((longest, longest))
        share = small.width / self.picture.width, small.height / self.picture.height
        heat = over_picture(self.grid, self.stride, self.preprocess, small.size)
        return overlay(small, heat, tuple(edge * share[i % 2] for i, edge in enumerate(self.seen)))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as --json prints them."""
        return {
            "file": self.file,
            "method": self.method,
            "stage": self.stage,
            "class_id": self.class_id,
            "class": self.class_name,
            "score": self.score,
            "seen": [round(edge, 1) for edge in self.seen],
            "map": [[round(float(value), 4) for value in row] for row in self.grid],
        }


class Explainer:
    """A model that was opened once, and what is asked of it.

    Args:
        model: model file, published name, checkpoint of another library, or a swinv2 model with a record.
        method: "grad-cam" or "attention".
        target: class to explain, by name, synset or number; default: the one that each picture is predicted
            to be. Attention belongs to no class.
        stage: whose output is looked at, from 1. Default: the last one for Grad-CAM, all for attention.
        image_size: look at pictures at another size than predictions do.
        whole: look at the whole picture instead of its centre.
        device: "auto" takes an accelerator where there is one; a model that is handed in stays where it is.
        allow_urls: "public", "any" (private addresses as well) or "none".

    Raises:
        ValueError, ImportError, FileNotFoundError, ArtifactError: why it cannot be asked, in one sentence.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | SwinV2 = DEFAULT_MODEL,
        *,
        method: Method = "grad-cam",
        target: str | int | None = None,
        stage: int | None = None,
        image_size: int | None = None,
        whole: bool = False,
        device: str = "auto",
        allow_urls: Urls = "public",
    ):
        from swinv2.explain.gradcam import stage_of
        from swinv2.runtimes.torch import fastest_device, unsupported

        if method not in METHODS:
            raise ValueError(f"no method is called {method!r}; there are {' and '.join(METHODS)}")
        if method == "attention" and target is not None:
            raise ValueError("attention maps belong to no class; leave target out, or take method grad-cam")
        if why := unsupported(device, "fp32"):
            raise ValueError(why)
        self.method, self.whole, self.allow_urls = method, whole, allow_urls
        self.model = _opened(model, image_size)
        if device != "auto" or self.model is not model:  # a model that was handed in stays where it is
            self.model.to(fastest_device() if device == "auto" else device)
        assert self.model.record is not None
        self.record = self.model.record
        self.stage = None if method == "attention" and stage is None else stage_of(self.model, stage)
        self.target = None if target is None else class_of(self.record, target)

    def __call__(self, images: Any) -> Explanation | list[Explanation | Failure]:
        """One picture -> its Explanation. A list, folder or glob -> a list in the same order.

        Args:
            images: what Predictor takes.

        Raises:
            ImageError, OSError: one picture was given and cannot be used; in a list it is a Failure.
        """
        if not is_one(images):
            return list(self.stream(images))
        (one,) = find(images, urls=self.allow_urls)
        return self._explained(one)

    def stream(self, images: Any) -> Iterator[Explanation | Failure]:
        """One answer per picture, in order."""
        for one in find(images, urls=self.allow_urls):
            try:
                yield self._explained(one)
            except OSError as error:
                yield Failure(one.file, f"{one.file}: {(error.strerror or str(error)).lower()}")
            except ValueError as error:
                yield Failure(one.file, str(error))

    def _explained(self, one: Input) -> Explanation:
        import torch

        from swinv2.explain import attention, gradcam

        preprocess = self.record.preprocess
        picture = decode(one.open(), channels=preprocess.channels, name=one.file)
        if self.whole:
            preprocess = whole_of(preprocess, picture.size)
        device = next(self.model.parameters()).device
        x = torch.from_numpy(preprocess(picture))[None].to(device)
        if self.method == "grad-cam":
            found = gradcam.grad_cam(self.model, x, self.target, self.stage)
        elif self.stage is None:
            found = attention.rollout(self.model, x)
        else:
            found = attention.received(self.model, x, self.stage)
        shares = found.logits.double().softmax(-1)
        class_id = int(shares.argmax()) if self.target is None else self.target
        return Explanation(
            one.file, self.method, self.stage, class_id, self.record.class_name(class_id), float(shares[class_id]),
            found.grid.cpu().numpy(), self.model.feature_info[(self.stage or 1) - 1].stride, preprocess, picture,
        )  # fmt: skip


def class_of(record: Record, target: str | int) -> int:
    """The id of a class by its name, its synset or its number.

    Raises:
        ValueError: there is none, or there are several of the name.
    """
    if isinstance(target, str):
        for names in (record.classes, record.synsets):
            ids = [i for i, name in enumerate(names) if name.casefold() == target.casefold()]
            if len(ids) > 1:
                raise ValueError(
                    f"classes {ids[0]} and {ids[1]} are both called {target!r}; give the number of one of them"
                )
            if ids:
                return ids[0]
    count = record.config.num_classes
    if str(target).isdecimal() and int(target) < count:
        return int(target)
    near = difflib.get_close_matches(str(target), record.classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"give a name, or a number from 0 to {count - 1}"
    raise ValueError(f"the model has no class {target!r}; {hint}")


def clear_stage(record: Record) -> int:
    """The last stage, unless pictures are so small that its map has only a few cells; then the last that has more."""
    grids = [min(stage.grid) for stage in record.config.stages(*record.preprocess.size)]
    return max((number for number, cells in enumerate(grids, 1) if cells >= CELLS), default=1)


def whole_of(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """The whole of a picture of (width, height) at the scale of a prediction: nothing cropped or squashed."""
    shorter = preprocess.resize_to if preprocess.resize == "shorter" else min(preprocess.size)
    scale = shorter / min(size)
    width, height = (max(round(side * scale), 1) for side in size)
    return replace(preprocess, size=(height, width), resize="squash")


def _opened(model: str | os.PathLike[str] | SwinV2, image_size: int | None) -> SwinV2:
    from swinv2.checkpoints import load
    from swinv2.runtimes import is_exported

    if is_exported(model):
        raise ValueError(
            f"{model} is an exported model, which has no gradients; give the model it was made from"
        )
    if isinstance(model, (str, os.PathLike)):
        return load(model, image_size=image_size)
    if image_size is not None:
        raise ValueError("image_size goes with a model file or name; load the model at that size instead")
    if model.record is None:
        raise ValueError("the model has no record (preprocessing, class names); set model.record first")
    return model
