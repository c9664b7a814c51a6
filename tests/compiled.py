"""A Triton kernel compiled for a GPU that is not here, and what ptxas says of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Compiled:
    ptx: str
    registers: int  # of a thread, 255 at most
    spilled: int  # bytes of a thread that found no register
    shared: int  # bytes of a program


def compiled(
    kernel: Any, constants: dict[str, Any], maps: set[str], dtype: torch.dtype, capability: int
) -> Compiled:
    """The kernel for maps of this dtype, other tensors in float32 and all numbers unknown.

    Args:
        constants: those of the kernel, num_warps and num_stages.
        maps: the parameters that have the dtype of the activations.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = dict(constants)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    types = {}
    for parameter in kernel.params:
        name = parameter.name
        if name in constants:
            types[name] = "constexpr"
        elif name == "rounded":
            types[name] = "*fp8e4nv"
        elif name in maps:
            types[name] = f"*{ELEMENTS[dtype]}"
        else:
            types[name] = "*fp32" if name in FLOATS else "i32"
    # PyTorch's memory is aligned: with that Triton loads 16 bytes at a time.
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, type_ in enumerate(types.values()) if type_.startswith("*")
    }
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return Compiled(made.asm["ptx"], *_resources(made.asm["ptx"]), made.metadata.shared)


FLOATS = {"scale", "bias", "sums", "deltas", "dscale", "dbias"}
FLOATS |= {"weight", "shift", "keep", "means", "inverses", "dweight", "dshift", "scales"}


def _resources(ptx: str) -> tuple[int, int]:
    """Registers and spilled bytes by ptxas -v, of the assembler that Triton brings."""
    import triton

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    target = re.search(r"\.target (\w+)", ptx)
    assert target
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        said = subprocess.run(
            [assembler, "-v", f"--gpu-name={target[1]}", file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert registers, said
    assert spills, said
    return int(registers[1]), sum(map(int, spills))
