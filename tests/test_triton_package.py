"""What compilers for GPUs get to see of window attention, by tensors that have shapes and devices and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter is on: run this file by itself", allow_module_level=True)
pytest.importorskip("triton", reason="there is no Triton for this system")

import triton
from conftest import SMALL, randomized
from triton.backends.compiler import GPUTarget

from swinv2 import ops
from swinv2.config import SwinV2Config
from swinv2.fold import fold
from swinv2.model import SwinV2
from swinv2.ops import products
from swinv2.ops.triton import norm_op, op, products_op  # noqa: F401  each registers operators
from swinv2.ops.triton.forward import attend
from swinv2.ops.triton.small import attend_tile
from swinv2.runtimes import pt2

SHALLOW = SwinV2Config(**SMALL.to_dict() | {"depths": (2, 1, 1, 1)})  # one shifted block
BLOCKS = 5


class H200:
    """As far as Triton asks a driver while it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Nothing of ours refuses, and Triton compiles for a device."""
    monkeypatch.setattr(ops.triton, "refusal", lambda *_: None)
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(H200())
    yield
    triton.runtime.driver._active = before


class AsTuple(nn.Module):
    """A module that answers with a tuple, as AOTAutograd wants it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.module(x),)


def network_of(backend: str | None, window: int = 4) -> nn.Module:
    config = replace(SHALLOW, window=window)
    return fold(randomized(SwinV2(config)).eval(), dtype=torch.bfloat16, backend=backend)


def on_cuda(network: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The same with tensors of a CUDA device that is not there."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = mode.from_tensor(tensor).detach().to("cuda")
                    tensors[name] = nn.Parameter(fake, False) if tensors is module._parameters else fake
    return network


def exported(network: nn.Module, mode: FakeTensorMode) -> tuple[torch.export.ExportedProgram, Tensor]:
    """The network on a CUDA device that is not there, for any batch, and an example."""
    x = torch.empty(2, 3, 64, 64, device="cuda")
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(on_cuda(network, mode), (x,), dynamic_shapes=shapes), x


# Maps of 16, 8, 4 and 2 tokens a side: with windows of 16 the first is several tiles.
@pytest.mark.parametrize(
    ("window", "kernels"), [(4, [attend_tile] * BLOCKS), (16, [attend] * 2 + [attend_tile] * 3)]
)
@torch.no_grad()
def test_a_package_gets_the_kernels_themselves(window, kernels, on_a_gpu):
    """AOTInductor could only call back into Python for an operator that it does not look into."""
    from torch._functorch.aot_autograd import aot_export_module
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional

    network = network_of("triton", window)
    with FakeTensorMode() as mode:
        program, x = exported(network, mode)
        graph = aot_export_module(AsTuple(program.module()), (x,), trace_joint=False)[0].graph
    assert [str(node.target) for node in program.graph.nodes if "swinv2" in str(node.target)] == [
        "swinv2.window_attention.default"
    ] * BLOCKS
    launches = [node for node in graph.nodes if node.target is triton_kernel_wrapper_functional]
    assert not [node for node in graph.nodes if "swinv2" in str(node.target)]
    assert len(launches) == BLOCKS
    for node, wanted in zip(launches, kernels, strict=True):
        kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
        assert getattr(kernel, "fn", kernel) is wanted
        assert node.kwargs["tensors_to_clone"] == ["out"]  # so much does Triton say is written
    shifted = [node.kwargs["kwargs"]["REGIONS"] for node in launches]
    assert shifted == [False, window == 4, False, False, False]  # the mask is computed, not read


MEMORY = {"aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::detach"}


class Launches(TorchDispatchMode):
    """The operators that compute, in order: neither views nor memory nor questions about a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        schema = function._schema
        answers = any("Tensor" in str(returned.type) for returned in schema.returns)
        if answers and not function.is_view and schema.name not in MEMORY:
            self.names.append(schema.name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("most", [256, 64])
@torch.no_grad()
def test_a_folded_model_launches_five_kernels_a_block_or_seven(most, on_a_gpu, monkeypatch):
    """Of one picture a GPU is done sooner than it is told what to do: whatever else were launched would be seen."""
    monkeypatch.setattr(ops.triton, "IS_CHOSEN", True)
    monkeypatch.setattr(products, "BRANCH", products.BRANCH._replace(most=most))
    network = network_of(None)
    with FakeTensorMode() as mode, Launches() as launched:
        on_cuda(network, mode)
        launched.names.clear()
        network(torch.empty(1, 3, 64, 64, device="cuda", dtype=torch.bfloat16))
    product, norm = "aten::addmm", "swinv2::add_norm"
    stages = []
    for stage in SHALLOW.stages(64, 64):
        end = ["swinv2::add_normed"] if stage.dim <= most else [product, norm]
        block = [product, "swinv2::window_attention", *end, "swinv2::linear_gelu", *end]
        stages.append(block * stage.depth)
    merged = [[], *[["swinv2::merge"]] * 3]
    body = [name for merge, stage in zip(merged, stages, strict=True) for name in (*merge, *stage)]
    assert launched.names == ["swinv2::embed", *body, "aten::native_layer_norm", "aten::mean", product]


@torch.no_grad()
def test_an_export_has_them_where_somebody_asks(on_a_gpu, monkeypatch):
    model = SwinV2(SHALLOW)
    with FakeTensorMode():
        for asked, chosen, wanted in (
            (None, False, None),
            ("triton", False, "triton"),
            (None, True, "triton"),
        ):
            model.backend = asked
            monkeypatch.setattr(ops.triton, "IS_CHOSEN", chosen)
            assert pt2.kernels_of(model, torch.bfloat16, torch.device("cuda")) == wanted
            assert pt2.kernels_of(model, torch.bfloat16, torch.device("cpu")) is None
        assert pt2.kernels_of(model, torch.float64, torch.device("cuda")) is None  # which it cannot compute


@torch.no_grad()
def test_other_exports_have_none_of_our_operators(on_a_gpu, monkeypatch):
    monkeypatch.setattr(ops.triton, "IS_CHOSEN", True)
    network = network_of(None)
    with FakeTensorMode() as mode:
        program, _ = exported(network, mode)
    assert not [node for node in program.graph.nodes if "swinv2" in str(node.target)]


def test_a_compiler_that_keeps_what_it_made_knows_our_sources():
    """It finds kernels by their names in the operator's functions; otherwise it would keep those of another version."""
    from torch._library.triton import get_triton_kernels_for_op

    assert set(get_triton_kernels_for_op("swinv2::window_attention")) == {attend, attend_tile}
