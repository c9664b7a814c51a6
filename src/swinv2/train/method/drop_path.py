"""Which residual branches are left out for which picture, as a function of (seed, step, position in the batch).

The model by itself draws from torch's generator, so that its draws depend on how a batch is divided over devices and
parts, and on everything drawn before. Here they are drawn for the total batch, on the CPU, and each part is given its
rows: the same run on one device and on eight, with accumulation, with checkpointing, and after a resume.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swinv2.model import SwinV2
from swinv2.train.method.augment import seed_of


class DropPaths:
    """Hands every block of a network what to keep in the next forward pass.

    Args:
        model: a SwinV2, or something that holds one; wrapped or compiled, its blocks are the same.
    """

    def __init__(self, model: nn.Module, seed: int):
        network = next(module for module in model.modules() if isinstance(module, SwinV2))
        self.blocks = [block for block in network.blocks() if block.drop_path > 0]
        self.seed = seed

    def draw(self, step: int, positions: Tensor, total: int) -> None:
        """Before a forward pass in training, of the pictures at these positions of a total batch."""
        if not self.blocks:
            return
        generator = torch.Generator().manual_seed(seed_of("drop path", self.seed, step))
        rates = torch.tensor([block.drop_path for block in self.blocks])
        chance = torch.rand(total, 2, len(self.blocks), generator=generator)  # two branches in a block
        keep = (chance >= rates).float() / (1 - rates)
        device = next(self.blocks[0].parameters()).device
        rows = keep[positions.cpu()].permute(2, 1, 0)
        rows = rows.to(device, non_blocking=True)  # blocks 2 B; nobody waits until a GPU has it
        for block, mine in zip(self.blocks, rows, strict=True):
            block.keep = mine

    def clear(self) -> None:
        """Let the model draw by itself again."""
        for block in self.blocks:
            block.keep = None
