"""One network over several processes: copies that agree on the gradient (DDP), or shares of one (FSDP2).

The network itself keeps its names and is what optimizer, averages and checkpoints see; the model is what a step
calls. whole() and share() go between a tensor and a process's share of it, so that a checkpoint does not know
over how many processes it was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from swinv2 import world
from swinv2.model import SwinV2
from swinv2.train.compute import Compute


class Parallel:
    """A network as the processes of a run call it.

    Args:
        network: on its device; sharded in place where is_sharded.
        is_sharded: divide parameters, gradients and optimizer state over the processes, block by block, for
            models that no device holds whole.
    """

    def __init__(self, network: nn.Module, on: Compute, *, is_sharded: bool):
        self.network, self.world, self.is_sharded = network, world.current(), is_sharded
        self.model = network
        if is_sharded:
            _shard(network, on)
        elif self.world.size > 1:
            # Every parameter is used in every step (drop path multiplies by 0), so none has to be looked for.
            self.model = nn.parallel.DistributedDataParallel(
                network,
                device_ids=[on.device.index] if on.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )

    @contextmanager
    def exchanging(self, is_last: bool) -> Iterator[None]:
        """Around a forward and backward pass: gradients are brought together after the last part of a step."""
        if is_last or self.world.size == 1:
            yield
        elif self.is_sharded:
            self.network.set_requires_gradient_sync(False)  # type: ignore[operator]
            yield
            self.network.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            assert isinstance(self.model, nn.parallel.DistributedDataParallel)
            with self.model.no_sync():
                yield

    def clip(self, parameters: list[nn.Parameter], limit: float) -> Tensor:
        """Clip the gradient to a norm; its norm before, the same in every process."""
        return whole(nn.utils.clip_grad_norm_(parameters, limit))

    def weights(self) -> dict[str, Tensor]:
        """The state_dict, whole and on the CPU. All processes must call it; only the first gets tensors."""
        return gathered(self.network.state_dict())


def _shard(network: nn.Module, on: Compute) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if world.current().size == 1:
        raise ValueError("--shard divides a model over processes, and this is one; add --processes 2 or more")
    if on.precision == "fp16":
        raise ValueError("--shard does not go with --precision fp16; give bf16 or fp32")
    mesh = init_device_mesh(on.device.type, (world.current().size,))
    for block in swin(network).blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def swin(network: nn.Module) -> SwinV2:
    """The SwinV2 in a network that is one, or holds one."""
    return next(module for module in network.modules() if isinstance(module, SwinV2))


def whole(tensor: Tensor) -> Tensor:
    """A tensor from the shares of all processes; any other as it is. All processes must call it."""
    full = getattr(tensor, "full_tensor", None)  # of a DTensor, which is not imported for a run on one device
    return tensor if full is None else full()


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, in the way and on the device that another one is."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        tensor.to(like.device),
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        src_data_rank=None,  # every process has read the same file
    )


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU in the first process, nothing in the others. All of them must call it."""
    is_first, found = world.current().is_first, {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if is_first:
            found[name] = full.detach().cpu()
    return found


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Write whole tensors into those of the same names, each process its share."""
    assert targets.keys() == tensors.keys(), set(targets) ^ set(tensors)
    for name, target in targets.items():
        target.copy_(share(tensors[name], target))


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers, by parameter: {"head.bias/exp_avg": ...}; whole, as gathered() has it."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return gathered(
        {
            f"{names[parameter]}/{key}": value
            for parameter, memory in optimizer.state.items()
            for key, value in memory.items()
        }
    )


def load_optimizer_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """The other way."""
    memory: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        memory.setdefault(owner, {})[key] = tensor
    is_fused = bool(optimizer.param_groups[0].get("fused"))
    for name, parameter in network.named_parameters():
        for key, tensor in memory.get(name, {}).items():
            if tensor.ndim or not parameter.ndim:
                value = share(tensor, parameter).clone()
            else:  # AdamW counts steps, for each parameter, where its kernel wants them
                value = tensor.to(parameter.device if is_fused else "cpu").clone()
            optimizer.state[parameter][key] = value
