"""Grad-CAM: where a picture speaks for a class (Selvaraju et al., arXiv 1610.02391).

The gradient of the class's logit, averaged over the map, weighs the channels of a stage's output; what remains
above zero is shown. For the last stage the map is the normalised one that the head averages, where Grad-CAM is
the same as CAM: the head's weights applied at every place.
"""

# B batch (1 here), H W map, C channels

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from swinv2.model import SwinV2


class Seen(NamedTuple):
    """A map of a picture, [H, W] from 0 to 1 in the grid of its stage, and the logits that came with it."""

    grid: Tensor
    logits: Tensor


def grad_cam(model: SwinV2, x: Tensor, class_id: int | None = None, stage: int | None = None) -> Seen:
    """Grad-CAM of one picture.

    Args:
        x: [1, C, H, W], normalised; any height and width.
        class_id: default: the predicted one.
        stage: counted from 1; default: the last.

    Raises:
        ValueError: a class or a stage that the model does not have.
    """
    _check(model, class_id)
    number = stage_of(model, stage)
    is_last = number == len(model.layers)
    watched: nn.Module = model.norm if is_last else model.layers[number - 1].blocks[-1]  # type: ignore[union-attr,index,assignment]
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())  # the graph starts here, also where weights are frozen
        return kept[0]

    handle = watched.register_forward_hook(keep)
    try:
        with evaluating(model), torch.enable_grad():
            logits = model(x)  # 1 classes
    finally:
        handle.remove()
    if class_id is None:
        class_id = int(logits[0].argmax())
    output = kept[0]  # 1 H W C: maps are channels-last from the patch embedding to the head
    (gradient,) = torch.autograd.grad(logits[0, class_id], output)
    weights = gradient.mean((1, 2))  # 1 C
    speaks_for = torch.einsum("bhwc,bc->bhw", output.detach(), weights)[0].relu()  # H W
    most = speaks_for.max()
    return Seen(speaks_for / most if most > 0 else speaks_for, logits.detach()[0])


def stage_of(model: SwinV2, stage: int | None) -> int:
    """A stage by its number from 1; None is the last."""
    count = len(model.layers)
    if stage is not None and not 1 <= stage <= count:
        raise ValueError(f"stage is {stage}; the model has stages 1 to {count}")
    return stage or count


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without drop path; afterwards as it was."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def _check(model: SwinV2, class_id: int | None) -> None:
    count = model.config.num_classes
    if not count:
        raise ValueError(f"{model.config.architecture} has no classes (num_classes is 0), only features")
    if class_id is not None and not 0 <= class_id < count:
        raise ValueError(f"class {class_id} is none of the model's; it has classes 0 to {count - 1}")
