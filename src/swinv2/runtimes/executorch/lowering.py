"""From the model to a program: exported by torch, and handed to XNNPACK as a whole.

ExecuTorch 1.5 leaves every reshape and slice with a batch that is known at run time only to its own kernels, which
cuts the graph into pieces and copies between them. XNNPACK itself takes both: a 0 among the sizes is whatever it is
then. WithOpenBatch, OpenSlice and the slices written by it say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from executorch.backends.xnnpack.operators.node_visitor import get_node_visitors, register_node_visitor
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS, SliceCopyConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.dialects._ops import ops
from executorch.exir.pass_base import ExportPass, PassResult
from executorch.exir.passes import MemoryPlanningPass
from torch import fx

from swinv2.fold import fold
from swinv2.runtimes.executorch.int8 import quantised
from swinv2.runtimes.xnnpack import for_xnnpack

if TYPE_CHECKING:
    import numpy as np

    from swinv2.model import SwinV2
    from swinv2.runtimes.base import Options

MOST_IMAGES = 8  # of one call; XNNPACK reserves memory for so many, 11 MB each for a tiny model at 256 pixels
EXAMPLE = 2  # torch takes a batch of 1 for a constant


def lower(model: SwinV2, options: Options, calibration: np.ndarray | None) -> bytes:
    """The program; calibration images [N, C, H, W] are for static int8."""
    network = for_xnnpack(fold(model), sums=False)
    shape = (EXAMPLE, network.config.in_chans, *network.image_size)
    example = (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
    batch = ({0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)},)
    exported = torch.export.export(network, example, dynamic_shapes=batch)
    if options.precision == "int8":
        plain = quantised(exported.module(), network, *example, options, calibration)
        exported = torch.export.export(plain, example, dynamic_shapes=batch)
    lowered = to_edge_transform_and_lower(
        exported, transform_passes=[WithOpenBatch()], partitioner=[XnnpackPartitioner(configs=CONFIGS)]
    )
    # Memory for images is the caller's: planned, it would be taken for the largest batch.
    planning = MemoryPlanningPass(alloc_graph_input=False)
    return lowered.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer


class WithOpenBatch(ExportPass):
    """Reshapes name the dimension that depends on the batch -1, and do not compute it."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        graph = graph_module.graph
        for node in graph.nodes:
            if node.op == "call_function" and node.target is ops.edge.aten.view_copy.default:
                x, shape = node.args
                if sum(not isinstance(side, int) for side in shape) == 1:
                    node.args = (x, [side if isinstance(side, int) else -1 for side in shape])
        graph.eliminate_dead_code()
        graph_module.recompile()
        return PassResult(graph_module, True)


class OpenSlice(SliceCopyConfig):
    """Slices of tensors whose batch is open go to XNNPACK too; they are never along the batch."""

    def check_constraints(self, node: fx.Node, ep: torch.export.ExportedProgram) -> bool:
        dim, step = node.args[1] % node.meta["val"].dim(), node.args[4] if len(node.args) > 4 else 1
        return self.check_common_constraints(node, ep) and bool(dim != 0 and step == 1)


class OpenSliceVisitor(type(get_node_visitors(None, {}, None)["aten.slice_copy.Tensor"])):  # type: ignore[misc]
    """Writes a slice with a 0 for the batch: as many as come."""

    def define_node(
        self, node: fx.Node, xnn_graph: Any, vals_to_ids: dict[fx.Node, int], debug_handle: int
    ) -> None:
        super().define_node(node, xnn_graph, vals_to_ids, debug_handle)
        written = xnn_graph.xnodes[-1].xnode_union
        written.sizes = [
            size if isinstance(side, int) else 0
            for size, side in zip(written.sizes, node.meta["val"].shape, strict=True)
        ]


register_node_visitor(OpenSliceVisitor)  # in place of ExecuTorch's own, in this process
CONFIGS = [OpenSlice if config is SliceCopyConfig else config for config in ALL_PARTITIONER_CONFIGS]
