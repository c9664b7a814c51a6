"""Triton's kernels, compiled for GPUs that are not here: registers, instructions, no atomics."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter is on: run this file by itself", allow_module_level=True)
pytest.importorskip("triton", reason="there is no Triton for this system")

from compiled import Compiled, compiled

from swinv2.ops.triton import (
    backward,
    diagonals,
    forward,
    launch,
    norm,
    norm_op,
    products,
    products_op,
    rounding,
    small,
)

# map, window, shift: one tile and several, whole and ragged
CASES = {
    "window 8":                   (64, 8, 4),
    "window 8, ragged":           (50, 8, 4),
    "window 16":                  (64, 16, 8),
    "window 12, ragged":          (50, 12, 6),
    "window 7":                   (56, 7, 3),
    "window 24":                  (96, 24, 12),
}  # fmt: skip
MAPS = {"qkv", "out", "grad", "dqkv"}
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program can have
SOME = 16  # bytes: ptxas gives up a register or two where that lets one more program run at a time
# All gradients of a window in one program need a few registers more than a thread has. Eight warps spill less, and need
# 1.6 times the instructions of four with what they spill.
MAY_SPILL = {("tile_gradients", 90): 64, ("tile_gradients", 80): 160}
# In every run those that a training of the published models on an H200 takes; all of them in make test-slow.
QUICK = [(case, torch.bfloat16, 90) for case in ("window 8", "window 16", "window 12, ragged")]
ALL = [
    (case, dtype, capability)
    for case in CASES
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for capability in SHARED
]
EVERY = [
    pytest.param(
        *one, id=f"{one[0]}, {str(one[1])[6:]}, sm_{one[2]}", marks=() if one in QUICK else pytest.mark.slow
    )
    for one in ALL
]


def kernels(case: str, dtype: torch.dtype, capability: int) -> dict[str, Compiled]:
    """All that launch.py would start for such a map with three heads of 32."""
    size, window, shift = CASES[case]
    qkv = torch.empty(1, size, size, 3 * 3 * 32, dtype=dtype, device="meta")
    bias = torch.empty(3, window**2, window**2, device="meta")
    windows = launch.Windows.of(qkv, 3, (window, window), (shift, shift))

    shape = (window, window)

    def sizes(table: dict[str, launch.Tiles], **given: bool) -> launch.Tiles:
        return launch.tiles(table, dtype, shape, 32, **given)

    def constants(table: dict[str, launch.Tiles], **given: bool) -> dict[str, Any]:
        return windows.constants(bias, sizes(table, **given), dtype)

    wanted: dict[Any, dict[str, Any]] = {}
    if launch.is_one_tile(shape, sizes(launch.FORWARD)):
        wanted[small.attend_tile] = constants(launch.FORWARD) | {"KEEP_SUMS": True}
    else:
        wanted[forward.attend] = constants(launch.FORWARD) | {"KEEP_SUMS": True, "PAIRS": True}
    if launch.is_one_tile(shape, sizes(launch.BACKWARD)):
        wanted[small.tile_gradients] = constants(launch.BACKWARD) | {"OF_BIAS": True}
    else:
        wanted |= dict.fromkeys((backward.of_queries, backward.of_keys), constants(launch.BACKWARD))
        wanted[backward.of_bias] = constants(launch.BACKWARD, of_bias=True)
    return {k.__name__: compiled(k, constants, MAPS, dtype, capability) for k, constants in wanted.items()}


@pytest.mark.parametrize(("case", "dtype", "capability"), EVERY)
def test_attention_spills_nothing_and_adds_nothing_by_atomics(case, dtype, capability):
    for name, kernel in kernels(case, dtype, capability).items():
        assert kernel.spilled <= MAY_SPILL.get((name, capability), SOME), (
            f"{name} spills {kernel.spilled} bytes with {kernel.registers} registers"
        )
        assert kernel.shared <= SHARED[capability], name
        assert not re.search(r"\b(atom|red)\.", kernel.ptx), "two programs would add in any order"
        if dtype != torch.float32:
            units = "wgmma" if capability == 90 else "mma.sync"
            assert units in kernel.ptx, f"{name} has no products of matrices by tensor cores"


def test_kernels_are_written_for_older_compilers_too():
    """Triton 3.6, of torch 2.11, takes no tuple within a tuple on the left of an assignment."""
    files = list(Path(forward.__file__).parent.glob("*.py"))
    kernels = [
        node
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, node.decorator_list)
    ]
    assert len(kernels) > 20
    for kernel in kernels:
        for node in ast.walk(kernel):
            targets = node.targets if isinstance(node, ast.Assign) else []
            nested = [
                part for target in targets for part in getattr(target, "elts", []) if hasattr(part, "elts")
            ]
            assert not nested, f"{kernel.name}: {ast.unparse(node)}"


def test_a_map_that_is_one_window_of_one_head_compiles_too():
    """Triton takes every number that is 1 for a constant."""
    qkv = torch.empty(1, 8, 8, 3 * 32, dtype=torch.bfloat16, device="meta")
    windows, bias = launch.Windows.of(qkv, 1, (8, 8), (0, 0)), torch.empty(1, 64, 64, device="meta")
    ones = dict.fromkeys(("windows_down", "windows_across", "heads", "shift_down", "shift_right"), 1)
    for table, kernel, own in (
        (launch.FORWARD, forward.attend, {"KEEP_SUMS": False, "images": 1, "PAIRS": False}),
        (launch.FORWARD, small.attend_tile, {"KEEP_SUMS": False, "images": 1}),
        (launch.BACKWARD, backward.of_queries, {}),
        (launch.BACKWARD, backward.of_keys, {}),
        (launch.BACKWARD, backward.of_bias, {"images": 1, "shares": 1}),
        (launch.BACKWARD, small.tile_gradients, {"images": 1, "OF_BIAS": True}),
    ):
        constants = windows.constants(bias, launch.tiles(table, qkv.dtype, (8, 8), 32), qkv.dtype)
        constants |= ones | own | {"REGIONS": True}
        assert compiled(kernel, constants, MAPS, qkv.dtype, 90).spilled <= SOME


# window: map, and the goal for both products, in FLOP/s on an H200
GOALS = {8: (64, 100e12), 16: (64, 150e12), 24: (96, 150e12)}
PER_SECOND = (
    132 * 4 * 1.75e9
)  # instructions that its multiprocessors begin at most; kernels that wait begin half of it


@pytest.mark.parametrize("window", GOALS)
def test_a_logit_takes_few_enough_instructions(window):
    """Of a window inside the map, at inference: what is needed must be within 60 % of what the goal has time for."""
    size, goal = GOALS[window]
    windows = launch.Windows(1, (size,) * 2, (size // window,) * 2, (window,) * 2, (0, 0), 3, 32)
    sizes = launch.tiles(launch.FORWARD, torch.bfloat16, (window,) * 2, 32)
    constants = windows.constants(torch.empty(3, 1, 1), sizes, torch.bfloat16) | {"KEEP_SUMS": False}
    # The loop goes over images in the one kernel, where what is before it counts for nothing; in the other over keys,
    # for two images.
    if launch.is_one_tile((window,) * 2, sizes):
        made = compiled(small.attend_tile, constants, MAPS, torch.bfloat16, 90)
        needed = made.warps * made.loop / (sizes.queries * sizes.keys)
    else:
        made = compiled(forward.attend, constants | {"PAIRS": True}, MAPS, torch.bfloat16, 90)
        around = (made.instructions - made.loop) * sizes.keys / window**2
        needed = made.warps * (made.loop + around) / (2 * sizes.queries * sizes.keys)
    has_time_for = PER_SECOND / goal * 4 * 32  # for every logit there are two products of 32
    assert made.loop > 0
    assert needed <= has_time_for * 0.6, f"{needed * 32:.1f} of a thread"


def test_a_gelu_and_the_way_back_take_few_instructions():
    """With erf one takes 38 a number, product and store included, longer than memory brings and takes it."""
    sizes = products_op.tile(torch.bfloat16, 1 << 20, 384, 96)
    constants = products_op.constants(sizes, torch.bfloat16, 384, 96)
    maps = {"x", "weight", "bias", "out", "sums", "grad", "dsums"}
    for kernel, own, most in (
        (products.linear_gelu, {"KEEP_SUMS": False}, 18),
        (products.linear_gelu, {"KEEP_SUMS": True}, 19),
        (products.of_sums, {}, 26),
    ):
        made = compiled(kernel, constants | own, maps, torch.bfloat16, 90)
        assert made.instructions * made.warps * 32 / (sizes.tokens * sizes.width) <= most


@pytest.mark.parametrize("channels", [96, pytest.param(1536, marks=pytest.mark.slow)])
@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=pytest.mark.slow)])
def test_norms_spill_nothing_and_add_nothing_by_atomics(channels, capability):
    maps = {"x", "branch", "out", "grad", "dbranch"}
    constants = norm_op.tile(channels) | {"DROPS": True, "num_stages": 1}
    for kernel, own in ((norm.add, {"eps": 1e-5, "KEEP_SUMS": True}), (norm.of_branch, {})):
        made = compiled(kernel, constants | own, maps, torch.bfloat16, capability)
        assert made.spilled <= SOME, f"{kernel.__name__} spills {made.spilled} bytes"
        assert not re.search(r"\b(atom|red)\.", made.ptx)


@pytest.mark.parametrize("window", [(8, 8), pytest.param((24, 24), marks=pytest.mark.slow)])
def test_sums_of_diagonals_spill_nothing_and_add_nothing_by_atomics(window):
    constants = diagonals.constants(list(window)) | {"num_stages": 3}
    made = compiled(diagonals.sums, constants, {"grad", "table"}, torch.float32, 90)
    assert made.spilled <= SOME, f"spills {made.spilled} bytes"
    assert not re.search(r"\b(atom|red)\.", made.ptx)


# Channels of a token that goes in: of tiny's first stage and of large's third, a merged token of which fits no tile.
PRODUCTS = [
    pytest.param(
        channels, dtype, capability, id=f"{channels}, {str(dtype)[6:]}, sm_{capability}",
        marks=() if (channels, dtype, capability) == (96, torch.bfloat16, 90) else pytest.mark.slow,
    )
    for channels in (96, 128, 192, 256, 768)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for capability in SHARED
]  # fmt: skip


@pytest.mark.parametrize(("channels", "dtype", "capability"), PRODUCTS)
def test_products_spill_nothing_and_use_tensor_cores(channels, dtype, capability):
    maps = {"x", "image", "weight", "bias", "scale", "shift", "out", "sums", "grad", "dsums", "inner"}
    outs, norms = 2 * channels, products_op.can_norm(2 * channels)
    sizes = products_op.tile(dtype, 1 << 20, outs, channels, norms=norms)
    constants = products_op.constants(sizes, dtype, outs, channels) | {"NORMS": norms, "eps": 1e-5}
    wanted = [("merge", products.merge, constants)]
    for tokens in (1 << 20, 64):
        sizes = products_op.tile(dtype, tokens, 4 * channels, channels)
        constants = products_op.constants(sizes, dtype, 4 * channels, channels)
        keeping = constants | {"KEEP_SUMS": tokens > 64}  # in training
        wanted.append((f"GELU of {tokens} tokens", products.linear_gelu, keeping))
        wanted.append((f"the way back of {tokens} tokens", products.of_sums, constants))
    if channels <= 256:
        for ins in (channels, 4 * channels):
            for tokens in (1 << 20, 4096):
                sizes = products_op.added_tile(dtype, tokens, channels, ins)
                constants = products_op.constants(sizes, dtype, channels, ins) | {"eps": 1e-5}
                wanted.append((f"a branch of {tokens} tokens from {ins}", products.add_normed, constants))
    sizes = products_op.patch_tile(dtype, 1 << 20, channels, 4, norms=products_op.can_norm(channels))
    constants = products_op.constants(sizes, dtype, channels, 3)
    constants |= {"NORMS": products_op.can_norm(channels), "SIDE": 4, "eps": 1e-5}
    wanted.append(("embed", products.embed, constants))
    for name, kernel, constants in wanted:
        made = compiled(kernel, constants, maps, dtype, capability)
        assert made.spilled <= SOME, f"{name} spills {made.spilled} bytes with {made.registers} registers"
        assert made.shared <= SHARED[capability], (name, made.shared)
        assert not re.search(r"\b(atom|red)\.", made.ptx), f"{name} adds in any order"
        if dtype != torch.float32:
            # Those of Hopper take 64 tokens at least.
            units = "wgmma" if capability == 90 and constants["TOKENS"] >= 64 else "mma.sync"
            assert units in made.ptx, f"{name} has no products of matrices by tensor cores"


@pytest.mark.parametrize("channels", [256, 6144])
def test_rounding_to_float8_spills_nothing(channels):
    made = compiled(
        rounding.round_tile, rounding.tile(channels) | {"num_stages": 1}, {"x"}, torch.bfloat16, 90
    )
    assert made.spilled <= SOME, f"{made.spilled} bytes"
    assert re.search(r"cvt\.rn\.satfinite\.e4m3x2\.f32", made.ptx), "the device has an instruction for it"
