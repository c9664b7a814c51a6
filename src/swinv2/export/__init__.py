"""The verb `swinv2 export`: a trained model in the formats of other runtimes, each compared with the model itself.

    swinv2 export runs/demo/best.safetensors --to onnx openvino litert

Converters and runtimes work in processes of their own (one that crashes takes nothing with it), the answers are
compared at several batches on real pixels, and a file appears under its name when all that went well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import artifact, console
from swinv2.export.one import Disagreement, Exported, Say, export_one, refer
from swinv2.export.printing import print_exports, progress
from swinv2.runtimes import RUNTIMES, Options, formats
from swinv2.verbs import Exit, UsageError, make_callable

if TYPE_CHECKING:
    from swinv2.config import Pair
    from swinv2.model import SwinV2

__all__ = ["Disagreement", "Exported", "export", "export_one", "refer"]

Format = Literal[
    "onnx",
    "openvino",
    "pt2",
    "torchscript",
    "tensorrt",
    "executorch",
    "litert",
    "ncnn",
    "mnn",
    "coreml",
    "paddle",
]


def command(
    model: str,
    *,
    to: list[Format],
    output: str | None = None,
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32",
    data: str | None = None,
    image_size: int | None = None,
    dynamic_size: bool = False,
    opset: int | None = None,
    device: str = "cpu",
    json: bool = False,
) -> int:
    """Write a model in the formats of other runtimes.

    Every file is opened again in its runtime, in a process of its own, and compared with the torch model at
    batches 1, 2 and 7 on real pixels; the figures go into the record that travels with the file. What does
    not agree is not written. Other formats are still written where one fails; the exit code is then 5.

    Args:
        model: an artifact, a checkpoint of another library, or the name of a published model.
        to: the formats; several after one another.
        output: the file to write, or a folder for several; by default they are named after the model and
            stand beside it.
        precision: of the weights and of the computation; int8 needs --data, see `swinv2 quantize`.
        data: pictures to calibrate int8 on: a data set or a folder.
        image_size: another image size than that of the model's preprocessing.
        dynamic_size: take any height and width.
        opset: of ONNX.
        device: what code is generated for (pt2, tensorrt), and where the result is compared.

    Examples:
        swinv2 export runs/demo/best.safetensors --to onnx openvino
        swinv2 export swinv2_tiny_window8_256 --to litert --output phone/model.tflite
        swinv2 export model.safetensors --to onnx --dynamic-size
    """
    with progress(json) as say:
        done, failed = _export(
            model, to, output=output, precision=precision, data=data, image_size=image_size,
            dynamic_size=dynamic_size, opset=opset, device=device, say=say, one_fails_alone=len(set(to)) > 1,
        )  # fmt: skip
    if json:
        errors = [{"format": name, "error": str(error)} for name, error in failed.items()]
        console.emit_json([*(one.to_dict() for one in done), *errors])
    else:
        print_exports(done)
    for name, error in failed.items():
        console.stderr().print(f"error: {name}: {' '.join(str(error).split())}", markup=False)
    return Exit.PARTIAL if failed and done else Exit.FAILED if failed else Exit.DONE


def export(
    model: str | os.PathLike[str] | SwinV2,
    to: str | Sequence[str],
    *,
    output: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    data: str | os.PathLike[str] | None = None,
    image_size: int | Pair | None = None,
    dynamic_size: bool = False,
    opset: int | None = None,
    device: str = "cpu",
    say: Say = lambda text: None,
) -> list[Exported]:
    """Write a model in one or several formats; the options are those of the command.

    Args:
        model: also a model in memory, with its record.

    Raises:
        UsageError, ValueError: options that contradict each other, or a format that cannot hold the model.
        ImportError: a package is missing; the message has the pip command.
        Disagreement: a runtime does not give the answers of the torch model.
        child.Died: a converter or a runtime crashed.
        FileNotFoundError, ArtifactError, OSError: the model cannot be read, or the file not be written.
    """
    done, _ = _export(
        model, [to] if isinstance(to, str) else to, output=output, precision=precision, data=data,
        image_size=image_size, dynamic_size=dynamic_size, opset=opset, device=device, say=say, one_fails_alone=False,
    )  # fmt: skip
    return done


def _export(
    model: Any,
    to: Sequence[str],
    *,
    output: str | os.PathLike[str] | None,
    precision: str,
    data: str | os.PathLike[str] | None,
    image_size: Any,
    dynamic_size: bool,
    opset: int | None,
    device: str,
    say: Say,
    one_fails_alone: bool,
) -> tuple[list[Exported], dict[str, Exception]]:
    """What was written, and what was not with the reason."""
    names = list(dict.fromkeys(to))
    if unknown := [name for name in names if name not in formats()]:
        raise UsageError(f"there is no format {unknown[0]!r}; choose from {', '.join(formats())}")
    options = Options(precision=precision, dynamic_size=dynamic_size, opset=opset, device=device)
    targets = {name: target(model, name, precision, output, several=len(names) > 1) for name in names}
    if precision == "int8":
        if dynamic_size:
            raise UsageError("int8 is written for one image size; leave --dynamic-size out")
        from swinv2.quantize import quantize

        quantized = quantize(model, data, names, targets=targets, image_size=image_size, opset=opset, say=say)
        return [one.exported for one in quantized], {}
    if data is not None:
        raise UsageError("--data is for int8; add --precision int8, or leave --data out")
    done: list[Exported] = []
    failed: dict[str, Exception] = {}
    reference = None
    with as_artifact(model, image_size, say) as source:
        for name in names:
            try:
                row = RUNTIMES[name]
                if why := row.cannot_export(options):
                    raise ImportError(why) if "pip install" in why else ValueError(why)
                if reference is None:
                    say("running the torch model")
                    reference = refer(source, dynamic_size=dynamic_size)
                done.append(
                    export_one(source, targets[name], row, options, reference, device=device, say=say)
                )
            except Exception as error:
                if not one_fails_alone:
                    raise
                failed[name] = error
    return done, failed


def target(
    model: Any, name: str, precision: str, output: str | os.PathLike[str] | None, *, several: bool
) -> Path:
    """The file to write: named after the model, with the precision where it is not fp32.

    Raises:
        UsageError: a name that does not go with the format.
    """
    suffix = RUNTIMES[name].suffixes[0]
    path = Path(model) if isinstance(model, (str, os.PathLike)) else Path("model.safetensors")
    is_file = path.suffix.lower() in RUNTIMES["torch"].suffixes
    stem = path.stem if is_file else str(path.name)
    default = f"{stem}{'' if precision == 'fp32' else '.' + precision}{suffix}"
    if output is None:
        return (path.parent if is_file or path.exists() else Path()) / default
    given = Path(output)
    if given.is_dir() or str(output).endswith(("/", os.sep)) or (several and given.suffix == ""):
        return given / default
    if several:
        raise UsageError(f"--output is {output}, one file for several formats; give a folder")
    if given.suffix.lower() != suffix:
        raise UsageError(f"--output is {output}; files of {name} end in {suffix}")
    return given


@contextmanager
def as_artifact(model: Any, image_size: Any, say: Say) -> Iterator[Path]:
    """The model as an artifact on disk: itself where it is one, otherwise written to a temporary folder."""
    is_source = isinstance(model, (str, os.PathLike))
    if is_source and image_size is None and Path(model).is_file() and artifact.is_artifact(model):
        artifact.verify(model)  # a damaged model is refused here, by its own name
        yield Path(model)
        return
    from swinv2.extras import require

    require("torch", extra="torch")
    from swinv2 import checkpoints
    from swinv2.checkpoints.adapt import adapt

    if is_source:
        say(f"reading {model}")
    network = checkpoints.load(model) if is_source else model
    if network.record is None:
        raise ValueError("the model has no record (preprocessing, class names); set model.record first")
    record, state = network.record, network.state_dict()
    if image_size is not None:
        record, state, _ = adapt(record, state, image_size=image_size)
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        path = Path(folder, "model.safetensors")
        artifact.write(path, record, state)
        yield path


make_callable(__name__)
