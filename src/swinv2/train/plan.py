"""What a run will take, before it is begun: steps, learning rates, memory; and what would take less memory.

Nothing is built or read but the size of a teacher. memory.py has the arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2.config import VARIANTS, Pair, SwinV2Config, pair, resolve
from swinv2.counts import macs, parameters
from swinv2.train.memory import Load, Memory, peak
from swinv2.train.recipes import settings
from swinv2.train.recipes.recipe import Recipe, Settled
from swinv2.verbs import Exit

if TYPE_CHECKING:
    from swinv2.data import Split

GB = 2**30
# What a process takes beside its tensors: Python and libraries, scratch of kernels, freed memory that the allocator
# keeps. Measured on a CPU, where it was 0.9 to 1.5 GB (docs/plan.md); not measured elsewhere.
OUTSIDE = {"cpu": 1.2 * GB, "cuda": 1.0 * GB, "mps": 1.0 * GB}
SMALLEST = 64  # pixels a side below which no smaller picture is suggested
FROZEN = ("none", "embed", "stage1", "stage2", "stage3", "stage4")
BACKWARD = 2  # multiply-adds of a backward pass, in forward passes


@dataclass(frozen=True)
class Plan:
    """A run in figures.

    Args:
        config: of the network; recipe: with nothing left open.
        images: to learn from.
        processes: that share every batch; kind: of their devices.
        batch: pictures of a step, over all processes; micro: of one forward pass of one process.
        memory: of one process at its fullest moment, without the process itself and pictures that are kept decoded.
        capacity: bytes that a device has; None where that is not known.
    """

    config: SwinV2Config
    recipe: Settled
    images: int
    classes: int
    processes: int
    kind: str
    is_sharded: bool
    batch: int
    micro: int
    memory: Memory
    capacity: int | None

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole run."""
        again = 1 if self.recipe.checkpointing else 0
        return macs(self.config) * (1 + BACKWARD + again) * self.steps * self.batch

    @property
    def fits(self) -> bool | None:
        """Whether a device has the memory; None where that is not known."""
        return (
            None if self.capacity is None else self.memory.total + OUTSIDE.get(self.kind, GB) <= self.capacity
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; memory in bytes."""
        return {
            "model": self.config.architecture,
            "images": self.images,
            "classes": self.classes,
            "processes": self.processes,
            "device": self.kind,
            "epochs": self.recipe.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.steps,
            "batch": self.batch,
            "micro_batch": self.micro,
            "learning_rate": self.recipe.learning_rate(self.batch),
            "multiply_adds": self.macs,
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "capacity": self.capacity,
            "fits": self.fits,
            "saving": [asdict(setting) | {"memory": setting.memory.total} for setting in savings(self)],
        }

    def __str__(self) -> str:
        recipe, batch = self.recipe, self.batch
        rates = (recipe.learning_rate(batch, rate) for rate in (recipe.warmup_lr, recipe.lr, recipe.min_lr))
        first, highest, last = (f"{rate:.3g}" for rate in rates)
        end = f"x {recipe.decay_rate:g} after epoch {', '.join(map(str, recipe.decay_epochs))}"
        over = f" = {self.processes} x {recipe.accumulate} x {self.micro}" if batch != self.micro else ""
        parts = ", ".join(f"{name} {_gb(n)}" for name, n in asdict(self.memory).items() if n >= 0.005 * GB)
        there = "" if self.capacity is None else f" of {_gb(self.capacity)}"
        lines = [
            f"model    {self.config.architecture}, {parameters(self.config):,} parameters, "
            f"image {self.config.image_size[0]} x {self.config.image_size[1]}"
            + (f", {self.classes} classes" if self.classes else ", no head"),
            f"steps    {recipe.epochs} epochs of {self.steps_per_epoch:,} steps = {self.steps:,} steps on "
            f"{self.images:,} pictures, {self.macs:.3g} multiply-adds",
            f"batch    {batch}{over} (processes x parts x pictures)" if over else f"batch    {batch}",
            f"rate     {first} to {highest} in {recipe.warmup_epochs:g} epochs, then "
            + (end if recipe.schedule == "steps" else f"cosine to {last}"),
            f"memory   {_gb(self.memory.total)}{there} for the tensors of a process, on {self.kind} in "
            f"{recipe.precision}: {parts}",
            f"         and about {_gb(OUTSIDE.get(self.kind, GB))} for the process itself",
        ]
        if self.fits is False:
            lines.append("         that is more than there is; what would help:")
        lines += [f"{'less':<8} {setting}" for setting in savings(self)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Saving:
    """A setting that takes less memory.

    Args:
        option: as it is written on the command line.
        cost: what it changes beside memory.
        memory: with it.
        saved: bytes.
    """

    option: str
    cost: str
    memory: Memory
    saved: int

    def __str__(self) -> str:
        return f"{self.option}: {_gb(self.memory.total)}, {_gb(self.saved)} less ({self.cost})"


def plan(
    config: SwinV2Config,
    recipe: Recipe,
    *,
    images: int,
    classes: int,
    world: int = 1,
    device: str = "cpu",
    is_sharded: bool = False,
) -> Plan:
    """What a run of a recipe will take.

    Args:
        config: of the network, at the size that it is measured at.
        images: to learn from; classes: of them.
        world: processes; device: cpu, cuda, cuda:1 or mps.

    Raises:
        ValueError: a batch that cannot be divided over the processes.
    """
    settled = recipe.settled(images=images, classes=classes, config=config)
    kind = device.partition(":")[0]
    if settled.precision == "auto":
        settled = replace(settled, precision="fp32" if kind == "cpu" else "bf16")
    parts = world * settled.accumulate
    batch = min(settled.batch_size, images)
    if parts > 1:
        batch -= batch % (2 * parts)
    if not batch:
        raise ValueError(
            f"{images} pictures cannot be divided over {world} processes x {settled.accumulate} parts in pairs; "
            f"give fewer of them"
        )
    draft = Plan(
        config,
        settled,
        images,
        classes,
        world,
        kind,
        is_sharded,
        batch,
        batch // parts,
        _NONE,
        capacity(kind),
    )
    return replace(draft, memory=_memory(draft))


def show(
    train: Split,
    model: str,
    recipe: str,
    overrides: Mapping[str, Any],
    *,
    classes: int,
    processes: int | None,
    device: str,
    is_sharded: bool,
    json: bool,
) -> int:
    """What a command with --plan prints instead of beginning a run; the exit code.

    Args:
        train: pictures to learn from; classes: 0 for a network without a head.
        processes: that were asked for; None for those that there are.
    """
    from swinv2 import console, world
    from swinv2.train.compute import Compute

    asked = settings.load(recipe, **overrides)
    config = replace(_config(model, asked), num_classes=classes)
    on = Compute.of(device, asked.precision)
    asked = settings.load(asked, precision=on.precision)  # what auto means here
    planned = plan(
        config, asked, images=len(train), classes=classes,
        world=processes or world.current().size, device=on.kind, is_sharded=is_sharded,
    )  # fmt: skip
    if json:
        console.emit_json(planned.to_dict())
    else:
        console.stdout().print(str(planned), markup=False)
    return Exit.DONE


def savings(planned: Plan) -> list[Saving]:
    """Settings that would take less memory, those first that do not change what is learnt."""
    found = []
    for option, cost, other in _others(planned):
        memory = _memory(other)
        saved = planned.memory.total - memory.total
        if saved > 0.02 * planned.memory.total:
            found.append(Saving(option, cost, memory, saved))
    return found


def advice(
    config: SwinV2Config,
    recipe: Recipe,
    *,
    images: int,
    classes: int,
    world: int = 1,
    device: str = "cpu",
    is_sharded: bool = False,
) -> str:
    """A sentence for a run that has met the end of the memory: what it needs, and what would need less."""
    planned = plan(
        config, recipe, images=images, classes=classes, world=world, device=device, is_sharded=is_sharded
    )
    there = "" if planned.capacity is None else f" and {planned.kind} has {_gb(planned.capacity)}"
    options = "; ".join(map(str, savings(planned))) or "a smaller model"
    return f"not enough memory: a step needs about {_gb(planned.memory.total)}{there}. What would help: {options}"


def capacity(kind: str) -> int | None:
    """Bytes of memory of a device of this machine; of a CPU, what this process may use of the machine's."""
    if kind == "cpu":
        if not hasattr(os, "sysconf"):
            return None
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = Path("/sys/fs/cgroup/memory.max")  # of a container
        allowed = limit.read_text().strip() if limit.exists() else "max"
        return min(there, int(allowed)) if allowed.isdigit() else there
    import torch

    if kind == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    if kind == "mps" and torch.backends.mps.is_available():
        return torch.mps.recommended_max_memory()
    return None


def _config(model: str, recipe: Recipe) -> SwinV2Config:
    """The network of a run at its image size, by a name or from a file; no weights are fetched."""
    if not Path(model).exists():
        config = VARIANTS[resolve(model)]
    else:
        from swinv2 import checkpoints

        config = checkpoints.read(model, classes="none").record.config
    if recipe.image_size is None:
        return config
    # Trained weights keep the share of the picture that a window sees, where that is possible.
    return (
        config.resized(recipe.image_size)
        if recipe.pretrained
        else replace(config, image_size=pair(recipe.image_size))
    )


_NONE = Memory(0, 0, 0, 0, 0, 0, 0, 0, 0)


def _memory(planned: Plan) -> Memory:
    recipe = planned.recipe
    return peak(
        planned.config,
        Load(
            images=planned.micro,
            size=_largest(planned),
            precision=recipe.precision,
            kind=planned.kind,
            checkpointing=recipe.checkpointing,
            averages=bool(recipe.ema),
            frozen=FROZEN.index(recipe.freeze),
            teacher=_teacher(recipe),
            processes=planned.processes,
            is_sharded=planned.is_sharded,
        ),
    )


def _largest(planned: Plan) -> Pair:
    """The largest pictures that are trained with."""
    sizes = [pair(size) for size in planned.recipe.sizes.values()]
    if 0 not in planned.recipe.sizes:
        sizes.append(planned.config.image_size)
    return max(sizes, key=prod)


def _teacher(recipe: Settled) -> int:
    """Parameters of the model to learn from."""
    if recipe.teacher is None:
        return 0
    if Path(recipe.teacher).exists():
        from swinv2 import checkpoints

        return parameters(checkpoints.read(recipe.teacher, classes="none").record.config)
    return parameters(VARIANTS[resolve(recipe.teacher)])


def _others(planned: Plan) -> Iterator[tuple[str, str, Plan]]:
    """Option, what else it changes, and the plan with it."""
    recipe, config, micro = planned.recipe, planned.config, planned.micro

    def changed(**other: Any) -> Plan:
        return replace(planned, recipe=replace(recipe, **other))

    if not recipe.checkpointing:
        yield "--checkpointing", "the same result, a third slower", changed(checkpointing=True)
    if micro >= 4 and micro % 4 == 0:  # two parts of pairs
        parts = 2 * recipe.accumulate
        other = replace(changed(accumulate=parts), micro=micro // 2)
        yield f"--accumulate {parts}", "the same result to rounding", other
    if recipe.precision == "fp32":
        yield (
            "--precision bf16",
            "less exact steps, faster where the device has it",
            changed(precision="bf16"),
        )
    if planned.processes > 1 and not planned.is_sharded:
        yield "--shard", "the same result, more to send", replace(planned, is_sharded=True)
    if planned.batch >= 4:
        half = planned.batch // 2
        other = replace(changed(batch_size=half), batch=half, micro=max(micro // 2, 1))
        yield f"--batch-size {half}", "another run; the rate follows the batch", other
    side, stride = min(config.image_size), config.patch_size * 2 ** (len(config.depths) - 1)
    smaller = int(side * 0.75) // stride * stride
    if not recipe.sizes and smaller >= max(SMALLEST, stride):
        other = replace(planned, config=config.resized(smaller))
        yield f"--image-size {smaller}", "another run, less detail", other
    if recipe.pretrained and recipe.freeze == "none" and len(config.depths) > 2:
        yield "--freeze stage2", "the first stages keep their weights", changed(freeze="stage2")


def _gb(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= 10 * GB else f"{count / GB:.2f} GB"
