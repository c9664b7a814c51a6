"""The engine reads a model file as the Python package does, and refuses every file that it refuses."""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from built import built

from swinv2 import artifact
from swinv2.artifact import KEY, Record
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import parameter_shapes
from swinv2.preprocess import Preprocess

pytestmark = pytest.mark.slow

PROGRAM = built("print_artifact")

# Where the engine is stricter than Python, and why.
STRICTER = re.compile(
    r"is not a safetensors file"  # a key twice, other fields of a tensor, half a surrogate pair
    r"|record that is not JSON"  # the same inside the record
    r"|give (a whole number|one whole number|text|a list|an object|a finite number|a value of the size)"
    r"|format version (1\.0|true)"  # 1 == 1.0 == True in Python
    r"|stages; give 1 to|channels; at most|mlp_ratio is|std above 0|more values than are computed"
    r"|channels, its preprocessing gives"
    r"|of a type that is not read here"
)


class Reader:
    """The engine's reader, asked for one file after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def __call__(self, path: Path, height: int = 64, width: int = 64) -> dict[str, Any]:
        self.process.stdin.write(f"{height} {width} {path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the program ended with status {self.process.wait()} on {path}"
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait() == 0
        self.process.stdout.close()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    started = Reader()
    yield started
    started.close()


def random_config(rng: random.Random) -> SwinV2Config:
    stages = rng.randint(1, 5)
    heads = tuple(rng.choice([1, 2, 4]) for _ in range(stages))
    classes = rng.choice([0, 1, 7])
    return SwinV2Config(
        architecture=rng.choice(["speck", "Äpfel", 'g"\\\n']),
        image_size=(rng.randint(1, 300), rng.randint(1, 300)),
        window=rng.randint(1, 30),
        embed_dim=4 * rng.randint(1, 3),
        depths=tuple(rng.randint(0 if stages > 1 else 1, 3) for _ in range(stages)),
        heads=heads,
        pretrained_windows=tuple(rng.choice([0, (0, 7), (12, 0), rng.randint(0, 24)]) for _ in range(stages)),
        num_classes=classes,
        in_chans=rng.choice([1, 2, 3, 5]),
        patch_size=rng.randint(1, 5),
        mlp_ratio=rng.choice([4, 4.0, 0.5, 1.3, rng.uniform(0.3, 4)]),
        drop_path=rng.choice([0, 0.2]),
        extra_norm_period=rng.choice([0, 0, 1, 2]),
    )


def random_record(rng: random.Random, config: SwinV2Config) -> Record:
    preprocess = Preprocess(
        size=(rng.randint(1, 400), rng.randint(1, 400)), resize=rng.choice(["shorter", "squash"]),
        resize_to=rng.randint(1, 500), interpolation=rng.choice(["bicubic", "bilinear"]),
        mean=tuple(rng.choice([0, 0.5, sum((0.485, 0.456, 0.406)) / 3, rng.random()]) for _ in range(config.in_chans)),
        std=tuple(rng.choice([1, 0.229, rng.random() + 1e-9]) for _ in range(config.in_chans)),
    )  # fmt: skip
    names = tuple(
        rng.choice(["Äpfel", "りんご", 'g"\\', "\U0001f34f", "a\tb", "\x7f"])
        for _ in range(config.num_classes)
    )
    named = rng.random() < 0.5
    return Record(
        config, preprocess, classes=names if named else (), provenance={"loss": rng.choice([1, float("nan")])}
    )


def random_tensors(config: SwinV2Config, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = {torch.float16: 1e-5, torch.float64: 1e30}.get(dtype, 1.0)  # subnormals; beyond a half
    return {
        name: (torch.randn(shape, generator=generator, dtype=torch.float64) * spread).to(dtype)
        for name, shape in parameter_shapes(config).items()
    }


def expected_of(record: Record, tensors: dict[str, torch.Tensor], height: int, width: int) -> dict[str, Any]:
    config, preprocess = record.config, record.preprocess
    digest = hashlib.sha256()
    for name in parameter_shapes(config):
        digest.update(tensors[name].to(torch.float32).numpy().tobytes())
    values = {name: value for name, value in config.to_dict().items() if name != "drop_path"}
    values |= {
        "trained_windows": config.trained_windows, "size": preprocess.size, "squash": preprocess.resize == "squash",
        "resize_to": preprocess.resize_to, "bicubic": preprocess.interpolation == "bicubic",
        "mean": [float(np.float32(m)) for m in preprocess.mean], "std": [float(np.float32(s)) for s in preprocess.std],
        "classes": record.classes, "floats": digest.hexdigest(),
        "stages": [
            [s.index, s.dim, s.depth, s.heads, s.grid, s.window, s.shift, s.span, s.padded]
            for s in config.stages(height, width)
        ],
    }  # fmt: skip
    return json.loads(json.dumps(values))


@pytest.mark.parametrize("seed", range(150))
def test_any_model_is_read_as_in_python(seed, reader, tmp_path):
    rng = random.Random(seed)
    config = random_config(rng)
    dtype = rng.choice([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64])
    record, tensors = random_record(rng, config), random_tensors(config, dtype, seed)
    path = tmp_path / "a ä.safetensors"
    artifact.write(path, record, tensors)
    for height, width in [config.image_size, (rng.randint(1, 2000), rng.randint(1, 2000)), (1, 1)]:
        assert reader(path, height, width) == expected_of(record, tensors, height, width)


# ---------------------------------------------------------------------- what Python refuses

CONFIG = SwinV2Config(
    architecture="seed", image_size=(8, 8), window=2, embed_dim=4, depths=(1, 1), heads=(1, 2),
    pretrained_windows=((0, 3), 2), num_classes=3, in_chans=1, patch_size=2, mlp_ratio=1.5,
)  # fmt: skip
RECORD = Record(
    CONFIG, Preprocess.official(8, 1), classes=("a", "b", "Ä"), synsets=("1", "2", "3"), provenance={"a": [1, None]},
    license="MIT", accuracy={"b": 1.0},
)  # fmt: skip

JUNK = [
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**32 + 2, 2**63, 10**30, 1.0, 2.0, 0.5, -0.5, 1e300, float("nan"),
    float("inf"), "", "2", "abc", "shorter", "squash", "bilinear", [], [0], [1], [1, 1], [2, 2], [1, 1, 1], [1.0, 1.0],
    ["a", "b", "c"], [[1, 1], [1, 1]], [None, None], {}, {"a": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "a.safetensors"
    artifact.write(path, RECORD, random_tensors(CONFIG, torch.float32, 0))
    return path.read_bytes()


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def agree(path: Path, reader: Reader, changed: bytes) -> bool:
    """Whether both read the same or both refuse; where only the engine refuses, it is for a reason we know."""
    path.write_bytes(changed)
    found = reader(path)
    refused = found.get("refused", "")
    assert "\n" not in refused
    try:
        record, tensors = artifact.read(path, framework="pt")
    except Exception as error:  # a damaged record may meet any of them
        assert refused, f"Python refuses it ({error}), the engine does not"
        assert found["status"] == -3
        assert str(path) in refused
        return True
    if not refused:
        assert found == expected_of(record, tensors, 64, 64)
    else:
        assert STRICTER.search(refused), f"only the engine refuses it: {refused}"
    return not refused


def test_wrong_bytes(content, reader, tmp_path):
    rng = random.Random(0)
    end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 2])):
            changed[rng.randrange(end + 20)] = rng.choice([rng.randrange(256), *b'0123456789"\\{}[],: '])
        agree(tmp_path / "a.safetensors", reader, bytes(changed))


def test_bytes_more_and_less(content, reader, tmp_path):
    rng = random.Random(1)
    body = split(content)[1]
    header = content[8 : len(content) - len(body)]
    for _ in range(2000):
        at, lost, added = rng.randrange(len(header)), rng.randint(0, 3), rng.randint(0, 3)
        new = bytes(rng.choice(b'0123456789"\\{}[],: abu\xc3\xa4\xf0') for _ in range(added))
        agree(tmp_path / "a.safetensors", reader, joined(header[:at] + new + header[at + lost :], body))


def test_truncation(content, reader, tmp_path):
    for length in [*range(0, 4000, 7), *range(4000, len(content), 211), len(content) - 1]:
        assert agree(tmp_path / "a.safetensors", reader, content[:length])
    assert agree(tmp_path / "a.safetensors", reader, content + b"\0")
    assert agree(tmp_path / "a.safetensors", reader, content)


def changed_records(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in [*described, "colour"]:
        yield {name: value for name, value in described.items() if name != key}
        yield from (described | {key: junk} for junk in JUNK)
    for part in ("architecture", "preprocess"):
        for key in [*described[part], "colour"]:
            yield described | {part: {name: value for name, value in described[part].items() if name != key}}
            yield from (described | {part: described[part] | {key: junk}} for junk in JUNK)
    for key in ("depths", "heads", "pretrained_windows"):
        yield from (
            described
            | {"architecture": described["architecture"] | {key: [junk, described["architecture"][key][1]]}}
            for junk in JUNK
        )


def test_records(content, reader, tmp_path):
    header, body = split(content)
    described = json.loads(header["__metadata__"][KEY])
    for changed in changed_records(described):
        header["__metadata__"][KEY] = json.dumps(changed, ensure_ascii=False)
        agree(tmp_path / "a.safetensors", reader, joined(json.dumps(header).encode(), body))


def test_rows_of_tensors(content, reader, tmp_path):
    rng = random.Random(2)
    for _ in range(1500):
        header, body = split(content)
        names = [name for name in header if name != "__metadata__"]
        for _ in range(rng.choice([1, 2])):
            row = header[rng.choice(names)]
            match rng.randrange(7):
                case 0:
                    row["dtype"] = rng.choice(["F16", "BF16", "F64", "I32", "f32", "F8_E4M3", "", None, 3])
                case 1:
                    row["shape"] = rng.choice(
                        [[], [0], [-1], [4, 1], [2**63], [2**64], [2**32, 2**32], "4", [4.0], None]
                    )
                case 2:
                    row["data_offsets"] = [o + rng.choice([0, 0, 4, -4, 2**63]) for o in row["data_offsets"]]
                case 3:
                    row["data_offsets"] = rng.choice(
                        [[], [0], [0, 0], [0, 4, 8], [4, 0], [0.0, 4.0], None, ["0", "4"]]
                    )
                case 4:
                    other = header[rng.choice(names)]
                    row["data_offsets"], other["data_offsets"] = other["data_offsets"], row["data_offsets"]
                case 5:
                    row[rng.choice(["dtype", "shape", "data_offsets", "more"])] = rng.choice(JUNK)
                case 6:
                    header[rng.choice(["extra", "norm.weights"])] = dict(row)
        agree(tmp_path / "a.safetensors", reader, joined(json.dumps(header).encode(), body))


def test_files_that_python_can_read_are_not_refused_for_nothing(content, reader, tmp_path):
    """What people and other writers may well do: spaces, another order, escapes, fields left out."""
    header, body = split(content)
    path = tmp_path / "a.safetensors"
    described = json.loads(header["__metadata__"][KEY])
    spaced = json.dumps(header, indent=2, sort_keys=True).encode()
    assert agree(path, reader, joined(spaced, body))
    assert "stages" in reader(path)
    assert agree(path, reader, joined(json.dumps(header).encode() + b"   ", body))
    assert "stages" in reader(path)
    for part, key in [
        ("architecture", "drop_path"),
        ("architecture", "extra_norm_period"),
        ("preprocess", "resize"),
    ]:
        del described[part][key]
    described["new"] = {"a": 1}
    header["__metadata__"] = {KEY: json.dumps(described), "format": "pt"}
    assert agree(path, reader, joined(json.dumps(header).encode(), body))
    assert "stages" in reader(path)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_records_of_the_published_variants_are_within_the_limits(name, reader, tmp_path):
    """Everything is checked before the hash, which is not there."""
    config = VARIANTS[name]
    record = Record(config, Preprocess.official(config.image_size, config.in_chans)).to_dict()
    place, header = 0, {"__metadata__": {KEY: json.dumps(record)}}
    for parameter, shape in parameter_shapes(config).items():
        size = 4 * int(np.prod(shape))
        header[parameter] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:  # of zeros that take no space
        file.write(joined(json.dumps(header).encode(), b""))
        file.truncate(file.tell() + place)
    assert "has no hash of the weights" in reader(path)["refused"]
