"""Int8 by PyTorch's quantisation of exported graphs (PT2E): weights per channel, activations of linear layers.

With dynamic activations every token has its own range, measured at run time, and results are float: only the products
are in int8. Static ranges come from calibration images; then the results of layers are rounded to int8 as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from executorch.backends.transforms.duplicate_dynamic_quant_chain import DuplicateDynamicQuantChainPass
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer_utils import QuantizationConfig
from torch import fx, nn
from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver, PlaceholderObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from swinv2.runtimes.xnnpack import XnnSwinV2, to_quantise

if TYPE_CHECKING:
    import numpy as np

    from swinv2.runtimes.base import Options

SMALLEST_STEP = 1e-9  # of a scale; the default of the library, 2**-12, is coarser than some layers' weights
BATCH = 4  # calibration images at once


def quantised(
    graph: fx.GraphModule,
    network: XnnSwinV2,
    example: torch.Tensor,
    options: Options,
    calibration: np.ndarray | None,
) -> nn.Module:
    """An exported graph of the network with its layers in int8, but for options.keep_float."""
    is_dynamic = options.activations == "dynamic"
    wanted = set(to_quantise(network, options.keep_float))
    quantizer = XNNPACKQuantizer()
    quantizer.set_filter_function(lambda node: node.op == "get_attr" or _module_of(node) in wanted)
    quantizer.set_operator_type(torch.ops.aten.linear.default, config(is_dynamic=is_dynamic))
    if not is_dynamic:  # XNNPACK has no dynamic int8 for this convolution
        quantizer.set_operator_type(torch.ops.aten.conv2d.default, config(is_dynamic=False))
    prepared = prepare_pt2e(graph, quantizer)
    images = example.numpy() if is_dynamic else calibration  # weights are measured too: one run at least
    assert images is not None
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            prepared(torch.from_numpy(images[start : start + BATCH]))
    converted = convert_pt2e(prepared)
    # q, k and v each scale their common input: shared, it cuts the graph that XNNPACK gets into one for every block.
    DuplicateDynamicQuantChainPass()(converted)
    return converted


def config(*, is_dynamic: bool) -> QuantizationConfig:
    """Symmetric weights per channel; activations per tensor (static) or per token (dynamic)."""
    observer = PlaceholderObserver if is_dynamic else HistogramObserver.with_args(eps=SMALLEST_STEP)
    activations = QuantizationSpec(
        dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine, is_dynamic=is_dynamic,
        observer_or_fake_quant_ctr=observer.with_args() if is_dynamic else observer,
    )  # fmt: skip
    weights = QuantizationSpec(
        dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric, ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=SMALLEST_STEP),
    )  # fmt: skip
    return QuantizationConfig(activations, None if is_dynamic else activations, weights, None, False)


def _module_of(node: fx.Node) -> str:
    """The module that called this operator, by name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""
