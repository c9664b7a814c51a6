"""Which layers suffer most from int8: each is quantised alone, in torch, and the answers are compared.

Weights are rounded per output channel, what goes into a layer per tensor (static) or per token (dynamic): as the
runtimes do it. The network before the layer is run once for all layers of a part.
"""

# B images, H W map, C channels

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from swinv2.checkpoints import load
from swinv2.fold import FoldedSwinV2, fold

LEVELS = 127  # of weights, symmetric; activations have twice as many, with a zero point
IMAGES = 8  # of those it is calibrated on: their order of the layers is that of 64 (docs/log.md)


def rank(source: str, calibration: str, activations: str) -> list[tuple[str, float]]:
    """In a process of its own: the layers of a model file and the error of the answers that each causes in int8.

    Args:
        calibration: a .npy file of preprocessed images.

    Returns:
        names in the folded network ("stages.0.1.fc2") with the mean squared error of the logits, as a share of their
        mean square; the worst first.
    """
    import numpy as np

    network = fold(load(source).eval())
    images = torch.from_numpy(np.load(calibration, mmap_mode="r")[:IMAGES].copy())
    errors = sensitivities(network, images, activations)
    return sorted(errors.items(), key=lambda item: (-item[1], item[0]))


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """What int8 quantises: linear layers and the convolution, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


@torch.inference_mode()
def sensitivities(network: FoldedSwinV2, images: Tensor, activations: str) -> dict[str, float]:
    """Layer -> relative squared error of the logits with this layer alone in int8. images [B, C, H, W]."""
    parts = [part for stage in network.stages for part in stage]  # type: ignore[attr-defined]
    names = {module: name for name, module in layers(network).items()}
    exact = _rest(network, parts, images)
    size = exact.double().square().mean().clamp_min(1e-30)
    errors: dict[str, float] = {}
    x = images
    for i, part in enumerate(parts):
        for layer in layers(part).values():
            with quantised(layer, activations):
                found = _rest(network, parts[i:], x)
            errors[names[layer]] = float((found - exact).double().square().mean() / size)
        x = part(x)
    if isinstance(network.head, nn.Linear):
        with quantised(network.head, activations):
            found = _rest(network, [], x)
        errors["head"] = float((found - exact).double().square().mean() / size)
    return errors


@contextmanager
def quantised(layer: nn.Module, activations: str) -> Iterator[None]:
    """A layer whose weights and inputs are rounded to 8 bits while the context lasts."""
    exact: nn.Parameter = layer.weight  # type: ignore[assignment]

    def rounded(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (
            rounded_activations(args[0], per_token=activations == "dynamic" and isinstance(layer, nn.Linear)),
        )

    hook = layer.register_forward_pre_hook(rounded)
    layer.weight = nn.Parameter(rounded_weight(exact), requires_grad=False)
    try:
        yield
    finally:
        hook.remove()
        layer.weight = exact


def rounded_weight(weight: Tensor) -> Tensor:
    """[out, ...] with 255 levels per output channel, symmetric around 0."""
    flat = weight.reshape(len(weight), -1)
    step = flat.abs().amax(1, keepdim=True).clamp_min(1e-30) / LEVELS
    return ((flat / step).round() * step).reshape(weight.shape)


def rounded_activations(x: Tensor, *, per_token: bool) -> Tensor:
    """With 256 levels from the smallest to the largest value, of each vector of the last axis or of all; 0 stays 0."""
    if per_token:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    else:
        low, high = x.amin(), x.amax()
    low, high = low.clamp_max(0), high.clamp_min(0)
    step = ((high - low) / 255).clamp_min(1e-30)
    zero = (-low / step).round()
    return ((x / step + zero).round().clamp(0, 255) - zero) * step


def _rest(network: FoldedSwinV2, parts: list[nn.Module], x: Tensor) -> Tensor:
    """From what goes into the first of the last parts to the logits."""
    for part in parts:
        x = part(x)
    return network.head(network.norm(x).mean((1, 2)))
