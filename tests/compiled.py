"""A Triton kernel compiled for a GPU that is not here: what ptxas says of it, and the instructions that it has."""

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
    warps: int
    instructions: int  # of a warp
    loop: int  # those in its innermost loop; 0 without one


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
    resources = *_resources(made.asm["ptx"]), made.metadata.shared, made.metadata.num_warps
    return Compiled(made.asm["ptx"], *resources, *_instructions(made.asm["cubin"]))


FLOATS = {"logit_scale", "scale", "bias", "sums", "deltas", "dscale", "dbias"}
FLOATS |= {"weight", "shift", "keep", "means", "inverses", "dweight", "dshift", "scales"}


def _resources(ptx: str) -> tuple[int, int]:
    """Registers and spilled bytes by ptxas -v, of the assembler that Triton brings."""
    target = re.search(r"\.target (\w+)", ptx)
    assert target
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        said = subprocess.run(
            [_tool("ptxas"), "-v", f"--gpu-name={target[1]}", file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert registers, said
    assert spills, said
    return int(registers[1]), sum(map(int, spills))


def _instructions(cubin: bytes) -> tuple[int, int]:
    """Of the whole program, every one once, and of the loop within all others, as they stand in the machine's code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code = subprocess.run(
            [_tool("nvdisasm"), "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    places: dict[str, int] = {}  # of labels
    loops, count = [], 0
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            places[label[1]] = count
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*);", line):
            back = re.search(r"BRA.*`\((\.L_x_\d+)\)", instruction[1])
            if back and places.get(back[1], count) < count:
                loops.append(range(places[back[1]], count + 1))
            # What follows the last of them fills a line of the cache: a branch to itself, and nothing.
            count += instruction[1] != "NOP" and not (back and places.get(back[1]) == count)
    within = [loop for loop in loops if not any(other != loop and other[0] in loop for other in loops)]
    return count, max(map(len, within), default=0)


def _tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
