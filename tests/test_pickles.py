"""Pickles are programs: what is not an array of numbers is refused, and nothing of it runs.

Both kinds: Paddle's .pdparams through our allow-list, torch's .pth through weights_only=True.
"""

from __future__ import annotations

import builtins
import codecs
import collections
import functools
import importlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swinv2 import pdparams
from swinv2.artifact import ArtifactError
from swinv2.checkpoints.files import read_tensors

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), np.float32),
    "index": np.arange(5),
    "big_endian": np.arange(3).astype(">f4"),
    "half": np.arange(3, dtype=np.float16),
    "flags": np.array([True, False]),
}


def same(found: dict, expected: dict = ARRAYS) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], array) and found[name].shape == array.shape
        for name, array in expected.items()
    )


# ---------------------------------------------------------------------- what Paddle writes


def paddle_state_dict() -> dict:
    """paddle.save of layer.state_dict(): arrays and the table of names."""
    return ARRAYS | {pdparams.NAME_TABLE: {name: f"linear_{i}.w_0" for i, name in enumerate(ARRAYS)}}


class Tensor:
    """What paddle.save makes of a Tensor in a nested object since 2.1: (name, array)."""

    def __init__(self, name: str, array: np.ndarray):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "wrap",
    [
        paddle_state_dict,
        lambda: collections.OrderedDict(paddle_state_dict()),
        lambda: {name: Tensor(name, array) for name, array in ARRAYS.items()},
    ],
    ids=["state-dict", "ordered", "tuples"],
)
def test_what_paddle_save_writes_is_read(wrap, protocol, tmp_path):
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(wrap(), protocol=protocol))
    assert same(pdparams.read(tmp_path / "a.pdparams"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_whole_training_checkpoint_of_paddle_is_read(protocol, tmp_path):
    saved = {
        "model": paddle_state_dict(),
        "opt": {"lr": 0.1},
        "epoch": 7,
        "best": np.float64(0.8),
        "names": ["a", None],
    }
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(saved, protocol=protocol))
    assert same(pdparams.read(tmp_path / "a.pdparams")["model"])


def test_large_arrays_in_slices_are_joined(tmp_path):
    """Protocols 2 and 3: what is above 1 GiB is cut, flattened, and described."""
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    saved = {"w@@.0": whole.ravel()[:7], "w@@.1": whole.ravel()[7:]}
    saved[pdparams.SLICES] = {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}}
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(saved, protocol=2))
    assert same(pdparams.read(tmp_path / "a.pdparams"), {"w": whole})


def test_numpy_1_and_python_2_wrote_other_names(tmp_path):
    text = pickle.dumps(ARRAYS, protocol=2)
    old = text.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != text
    (tmp_path / "a.pdparams").write_bytes(old.replace(b"cbuiltins\n", b"c__builtin__\n"))
    assert same(pdparams.read(tmp_path / "a.pdparams"))


# ---------------------------------------------------------------------- what we write


class OnlyNumpy1(pickle.Unpickler):
    """Knows the three names that numpy 1.x writes, and no other; they exist in numpy 2 as well."""

    def find_class(self, module, name):
        assert (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
        return getattr(importlib.import_module(module), name)


def test_numpy_1_and_paddle_read_what_is_written(tmp_path):
    pdparams.write(tmp_path / "a.pdparams", ARRAYS)
    content = (tmp_path / "a.pdparams").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = OnlyNumpy1(io.BytesIO(content), encoding="latin1").load()
        assert pickle.loads(content).keys() == found.keys()
    assert found.pop(pdparams.NAME_TABLE) == {name: name for name in ARRAYS}
    assert same(found)
    assert all(array.dtype == ARRAYS[name].dtype.newbyteorder("<") for name, array in found.items())
    assert b"numpy._core" not in content


def test_what_is_written_is_read(tmp_path):
    pdparams.write(tmp_path / "a.pdparams", ARRAYS)
    assert same(pdparams.read(tmp_path / "a.pdparams"))


# ---------------------------------------------------------------------- what must not run


class Reduced:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def command(canary: Path) -> str:
    return f"touch {canary}"


def attacks(canary: Path) -> dict[str, object]:
    """Objects whose unpickling, were it allowed, makes the canary or does something else that no array does."""
    code = f"__import__('os').system({command(canary)!r})"
    matrix = ARRAYS["matrix"]
    reconstruct = matrix.__reduce__()[0]
    return {
        "os.system": Reduced(os.system, command(canary)),
        "subprocess": Reduced(subprocess.call, ["touch", str(canary)]),
        "eval": Reduced(eval, code),
        "exec": Reduced(exec, code),
        "getattr": Reduced(getattr, ARRAYS, "clear"),
        "import": Reduced(__import__, "os"),
        "nested": {"model": {"layers.0.weight": [(matrix, {"x": Reduced(os.system, command(canary))})]}},
        "open": Reduced(open, str(canary), "w"),
        "partial": Reduced(functools.partial, os.system, command(canary)),
        "codecs": Reduced(codecs.decode, b"636f6465", "hex"),
        "codecs rot13": Reduced(codecs.encode, "code", "rot13"),
        "our own": Reduced(pdparams.write, str(canary), ARRAYS),
        "our own eval": Reduced(read_tensors, str(canary)),
        "paddle's LoDTensor": Reduced(eval, "data", {"data": matrix}),
        "reconstruct another class": Reduced(
            reconstruct, dict, (0,), b"b", state=(1, (1,), np.dtype("f4"), False, b"1234")
        ),
        "array of objects": np.array([Reduced(os.system, command(canary))], dtype=object),
        "array of records": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
        "array of text": np.array(["a", "b"]),
        "dtype with object flags": Reduced(
            np.dtype, "f4", False, True, state=(3, "|", None, None, None, -1, -1, 63)
        ),
        "fromfile": Reduced(np.fromfile, str(canary)),
        "load": Reduced(np.load, str(canary)),
        "memmap": Reduced(np.memmap, str(canary), "uint8", "w+", 0, (4,)),
        "set": Reduced(set, (1, 2)),
        "type": Reduced(type, "X", (), {}),
        "a class of the standard library": collections.Counter("abc"),
        "a generator of ours": importlib.import_module("swinv2.config").SwinV2Config(),
    }


NAMES = sorted(attacks(Path("canary")))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pdparams_is_refused_and_nothing_of_it_runs(name, protocol, tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "bad.pdparams").write_bytes(pickle.dumps({"w": attacks(canary)[name]}, protocol=protocol))
    try:
        found = pdparams.read(tmp_path / "bad.pdparams")
    except ArtifactError as error:
        assert "bad.pdparams" in str(error)
        assert "\n" not in str(error)
    else:  # a harmless reading: it calls nothing, and gives nothing that is no array
        assert name in ("dtype with object flags", "reconstruct another class")
        assert all(type(array) is np.ndarray for array in found.values())
    assert not canary.exists()


# In every checkpoint of mmengine: arrays of numpy, and getattr. What stands for them in a .pth does nothing at all.
UNREAD = {
    "getattr", "reconstruct another class", "array of records", "array of text", "dtype with object flags",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pth_is_refused_and_nothing_of_it_runs(name, zipped, suffix, tmp_path):
    canary, bad = tmp_path / "canary", tmp_path / f"bad{suffix}"
    saved = {"model": {"w": torch.zeros(2)}, "x": attacks(canary)[name]}
    torch.save(saved, bad, _use_new_zipfile_serialization=zipped)
    try:
        assert read_tensors(bad).keys() == {"w"}
    except ArtifactError as error:
        assert f"bad{suffix} is " in str(error)
        assert "\n" not in str(error)
    else:
        on_the_list_of_torch = {"a class of the standard library", "set", "codecs rot13"}  # they make data
        assert name in on_the_list_of_torch | UNREAD
    assert not canary.exists()


def test_a_bare_pickle_with_the_suffix_of_torch_goes_through_the_allow_list(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Reduced(os.system, command(canary)), protocol=2))
    with pytest.raises(ArtifactError, match=r"names (posix|nt)\.system"):
        read_tensors(tmp_path / "bad.pth")
    assert not canary.exists()


def refused(content: bytes, tmp_path: Path) -> str:
    (tmp_path / "bad.pdparams").write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        pdparams.read(tmp_path / "bad.pdparams")
    return str(error.value)


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (b"cos\nsystem\n.", "names os.system"),
        (b"cbuiltins\neval\n.", "names builtins.eval"),
        (b"cswinv2.pdparams\nread\n.", "names swinv2.pdparams.read"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "names numpy.core.multiarray.fromfile"),
        (b"cnumpy\ncore.multiarray._reconstruct\n.", "names numpy.core.multiarray._reconstruct"),
        (b"\x8c\x02os\x8c\x06system\x93.", "names os.system"),
        (b"(S'touch canary'\nios\nsystem\n.", "instruction STRING|instruction INST"),
        (b"(cos\nsystem\no.", "instruction OBJ|names os.system"),
        (b"ccollections\nOrderedDict\n)\x81.", "instruction NEWOBJ"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"Pname\n.", "instruction PERSID"),
        (b"\x97.", "instruction NEXT_BUFFER"),
        (b"}r\xff\xff\xff\x7f.", "remember 2,147,483,647 objects"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7tR.", "encodes str as utf-7"),
        (b"c_codecs\nencode\n}X\x08\x00\x00\x00functionNsb.", "changes a function"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.", "an array of 'O8'"),
    ],
)
def test_each_forbidden_instruction_is_named(instructions, words, tmp_path):
    message = refused(b"\x80\x02" + instructions, tmp_path)
    assert any(word in message for word in words.split("|")), message


def array_pickle(shape: bytes, data: bytes, dtype: bytes = b"f4") -> bytes:
    """A .pdparams with one array whose shape and bytes need not go together."""
    return (
        b"\x80\x04}(X\x01\x00\x00\x00wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape + b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype + b"\x89\x88\x87R\x89C"
        + bytes([len(data)]) + data + b"tbu."
    )  # fmt: skip


def test_an_array_must_have_the_bytes_that_its_shape_says(tmp_path):
    (tmp_path / "good.pdparams").write_bytes(array_pickle(b"K\x02\x85", bytes(8)))
    assert same(pdparams.read(tmp_path / "good.pdparams"), {"w": np.zeros(2, np.float32)})
    assert "[1000000000000]" in refused(
        array_pickle(b"\x8a\x06\x00\x10\xa5\xd4\xe8\x00\x85", bytes(8)), tmp_path
    )
    assert "shape" in refused(array_pickle(b"J\xff\xff\xff\xff\x85", bytes(8)), tmp_path)
    assert "shape" in refused(array_pickle(b"K\x02", bytes(8)), tmp_path)
    assert "'O'" in refused(array_pickle(b"K\x01\x85", bytes(8), b"O"), tmp_path)


def test_lengths_beyond_the_file_allocate_nothing(tmp_path):
    for instruction in (
        b"X\xff\xff\xff\x7f",
        b"B\xff\xff\xff\x7f",
        b"\x8e" + struct.pack("<Q", 1 << 62),
        b"T\xff\xff\xff\x7f",
    ):
        assert "copy or download it again" in refused(b"\x80\x04" + instruction + b"short", tmp_path)


def test_deep_nesting_is_no_way_to_crash(tmp_path):
    depth = 200_000
    (tmp_path / "bad.pdparams").write_bytes(
        b"\x80\x04}X\x01\x00\x00\x00w" + b"(" * depth + b"N" + b"t" * depth + b"s."
    )
    assert pdparams.read(tmp_path / "bad.pdparams") == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_an_error_of_one_sentence_or_harmless(folder, place, byte, cut):
    path = folder / "damaged.pdparams"
    pdparams.write(path, {"matrix": ARRAYS["matrix"], "scalar": ARRAYS["scalar"]})
    content = bytearray(path.read_bytes())
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] = byte
    path.write_bytes(content)
    try:
        found = pdparams.read(path)
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:
        assert all(type(array) in (np.ndarray, dict) for array in found.values())


def test_no_instruction_is_allowed_that_pickletools_does_not_know():
    assert {op.name for op in pickletools.opcodes} >= pdparams.INSTRUCTIONS


def test_plain_objects_of_official_training_checkpoints_are_data(tmp_path):
    """microsoft/Swin-Transformer stores its yacs configuration, others an argparse.Namespace: read as data."""
    module = type(builtins)("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    node = module.CfgNode(MODEL=module.CfgNode(TYPE="swinv2"), SEED=0)
    node.__dict__["__immutable__"] = True
    import argparse
    import sys

    sys.modules["yacs"], sys.modules["yacs.config"] = type(builtins)("yacs"), module
    try:
        torch.save(
            {"model": {"w": torch.ones(2)}, "config": node, "args": argparse.Namespace(lr=1)},
            tmp_path / "c.pth",
        )
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]
    assert torch.equal(read_tensors(tmp_path / "c.pth")["w"], torch.ones(2))
