"""Paddle's .pdparams files without Paddle: a pickle of named arrays, read through an allow-list and written by hand.

A pickle is a program. read() first looks at its instructions and refuses those that arrays do not need; then it
runs the rest with stand-ins for the few names that numpy and paddle.save write. A stand-in checks the values that
numpy would be given, so that neither a foreign function nor numpy's own unpickling ever runs. write() spells out
the instructions, because pickle.dump of numpy 2 writes names that numpy 1 does not have.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from swinv2.artifact import ArtifactError

NAME_TABLE = "StructuredToParameterName@@"  # paddle.save's dict of names inside its programs
SLICES = "UnpackBigParamInfor@@"  # how protocols 2 and 3 store what is larger than 1 GiB

# What the pickle of a dict of arrays consists of, in protocols 2 to 5. Not among them: INST, OBJ, NEWOBJ
# (make instances), EXT (the extension registry), PERSID (asks the reader), NEXT_BUFFER (data from elsewhere).
INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST",
    "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})  # fmt: skip
DTYPES = {
    "f2": np.float16, "f4": np.float32, "f8": np.float64, "b1": np.bool_, "u1": np.uint8, "u2": np.uint16,
    "i1": np.int8, "i2": np.int16, "i4": np.int32, "i8": np.int64,
}  # fmt: skip


class _Refused(Exception):
    """Why a pickle is not read."""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a .pdparams file by name; dicts of arrays inside it (paddle.save of a whole checkpoint) too.

    bfloat16 arrays come as uint16, as Paddle writes them. Values that are no arrays are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: it is no pickle of arrays, is cut off, or holds something that could run.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        _check_instructions(content)
        return _arrays(_Unpickler(io.BytesIO(content), encoding="latin1").load())
    except _Refused as refusal:
        raise ArtifactError(
            f"{path} is refused: {refusal}, and a pickle may run any code; nothing of it was run, get the file "
            f"from a source that you trust"
        ) from None
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = f"{type(error).__name__}: {_short(error)}"
        raise ArtifactError(
            f"{path} is not a readable .pdparams file ({reason}); copy or download it again"
        ) from None


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write what paddle.load and set_state_dict take: every array under its name, and the table of names."""
    with open(path, "wb") as file:
        file.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK)
        for name, array in arrays.items():
            file.write(_text(name))
            _write_array(file, array)
        file.write(_text(NAME_TABLE) + pickle.EMPTY_DICT + pickle.MARK)
        file.write(b"".join(2 * _text(name) for name in arrays) + pickle.SETITEMS)
        file.write(pickle.SETITEMS + pickle.STOP)


def _check_instructions(content: bytes) -> None:
    for count, (instruction, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
        if instruction.name not in INSTRUCTIONS:
            raise _Refused(f"it uses the pickle instruction {instruction.name}, which arrays do not need")
        # A pickler numbers what it remembers one by one; a number beyond that only makes the reader allocate.
        if instruction.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise _Refused(f"it asks to remember {argument:,} objects after {count:,} instructions")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace(
            "__builtin__", "builtins"
        )  # numpy 2, Python 2
        if (module, name) not in _STAND_INS:
            raise _Refused(f"it names {module}.{name}, which is no array")
        return _STAND_INS[module, name]()


class _Call:
    """A function of ours that a pickle may call, and cannot change (BUILD would set attributes)."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused("it changes a function")


class _Dtype:
    """Stands for numpy.dtype: one of DTYPES, and a byte order."""

    def __init__(self, code: object, *_: object):
        if code not in DTYPES:
            raise _Refused(f"it holds an array of {code!r}, which is no number")
        self.dtype = np.dtype(DTYPES[code])  # type: ignore[index]

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|") or any(field is not None for field in state[2:5]):
            raise _Refused("it holds an array of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray: checked and made when asked for."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, data = state[-4:]  # a version number comes first since numpy 1.0
        self.array = _make(data, dtype, shape, "F" if fortran else "C")


def _make(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if isinstance(data, str):  # Python 2 wrote bytes as text
        data = data.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise _Refused("it holds an array of objects")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise _Refused(f"it holds an array of shape {_short(shape)}")
    if prod(shape) * dtype.dtype.itemsize != len(data):
        raise _Refused(f"it holds an array of shape {list(shape)} in {len(data):,} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _remake(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    array = _Array()
    array.array = _make(data, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it encodes {type(text).__name__} as {_short(encoding)}")
    return text.encode("latin1")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _make(data, dtype, ()).item()


# Made anew for every name met, so that no file can leave anything behind for the next.
_STAND_INS: dict[tuple[str, str], Callable[[], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda: _Call(lambda *_: _Array()),
    ("numpy.core.multiarray", "scalar"):       lambda: _Call(_scalar),
    ("numpy.core.numeric", "_frombuffer"):     lambda: _Call(_remake),  # protocol 5
    ("numpy", "ndarray"):                      lambda: _Call(lambda *_: _Array()),
    ("numpy", "dtype"):                        lambda: _Call(_Dtype),
    ("_codecs", "encode"):                     lambda: _Call(_encode),  # bytes in protocol 2
    ("collections", "OrderedDict"):            lambda: _Call(dict),
    ("builtins", "tuple"):                     lambda: _Call(tuple),  # paddle 2.1: a tensor is (name, array)
    ("builtins", "bytes"):                     lambda: _Call(lambda: b""),  # no bytes in protocol 2
}  # fmt: skip


def _arrays(found: Any, *, inside: bool = False) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not named arrays")
    arrays: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]
        if isinstance(value, _Array) and value.array is not None:
            arrays[str(name)] = value.array
        elif isinstance(value, dict) and not inside and name not in (NAME_TABLE, SLICES):
            arrays[str(name)] = _arrays(value, inside=True)
    for name, how in found.get(SLICES, {}).items():
        arrays[name] = np.concatenate([arrays.pop(part) for part in how["slices"]]).reshape(
            how["OriginShape"]
        )
    return arrays


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _write_array(file: io.BufferedWriter, array: np.ndarray) -> None:
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    code = next(code for code, dtype in DTYPES.items() if dtype == array.dtype.type)
    order = "|" if array.dtype.itemsize == 1 else "<"
    file.write(b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + _integer(0) + pickle.TUPLE1)
    file.write(pickle.SHORT_BINBYTES + b"\x01b" + pickle.TUPLE3 + pickle.REDUCE)
    shape = pickle.MARK + b"".join(map(_integer, array.shape)) + pickle.TUPLE
    file.write(pickle.MARK + _integer(1) + shape)
    file.write(
        b"cnumpy\ndtype\n" + _text(code) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE
    )
    file.write(pickle.MARK + _integer(3) + _text(order) + 3 * pickle.NONE + 2 * _integer(-1) + _integer(0))
    file.write(pickle.TUPLE + pickle.BUILD + pickle.NEWFALSE)
    file.write(pickle.BINBYTES8 + struct.pack("<Q", array.nbytes))
    file.write(array.tobytes())
    file.write(pickle.TUPLE + pickle.BUILD)
