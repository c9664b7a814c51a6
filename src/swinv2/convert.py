"""The verb `swinv2 convert`: weights of one library -> weights of another, read back and compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swinv2 import console
from swinv2.verbs import Exit, UsageError, make_callable

if TYPE_CHECKING:
    from swinv2.checkpoints.dialect import State

To = Literal["swinv2", "microsoft", "timm", "transformers", "torchvision", "mmpretrain", "paddle", "simmim"]
SUFFIXES: dict[str, str] = {
    ".safetensors": "swinv2",
    ".pth": "microsoft",
    ".pt": "microsoft",
    ".pdparams": "paddle",
}


@dataclass(frozen=True)
class Conversion:
    """What was read and what was written.

    Args:
        recognised: dialect of the source; written: that of the result.
        dropped: what was in the source and is not in the result, in words.
        assumed: what nothing said and had to be taken for granted, in words.
        guessed: what the class names are a guess from, in words; empty where they are none.
        new: parameters with random values.
    """

    source: str
    result: str
    recognised: str
    written: str
    architecture: str
    parameters: int
    classes: int
    class_names: bool
    dropped: tuple[str, ...]
    assumed: str
    guessed: str
    new: tuple[str, ...]


def command(
    source: str,
    result: str,
    *,
    to: To | None = None,
    architecture: str | None = None,
    image_size: int | None = None,
    window: int | None = None,
    classes: str = "auto",
    num_classes: int | None = None,
    in_chans: int | None = None,
    allow_new: list[str] = [],  # noqa: B006 -- never changed
    json: bool = False,
) -> int:
    """Move weights between libraries.

    Reads the files of Microsoft, SimMIM, timm, transformers, torchvision, mmpretrain and PaddleClas,
    recognised by what is in them, and swinv2's own; writes any of them. Without --to the suffix of the result decides:
    .safetensors is swinv2's own file, .pth Microsoft's, .pdparams PaddleClas', and a name without suffix a
    folder for transformers.

    Args:
        source: a checkpoint, a folder with config.json, a published name, or owner/repo on the Hugging Face
            hub.
        result: the file to write, or the folder for transformers.
        to: the library to write for.
        architecture: which variant the source is, where it does not say; any of the names in `swinv2 models`.
        image_size: image size of the source, where neither it nor its architecture says.
        window: attention window of the source, where neither it nor its architecture says.
        classes: class names. "auto" takes those in or beside the source, else ImageNet's for 1000 and 21841
            classes; "imagenet", "none", or a text file with one name a line.
        num_classes: another number of classes: a new head, or the 1000 of ImageNet-1k out of a 22k head; 0
            for none.
        in_chans: another number of input channels; the stem is summed or repeated.
        allow_new: a parameter that the source may lack; it starts at random.

    Examples:
        swinv2 convert swinv2_tiny_patch4_window8_256.pth model.safetensors
        swinv2 convert best_model.pdparams model.safetensors --classes names.txt
        swinv2 convert model.safetensors for_transformers --to transformers
        swinv2 convert model.safetensors model.pth --to mmpretrain
    """
    done = convert(
        source, result, to=to, architecture=architecture, image_size=image_size, window=window, classes=classes,
        num_classes=num_classes, in_chans=in_chans, allow_new=allow_new,
    )  # fmt: skip
    if json:
        console.emit_json(asdict(done))
        return Exit.DONE
    named = "named" if done.class_names else "not named"
    lines = (
        f"recognised  {done.recognised}: {done.architecture}, {done.parameters:,} parameters",
        f"classes     {done.classes:,}, {named}" if done.classes else "classes     none (a backbone)",
        *(f"dropped     {what}" for what in done.dropped),
        *([f"assumed     {done.assumed}"] if done.assumed else []),
        *(
            [f"guessed     {done.guessed} (--classes imagenet, none or names.txt decides)"]
            if done.guessed
            else []
        ),
        *([f"random      {', '.join(done.new)}"] if done.new else []),
        f"written     {done.written}: {done.result}, read back and equal",
    )
    for line in lines:
        console.stdout().print(line, markup=False)
    return Exit.DONE


def convert(
    source: str | os.PathLike[str],
    result: str | os.PathLike[str],
    *,
    to: str | None = None,
    architecture: str | None = None,
    image_size: int | None = None,
    window: int | None = None,
    classes: str = "auto",
    num_classes: int | None = None,
    in_chans: int | None = None,
    allow_new: Sequence[str] = (),
) -> Conversion:
    """Convert a file, read the result back and compare; the options are those of the command.

    Raises:
        UsageError: a result that cannot be meant.
        FileNotFoundError, ArtifactError: the source cannot be read, or the library cannot express it.
        ImportError: a package is missing; the message has the pip command.
    """
    from swinv2.extras import require

    require("torch", extra="convert")
    from swinv2 import artifact, checkpoints
    from swinv2.checkpoints.adapt import adapt
    from swinv2.counts import parameters

    path, to = Path(result), _target(Path(result), to)
    if os.path.exists(source) and path.exists() and os.path.samefile(source, path):
        raise UsageError(f"the result {result} is the source; give another name")
    checkpoint = checkpoints.read(
        source,
        architecture=architecture,
        image_size=image_size,
        window=window,
        classes=classes,
        allow_new=allow_new,
    )
    record, tensors, new = adapt(
        checkpoint.record, checkpoint.tensors, num_classes=num_classes, in_chans=in_chans
    )
    new = (*new, *checkpoint.missing)
    tensors |= _fresh(record, new)
    if to == "swinv2":
        artifact.write(path, record, tensors)
        artifact.read(path, framework="pt")  # compares hashes
        dropped: tuple[str, ...] = ()
    else:
        dropped = _write(path, checkpoints.DIALECTS[to], record, tensors)
    return Conversion(
        str(source), str(path), checkpoint.dialect, to, record.config.architecture, parameters(record.config),
        record.config.num_classes, bool(record.classes), (*checkpoint.dropped, *dropped), checkpoint.assumed,
        checkpoint.guessed if record.classes else "", new,
    )  # fmt: skip


def _target(path: Path, to: str | None) -> str:
    """The dialect to write; refused where the name of the result does not go with it."""
    suffix = path.suffix.lower()
    if to is None:
        to = "transformers" if suffix == "" else SUFFIXES.get(suffix)
    if to is None:
        raise UsageError(
            f"{path} has the suffix {suffix}, which does not say what to write; add --to, one of {_names()}"
        )
    allowed = {
        "swinv2": (".safetensors",), "paddle": (".pdparams",), "transformers": ("",), "mmpretrain": (".pth", ".pt"),
    }  # fmt: skip
    suffixes = allowed.get(to, (".pth", ".pt", ".bin", ".safetensors"))
    if suffix not in suffixes:
        words = (
            "a folder, without suffix"
            if to == "transformers"
            else f"a name that ends in {' or '.join(suffixes)}"
        )
        raise UsageError(f"{path} cannot be written for {to}; give {words}")
    return to


def _names() -> str:
    return ", ".join(To.__args__)  # type: ignore[attr-defined]


def _fresh(record: Any, names: Sequence[str]) -> State:
    """Random values for parameters that the source does not have."""
    from swinv2.model import SwinV2

    if not names:
        return {}
    state = SwinV2(record.config).state_dict()
    return {name: state[name] for name in names}


def _write(path: Path, dialect: Any, record: Any, tensors: State) -> tuple[str, ...]:
    """Write for another library, whole or not at all; returns what it does not take."""
    from swinv2.artifact import ArtifactError
    from swinv2.checkpoints import MMPRETRAIN, beside, files, mmengine

    if why := dialect.unsupported(record.config):
        raise ArtifactError(f"{dialect.name} cannot express {record.config.architecture}: {why}")
    state = dialect.from_official(tensors, record.config)
    if dialect.suffix:
        meta = mmengine.write_meta(record) if dialect is MMPRETRAIN else None
        files.write_tensors(path, state, container=dialect.container, meta=meta)
        back = files.read_tensors(path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; give a name for a folder")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            beside.write_transformers(Path(folder), record)
            files.write_tensors(Path(folder) / "model.safetensors", state)
            path.mkdir(exist_ok=True)
            for file in sorted(Path(folder).iterdir()):
                os.replace(file, path / file.name)
        back = files.read_tensors(path / "model.safetensors")
    official = dialect.to_official(back)
    left_out = tuple(name for name in tensors if name not in official)
    _compare(path, official, {name: tensor for name, tensor in tensors.items() if name not in left_out})
    return (f"{', '.join(left_out)}: {dialect.about} has no place for it",) if left_out else ()


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, tensor in expected.items():
        if found[name].dtype != tensor.dtype or not found[name].equal(tensor):
            raise OSError(
                f"{path} does not hold what was written ({name} differs); look after the disk and try again"
            )


make_callable(__name__)
