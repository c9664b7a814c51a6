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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import artifact, console
from swinv2.deployments import DEPLOYMENTS
from swinv2.export.deploying import deploy, place_of
from swinv2.export.one import Disagreement, Exported, Say, carry_one, export_one, refer
from swinv2.export.printing import print_exports, progress
from swinv2.runtimes import RUNTIMES, Options, formats
from swinv2.verbs import Exit, UsageError, make_callable

if TYPE_CHECKING:
    from swinv2.config import Pair
    from swinv2.model import SwinV2
    from swinv2.verification import Reference

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
    "triton",
    "kserve",
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
        to: the formats, or the servers (triton, kserve) that a folder is written for; several after one another.
        output: the file to write, or a folder for several; by default they are named after the model and
            stand beside it. For a server, a folder of models, or folder/name/version.
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
        swinv2 export model.safetensors --to triton --output models/classifier/1
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
    if unknown := [name for name in names if name not in formats() and name not in DEPLOYMENTS]:
        raise UsageError(
            f"there is no format {unknown[0]!r}; choose from {', '.join((*formats(), *DEPLOYMENTS))}"
        )
    options = Options(precision=precision, dynamic_size=dynamic_size, opset=opset, device=device)
    several = len(names) > 1
    targets = {
        name: target(model, name, precision, output, several=several) for name in names if name in RUNTIMES
    }
    places = {
        name: place_of(model, DEPLOYMENTS[name], precision, output, several=several)
        for name in names
        if name in DEPLOYMENTS
    }
    if precision == "int8":
        if dynamic_size:
            raise UsageError("int8 is written for one image size; leave --dynamic-size out")
        for name in places:
            if "int8" not in RUNTIMES[DEPLOYMENTS[name].carries].exports:
                raise UsageError(DEPLOYMENTS[name].cannot_carry(options) or f"{name} has no int8")
        from swinv2.quantize import quantize

        def rounded(to: list[str], targets: dict[str, Path]) -> list[Exported]:
            found = quantize(model, data, to, targets=targets, image_size=image_size, opset=opset, say=say)
            return [one.exported for one in found]

        written = dict(zip(targets, rounded(list(targets), targets), strict=True)) if targets else {}
        for name, place in places.items():
            written[name] = deploy(
                DEPLOYMENTS[name], place, lambda runtime, path: rounded([runtime], {runtime: path})[0]
            )
        return [written[name] for name in names], {}
    if data is not None:
        raise UsageError("--data is for int8; add --precision int8, or leave --data out")
    done: list[Exported] = []
    failed: dict[str, Exception] = {}
    with as_artifact(model, image_size, say) as source:

        @cache
        def reference() -> Reference:
            say("running the torch model")
            return refer(source, dynamic_size=dynamic_size)

        def write(runtime: str, path: Path) -> Exported:
            row = RUNTIMES[runtime]
            if not row.exports:
                return carry_one(source, path, row, reference(), device=device, say=say)
            return export_one(source, path, row, options, reference(), device=device, say=say)

        for name in names:
            try:
                server = DEPLOYMENTS.get(name)
                if why := server.cannot_carry(options) if server else RUNTIMES[name].cannot_export(options):
                    raise ImportError(why) if "pip install" in why else ValueError(why)
                done.append(deploy(server, places[name], write) if server else write(name, targets[name]))
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
