"""Containers: a file of any library -> named tensors, and back. The content decides what it is, not the suffix.

torch's pickles are read with weights_only=True only, Paddle's through the allow-list of swinv2.pdparams.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from swinv2 import pdparams
from swinv2.artifact import ArtifactError
from swinv2.checkpoints.dialect import State

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth")  # in a folder, in this order

# Where training scripts keep the parameters; the first that is there counts, averages last.
CONTAINERS = (
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "module",
    "model_ema",
    "state_dict_ema",
)
PREFIXES = ("module.", "_orig_mod.", "model.")  # DistributedDataParallel, torch.compile, a wrapping module

_TORCH_ZIP, _TORCH_OLD, _PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80"


class Content(NamedTuple):
    """What is in a checkpoint file.

    Args:
        tensors: the parameters, with the names they have there.
        meta: what mmengine and mmcv store under that name beside them; empty where there is nothing.
    """

    tensors: State
    meta: Mapping[str, Any]


class _Unread:
    """Stands for an object beside the weights; takes what it is made of, and neither keeps nor calls it."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


# What training scripts store beside the weights, read as what holds data and does nothing: settings, and the history
# of the losses in every checkpoint of mmengine, whose pickle asks for numpy's arrays and for getattr.
_BESIDE: list[Any] = [
    (OrderedDict, "yacs.config.CfgNode"), argparse.Namespace, (dict, "mmengine.config.config.ConfigDict"),
    (_Unread, "mmengine.logging.history_buffer.HistoryBuffer"), (_Unread, "builtins.getattr"),
    *((_Unread, f"numpy.{name}") for name in (
        "ndarray", "dtype", "_core.multiarray._reconstruct", "core.multiarray._reconstruct",
        "_core.multiarray.scalar", "core.multiarray.scalar",
    )),
]  # fmt: skip


def weight_file(folder: Path) -> Path:
    """The file with the weights in a folder as transformers and the hub lay it out."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("*.index.json")):
        raise ArtifactError(
            f"{folder} holds weights in several parts; save it again with max_shard_size above its size"
        )
    raise ArtifactError(
        f"{folder} holds none of {', '.join(WEIGHT_FILES)}; give a model file, or such a folder"
    )


def read_tensors(path: Path) -> State:
    """The parameters in a checkpoint file, with the names they have there; raises what read() does."""
    return read(path).tensors


def read(path: Path) -> Content:
    """What is in a checkpoint file.

    Raises:
        FileNotFoundError, ArtifactError: what is wrong with the file, and what to do.
    """
    with open(path, "rb") as file:
        start = file.read(32)
    if start.startswith((_TORCH_ZIP, _TORCH_OLD)):
        content = _read_torch(path)
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        content = _read_safetensors(path)
    elif start.startswith(_PICKLE):
        content = _from_numpy(pdparams.read(path))
    else:
        raise ArtifactError(
            f"{path} is {_guess(start)}; give a .safetensors, .pth, .pt, .bin or .pdparams file"
        )
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return Content(_strip_prefixes(_innermost(content, path)), meta if isinstance(meta, Mapping) else {})


def write_tensors(
    path: Path, state: Mapping[str, Tensor], *, container: str = "", meta: Mapping[str, Any] | None = None
) -> None:
    """Write by suffix: .safetensors, .pdparams, or a pickle of torch. Complete under its name, or not at all.

    Args:
        container: key that the tensors lie under in a pickle of torch; empty for none.
        meta: what lies beside them there, under this name.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        write_whole(path, lambda part: save_file(state, part, metadata={"format": "pt"}))
    elif path.suffix == ".pdparams":
        write_whole(path, lambda part: pdparams.write(part, _to_numpy(state)))
    else:
        content = {container: state} if container else state
        write_whole(path, lambda part: torch.save({"meta": dict(meta)} | content if meta else content, part))


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Let write() fill a file beside path, then put it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = os.path.join(folder, path.name)
        try:
            write(part)
        except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
            raise OSError(f"{path} cannot be written: {' '.join(str(error).split())[:160]}") from None
        os.replace(part, path)


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_BESIDE):
            warnings.simplefilter("ignore")  # about pickle protocols and old storages
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError, MemoryError, ...
        text = " ".join(str(error).split())
        if "Weights only load failed" in text or "WeightsUnpickler" in text:
            named = re.search(r"(?:GLOBAL|unsupported GLOBAL) ([\w.]+)", text)
            holds = f"it names {named[1]}" if named else "it holds more than tensors"
            raise ArtifactError(
                f"{path} is refused: {holds}, and a pickle may run any code; nothing of it was run, save its "
                f'tensors alone where you trust it: torch.save({{"model": model.state_dict()}}, path)'
            ) from None
        reason = text[:100] or type(error).__name__
        raise ArtifactError(
            f"{path} is not a readable checkpoint of torch ({reason}); copy or download it again"
        ) from None


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; copy or download it again") from None


def _from_numpy(found: dict[str, Any]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for name, array in found.items():
        if isinstance(array, dict):
            tensors[name] = _from_numpy(array)
        elif array.dtype == np.uint16:  # how Paddle writes bfloat16
            bits = array.astype(np.uint16, order="C").view(np.int16)
            tensors[name] = torch.from_numpy(bits).view(torch.bfloat16)
        else:  # astype copies: what was read cannot be written to
            tensors[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    return tensors


def _to_numpy(state: State) -> dict[str, np.ndarray]:
    halves = {
        n: t.view(torch.int16).numpy().view(np.uint16) for n, t in state.items() if t.dtype == torch.bfloat16
    }
    return halves | {n: t.numpy() for n, t in state.items() if n not in halves}


def _innermost(content: Any, path: Path) -> State:
    while isinstance(content, Mapping):
        inner = [key for key in CONTAINERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise ArtifactError(
            f"{path} holds no named tensors (a state dict, alone or under {', '.join(CONTAINERS[:3])})"
        )
    return tensors


def _strip_prefixes(state: State) -> State:
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _guess(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the file (run `git lfs pull`)"
    if start.lstrip()[:1] == b"<":
        return "a web page, probably of a failed download"
    return "cut off" if len(start) < 32 else "no checkpoint of a library that is known"
