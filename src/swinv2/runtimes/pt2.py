"""AOTInductor: the folded network compiled to machine code, in one .pt2 file that PyTorch runs without code of ours.

    torch._inductor.aoti_load_package("model.pt2")(images)      or AOTIModelPackageLoader in C++

It takes any batch; images and logits are float32 in every precision. The code is made for the instruction set of the
machine that exports (x86-64-v4 where it has AVX-512, v3 where it has AVX2), or for its CUDA device, and opens where
that is there. The record is in the file.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from swinv2.artifact import ArtifactError
from swinv2.fold import fold
from swinv2.ops import choose
from swinv2.runtimes import archive
from swinv2.runtimes.archive import digest, read_record, write_record
from swinv2.runtimes.base import Options, Session
from swinv2.runtimes.torch import DTYPES, InFloat32, images_at_once, unsupported

if TYPE_CHECKING:
    from swinv2.model import SwinV2

__all__ = ["cannot_export", "digest", "export", "open", "read_record", "unsupported", "write_record"]

COMPILER = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
LEVELS = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}  # what PyTorch calls a CPU -> what compilers call it
# What AOTInductor says its code uses -> what the CPU must have, by the names of torch.cpu.get_capabilities().
NEEDS = {
    "avx512": ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl"),
    "avx2": ("avx2", "fma3", "bmi2"),
}


def export(
    model: SwinV2, path: Path, options: Options, calibration: np.ndarray | None = None
) -> dict[str, Any]:
    """Compile the network."""
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    dtype, device = DTYPES[options.precision], torch.device(options.device)
    with fresh_cache():  # nothing of former exports, and nothing left behind
        program = program_of(model, dtype, device)
        with torch.no_grad():
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=_settings(device.type))
    archive.rewrite(path, _renamed)
    return {"torch": torch.__version__, "device": device.type, "needs": needs(path)}


def program_of(model: SwinV2, dtype: torch.dtype, device: torch.device) -> torch.export.ExportedProgram:
    """The network as torch.export sees it, for any batch."""
    folded = fold(model, dtype=dtype, backend=kernels_of(model, dtype, device))
    network = InFloat32(folded, dtype).to(device).eval()
    example = torch.zeros(2, folded.config.in_chans, *folded.image_size, device=device)
    with torch.no_grad():
        return torch.export.export(
            network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )


def kernels_of(model: SwinV2, dtype: torch.dtype, device: torch.device) -> str | None:
    """ "triton" where our kernels shall be in the package, as somebody asked: model.backend, or SWINV2_TRITON=1 where
    they can compute. While a network is exported nothing of the kind is chosen."""
    if device.type != "cuda" or model.backend == "triton":
        return model.backend if device.type == "cuda" else None
    size = model.record.preprocess.size if model.record else model.config.image_size
    chosen = {
        choose(
            torch.empty(1, *stage.grid, 3 * stage.dim, dtype=dtype, device=device),
            heads=stage.heads, window=stage.window, shift=(0, 0),
        )
        for stage in model.config.stages(*size)
    }  # fmt: skip
    return "triton" if chosen == {"triton"} else None


def needs(path: Path) -> list[str]:
    """What the code of a package is made for, as AOTInductor calls it: ["avx512", "avx512_vnni"], ["cuda", "9.0"]."""
    import json
    import zipfile

    with zipfile.ZipFile(path) as package:
        (name,) = (name for name in package.namelist() if name.endswith("wrapper_metadata.json"))
        facts = json.loads(package.read(name))
    if facts["AOTI_DEVICE_KEY"] == "cpu":
        return facts["AOTI_CPU_ISA"].lower().split()
    return [facts["AOTI_DEVICE_KEY"], facts["AOTI_COMPUTE_CAPABILITY"]]


def cannot_export(options: Options) -> str | None:
    """Why no package can be compiled here; None where it can."""
    if sys.platform == "win32":
        return "pt2 is compiled on Linux or macOS; choose onnx, or export it there"
    if shutil.which(compiler := COMPILER.split()[0]) is None:
        return f"writing pt2 needs a C++ compiler, and there is no {compiler} here; install g++, or name one in CXX"
    if options.device.partition(":")[0] not in ("cpu", "cuda"):
        return f"pt2 is compiled for cpu or cuda, not for {options.device!r}"
    return unsupported(options.device, options.precision)


class Pt2Session(Session):
    """A compiled package on the device it was compiled for."""

    runtime = "pt2"

    def __init__(self, path: Path, *, device: str, precision: str):
        from torch._inductor import aoti_load_package

        self.record = read_record(path)
        about = archive.about_export(self.record, path, self.runtime)
        self.precision, kind = about.get("precision", "fp32"), about.get("device", "cpu")
        if precision not in ("auto", self.precision):
            raise ValueError(f"{path} is in {self.precision}; export it again with --precision {precision}")
        self.device = kind if device == "auto" else device
        index = torch.device(self.device).index
        if self.device.partition(":")[0] != kind:
            raise ValueError(f"{path} holds code for {kind}; export it again with --device {device}")
        if why := unsupported(self.device, precision) or _lacks(about.get("needs", ())):
            raise ValueError(f"{path} cannot run here: {why}")
        archive.check(path)
        try:
            self._model: Any = aoti_load_package(str(path), device_index=-1 if index is None else index)
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} was compiled with torch {about.get('torch')} and does not load in {torch.__version__}; "
                f"export it again ({str(error).strip().splitlines()[0]})"
            ) from None

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        self.check(images)
        assert self._model is not None, "the session was closed"
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        parts = x.split(images_at_once(self.record, self.device, self.precision))
        return torch.cat([self._model(part) for part in parts]).cpu().numpy()

    def close(self) -> None:
        self._model = None  # takes the files it was unpacked to with it


def open(
    source: str | os.PathLike[str], *, device: str, precision: str, threads: int | None = None
) -> Pt2Session:
    """Open a file that export wrote. threads are set for the whole process, as PyTorch has it."""
    if threads is not None:
        torch.set_num_threads(threads)
    return Pt2Session(Path(source), device=device, precision=precision)


def _settings(device: str) -> dict[str, Any]:
    """Of the compiler: fast code, for machines and thread counts other than these, the same in every run."""
    level = LEVELS.get(torch.backends.cpu.get_cpu_capability())
    strip = "-s " if sys.platform == "linux" else ""
    return {
        "freezing": True,  # weights are constants: packed once, for the products of oneDNN
        "cpp.dynamic_threads": True,  # otherwise the number of threads here is in the code
        **({"cpp.march": level} if level else {}),
        # Names of temporary files, and addresses of Python objects in messages, would be in the code.
        "cpp.cxx": (f"{COMPILER} {strip}-Wno-builtin-macro-redefined -D__FILE__='\"model\"'",),
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.precompile_headers": False,  # every header is read once
        "size_asserts": False,
        "alignment_asserts": False,
    }


def _renamed(name: str) -> str | None:
    """Entries by what they are: AOTInductor names them after the file, and after hashes of where it compiled them."""
    name = f"{archive.ROOT}/{name.partition('/')[2]}"
    if name.endswith((".cpp", "kernel_metadata.json", "serialization_id")):
        return None  # the sources, with paths of this machine, and a random number
    folder, _, file = name.rpartition("/")
    return f"{folder}/model.{file.partition('.')[2]}" if "wrapper" in file else name


def _lacks(needed: list[str]) -> str | None:
    """What of an instruction set this CPU does not have, in words."""
    has = torch.cpu.get_capabilities()
    missing = [word for word in needed if word in NEEDS or word.startswith(("avx", "amx"))]
    missing = [word for word in missing if not all(has.get(flag) for flag in NEEDS.get(word, (word,)))]
    return (
        f"this CPU has no {', '.join(missing)}; export it again on a machine like this one"
        if missing
        else None
    )
