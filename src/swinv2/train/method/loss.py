"""What is made small: cross entropy, or one yes or no for each class where a picture can have several labels.

The mean goes over pictures, whatever their weights: the loss of a batch is then the mean of the losses of its equal
parts, on one device or on many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from swinv2.train.recipes.recipe import Recipe


class Labelled(Protocol):
    """What the loss has to know about the training pictures; a data.Split is one."""

    @property
    def counts(self) -> Sequence[int]: ...

    @property
    def is_multi_label(self) -> bool: ...


@dataclass(frozen=True)
class Loss:
    """logits [B, classes] and targets -> mean loss over the pictures.

    Targets are labels [B], or shares [B, classes] where pictures are mixed or have several labels.

    Args:
        is_binary: one yes or no for each class.
        smoothing: share of a target that is spread over all classes.
        weights: of the classes, [classes], 1 on average over the pictures; None weighs all alike.
    """

    is_binary: bool
    smoothing: float = 0.0
    weights: Tensor | None = None

    @classmethod
    def of(cls, recipe: Recipe, split: Labelled) -> Loss:
        """The loss of a recipe on training pictures.

        Raises:
            ValueError: cross entropy for pictures with several labels.
        """
        if split.is_multi_label and recipe.loss == "cross_entropy":
            raise ValueError(
                "loss is cross_entropy, which knows one label a picture, and these pictures have several; "
                "give --loss bce, or leave it to be chosen"
            )
        is_binary = recipe.loss == "bce" or split.is_multi_label
        weights = balanced(split.counts) if recipe.class_weights == "balanced" else None
        return cls(is_binary, recipe.label_smoothing, weights)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device, non_blocking=True)
        if not self.is_binary:
            each = F.cross_entropy(
                logits, targets, weight=weights, label_smoothing=self.smoothing, reduction="none"
            )
            return each.mean()  # torch's own mean would divide by the weights of the labels
        if not targets.is_floating_point():
            targets = F.one_hot(targets, logits.shape[1])
        # Spread as in cross entropy (and as timm does): half of the smoothing a class would say "maybe" to all.
        targets = targets.to(logits) * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def balanced(counts: Sequence[int]) -> Tensor:
    """Weights that give every class the same say: [classes], as scikit-learn's "balanced"."""
    found = torch.tensor(counts, dtype=torch.float32)
    # A class without pictures weighs as one with a single one: it is only met as the absence of others.
    return found.sum() / (len(counts) * found.clamp(min=1))
