"""The verb `swinv2 quantize`: a trained model in int8, with what that costs, measured in the runtime that will run it.

    swinv2 quantize runs/photos/best.safetensors --data photos --to onnx openvino

Some pictures calibrate, others judge. Where int8 costs more than allowed, the most sensitive layers stay in float,
as few as will do; where that is no cure, nothing is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import console
from swinv2.export import as_artifact, target
from swinv2.export.one import Exported, Say
from swinv2.export.printing import progress
from swinv2.extras import share_processors
from swinv2.quantize.judging import Judgement, Share
from swinv2.quantize.printing import print_quantized
from swinv2.quantize.work import Job, LostTooMuch
from swinv2.runtimes import RUNTIMES
from swinv2.verbs import Exit, UsageError, make_callable

if TYPE_CHECKING:
    from swinv2.config import Pair
    from swinv2.model import SwinV2

__all__ = ["Judgement", "LostTooMuch", "Quantized", "Share", "quantize"]

Format = Literal["onnx", "openvino", "executorch", "litert"]


@dataclass(frozen=True)
class Quantized:
    """A model in int8, in one format.

    Args:
        exported: the file, and its comparison with the torch model on the probe images.
        judgement: its answers beside those of the float model, in its own runtime.
        kept_float: layers that stay in float; layers: how many there are.
        facts: pictures, activations, tries and ranking of the layers, as the record has them.
    """

    exported: Exported
    judgement: Judgement
    kept_float: tuple[str, ...]
    layers: int
    facts: dict[str, Any]

    @property
    def drop(self) -> float:
        """Points lost against the float model."""
        return self.judgement.drop

    def to_dict(self) -> dict[str, Any]:
        return self.exported.to_dict() | {
            **self.judgement.to_dict(), "kept_float": list(self.kept_float), "layers": self.layers, "int8": self.facts,
        }  # fmt: skip


def command(
    model: str,
    *,
    data: str,
    to: list[Format],
    output: str | None = None,
    max_drop: float = 0.5,
    images: int = 256,
    judge: int = 2000,
    activations: Literal["static", "dynamic"] | None = None,
    image_size: int | None = None,
    opset: int | None = None,
    json: bool = False,
) -> int:
    """Write a model in int8, and say what it costs.

    Some pictures calibrate, others judge: the answers of the file in its own runtime beside those of the torch
    model in float32. Where more is lost than allowed, the layers that suffer most stay in float, as few as will
    do; where half of them is not enough, nothing is written. Labels are used where they are the model's; without
    them each answer that differs counts as lost.

    Args:
        model: an artifact, a checkpoint of another library, or the name of a published model.
        data: a data set, or a folder of pictures such as the model will see.
        to: the formats; several after one another.
        output: the file to write, or a folder for several; by default they are named after the model and
            stand beside it.
        max_drop: points of accuracy that may be lost.
        images: pictures to calibrate on, at most.
        judge: pictures to judge on, at most; never those that it is calibrated on.
        activations: static ranges, from the calibration, or dynamic ones, at run time; default is what is
            best in each format.
        image_size: another image size than that of the model's preprocessing.
        opset: of ONNX and of what is made from it.

    Examples:
        swinv2 quantize runs/photos/best.safetensors --data photos --to onnx openvino
        swinv2 quantize model.safetensors --data pictures --to litert --max-drop 1
    """
    with progress(json) as say:
        done, failed = _quantize(
            model, data, to, targets=None, output=output, max_drop=max_drop, images=images, judge=judge,
            activations=activations, image_size=image_size, opset=opset, say=say, one_fails_alone=len(set(to)) > 1,
        )  # fmt: skip
    if json:
        errors = [{"format": name, "error": str(error)} for name, error in failed.items()]
        console.emit_json([*(one.to_dict() for one in done), *errors])
    else:
        print_quantized(done)
    for name, error in failed.items():
        console.stderr().print(f"error: {name}: {' '.join(str(error).split())}", markup=False)
    return Exit.PARTIAL if failed and done else Exit.FAILED if failed else Exit.DONE


def quantize(
    model: str | os.PathLike[str] | SwinV2,
    data: str | os.PathLike[str] | None,
    to: str | Sequence[str],
    *,
    targets: Mapping[str, Path] | None = None,
    output: str | os.PathLike[str] | None = None,
    max_drop: float = 0.5,
    images: int = 256,
    judge: int = 2000,
    activations: str | None = None,
    image_size: int | Pair | None = None,
    opset: int | None = None,
    say: Say = lambda text: None,
) -> list[Quantized]:
    """Write a model in int8 in one or several formats; the options are those of the command.

    Args:
        model: also a model in memory, with its record.
        targets: format -> the file to write, instead of output.

    Raises:
        UsageError, ValueError: options that contradict each other, or a format that has no int8.
        LostTooMuch: it would cost more than max_drop; nothing is left of it.
        ImportError: a package is missing; the message has the pip command.
        DataError, FileNotFoundError, ArtifactError, OSError: pictures or a model that cannot be read.
        child.Died: a converter or a runtime crashed.
    """
    done, _ = _quantize(
        model, data, [to] if isinstance(to, str) else to, targets=targets, output=output, max_drop=max_drop,
        images=images, judge=judge, activations=activations, image_size=image_size, opset=opset, say=say,
        one_fails_alone=False,
    )  # fmt: skip
    return done


def _quantize(
    model: Any,
    data: str | os.PathLike[str] | None,
    to: Sequence[str],
    *,
    targets: Mapping[str, Path] | None,
    output: str | os.PathLike[str] | None,
    max_drop: float,
    images: int,
    judge: int,
    activations: str | None,
    image_size: Any,
    opset: int | None,
    say: Say,
    one_fails_alone: bool,
) -> tuple[list[Quantized], dict[str, Exception]]:
    """What was written, and what was not with the reason."""
    names = list(dict.fromkeys(to))
    _check(names, data, max_drop, images, judge)
    assert data is not None
    share_processors()
    if targets is None:
        targets = {name: target(model, name, "int8", output, several=len(names) > 1) for name in names}
    done, failed = [], {}
    with (
        as_artifact(model, image_size, say) as source,
        tempfile.TemporaryDirectory(prefix="swinv2-") as folder,
    ):
        job = Job(
            source, data, Path(folder), max_drop=max_drop, images=images, judge=judge, opset=opset, say=say
        )
        for name in names:
            try:
                done.append(Quantized(*job.write(RUNTIMES[name], targets[name], activations)))
            except Exception as error:
                if not one_fails_alone:
                    raise
                failed[name] = error
    return done, failed


def _check(names: list[str], data: Any, max_drop: float, images: int, judge: int) -> None:
    having = [name for name, row in RUNTIMES.items() if "int8" in row.exports]
    if without := [name for name in names if name not in having]:
        raise UsageError(f"{without[0]} has no int8; choose from {', '.join(having)}")
    if data is None:
        raise UsageError(
            "int8 needs pictures to be calibrated and judged on; add --data with a data set or a folder"
        )
    if not 0 <= max_drop <= 100:
        raise UsageError(f"max_drop is {max_drop:g}; give points between 0 and 100")
    for name, value in (("images", images), ("judge", judge)):
        if value < 1:
            raise UsageError(f"{name} is {value}; give at least 1")


make_callable(__name__)
