"""What a pre-trained network makes of pictures that are partly hidden: shown after every epoch.

Above the pictures, in the middle what the network sees of them, below what it fills in. Where targets are normalised,
the brightness and contrast around each pixel are those of the picture, which the network is not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from swinv2 import report
from swinv2.preprocess import Preprocess
from swinv2.report.style import QUIET, canvas
from swinv2.train.simmim.masking import enlarged, neighbourhood

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = 0.72  # of what is hidden
ROWS = ("picture", "what is seen", "filled in")


@dataclass(frozen=True)
class Example:
    """A picture, and what became of it.

    Args:
        index: position in the held-out part.
        image: [C, H, W], normalised as the network sees pictures; filled: likewise, hidden pixels predicted.
        hidden: [H, W], true where a pixel is hidden.
    """

    index: int
    image: np.ndarray
    filled: np.ndarray
    hidden: np.ndarray

    @classmethod
    def of(cls, index: int, image: Tensor, hidden: Tensor, predicted: Tensor, side: int) -> Example:
        """From one picture [C, H, W], what was hidden [h, w], and the prediction [C, H, W].

        Args:
            side: of the neighbourhood that targets are normalised by; 0 where they are plain pixels.
        """
        predicted = predicted.float().to(image.device)
        if side:
            mean, deviation = neighbourhood(image[None], side)
            predicted = predicted * deviation[0] + mean[0]
        pixels = enlarged(hidden[None].to(image.device), image.shape[1] // hidden.shape[0])[0]
        return cls(index, *(t.cpu().numpy() for t in (image, predicted.where(pixels, image), pixels)))


def draw(examples: Sequence[Example], preprocess: Preprocess, title: str) -> Figure:
    """A column for each picture, a row for each of ROWS."""
    height, width = examples[0].hidden.shape
    figure = canvas(1.55 * len(examples) + 0.9, 1.55 * len(ROWS) * height / width + 0.45)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    panels = figure.subplots(len(ROWS), len(examples), squeeze=False)
    for column, example in enumerate(examples):
        image, filled = _pixels(example.image, preprocess), _pixels(example.filled, preprocess)
        seen = np.where(example.hidden[..., None], GREY, image)
        for row, picture in enumerate((image, seen, filled)):
            axes = panels[row, column]
            axes.imshow(
                picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    for axes, name in zip(panels[:, 0], ROWS, strict=True):
        axes.set_ylabel(name, fontsize=10, color=QUIET)
    return figure


def save(figure: Figure, output: Path, epoch: int) -> None:
    """reconstructions/epoch-0001.png, and the same as reconstruction.png, the newest."""
    folder = output / "reconstructions"
    folder.mkdir(exist_ok=True)
    if epoch == 1:  # what an earlier run has left here
        for old in folder.glob("epoch-*.png"):
            old.unlink()
    for path in (folder / f"epoch-{epoch:04}.png", output / "reconstruction.png"):
        report.save(figure, path)


def _pixels(image: np.ndarray, preprocess: Preprocess) -> Any:
    """[C, H, W], normalised -> [H, W, C] from 0 to 1."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return (image * std + mean).clip(0, 1).transpose(1, 2, 0)
