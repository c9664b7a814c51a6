"""A running average of the weights: steadier than the weights of any one step, and often better.

The averages are tensors of the same kind as the parameters, also where these are sharded, and take their place in
the model while it is measured or saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of the parameters that learn.

    Args:
        model: whose weights; averages start as these.
        decay: share of the average that a step keeps. The first steps keep less, (1 + step) / (10 + step): an
            average over the last hundred steps cannot be had from ten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimizer's step; the first is 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, average in self.averages.items():
            average.lerp_(self.parameters[name].detach(), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averages; afterwards, bit for bit what it had."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            weights = parameter.detach().clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(weights)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the parameters."""
        return self.averages

    @torch.no_grad()
    def load_state_dict(self, averages: dict[str, Tensor]) -> None:
        """Averages of the same parameters, as state_dict() gave them."""
        assert averages.keys() == self.averages.keys()
        for name, average in self.averages.items():
            average.copy_(averages[name])
