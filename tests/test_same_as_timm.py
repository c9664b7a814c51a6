"""The first 50 losses of a run, against a plain loop around timm's model, transforms, mixup, loss and schedule.

Everything is on: crops, RandAugment, erasing, mixup and cutmix, smoothing, drop path, layer decay, clipping, warm-up.
What the loop below takes from us are the weights to start with and the rule how seeds are made of numbers.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomized
from PIL import Image
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.scheduler import CosineLRScheduler
from torch import nn
from training import write_split

from swinv2 import checkpoints
from swinv2.artifact import Record
from swinv2.config import SwinV2Config
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train import train
from swinv2.train.method.loss import Loss

DEPTHS, HEADS, SIZE, BATCH, EPOCHS, SEED = (1, 2, 1), (1, 2, 4), 64, 8, 10, 5
CONFIG = SwinV2Config(
    architecture="swinv2_like_timms", image_size=SIZE, window=4, embed_dim=32, depths=DEPTHS, heads=HEADS,
    pretrained_windows=((0, 0),) * 3, num_classes=3,
)  # fmt: skip
RECIPE = {
    "epochs": EPOCHS, "warmup_epochs": 2.0, "batch_size": BATCH, "reference_batch": 512, "lr": 0.064,
    "warmup_lr": 6.4e-5, "min_lr": 6.4e-4, "weight_decay": 0.05, "layer_decay": 0.75, "clip_grad": 5.0,
    "label_smoothing": 0.1, "drop_path": 0.3, "crop_scale": (0.08, 1.0), "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "ema": 0.9, "seed": SEED,
}  # fmt: skip


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_split(tmp_path / "photos", train=14, held_out=2)


@pytest.fixture
def model(tmp_path) -> Path:
    network = randomized(SwinV2(CONFIG))
    checkpoints.save(
        network,
        tmp_path / "model.safetensors",
        Record(CONFIG, Preprocess.official(SIZE), ("blue", "green", "red")),
    )
    return tmp_path / "model.safetensors"


def test_the_first_50_losses_are_those_of_timm(photos, model, monkeypatch):
    found = []
    once = Loss.__call__

    def noted(self: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = once(self, logits, targets)
        if loss.requires_grad:
            found.append(loss.item())
        return loss

    monkeypatch.setattr(Loss, "__call__", noted)
    train(photos, model=str(model), output=photos.parent / "run", workers=0, **RECIPE)
    expected = plain_losses(photos / "train", checkpoints.load(model).state_dict())
    assert len(expected) == 50
    assert max(expected) - min(expected) > 0.2, "the losses have to go somewhere"
    assert found == pytest.approx(expected, rel=1e-5)


def plain_losses(folder: Path, weights: dict[str, torch.Tensor]) -> list[float]:
    files = sorted(folder.glob("*/*.png"), key=lambda path: (path.parent.name, path.name))
    labels = torch.tensor([("blue", "green", "red").index(path.parent.name) for path in files])
    transform = create_transform(
        SIZE, is_training=True, scale=(0.08, 1.0), hflip=0.5, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic", re_prob=0.25, re_mode="pixel",
    )  # fmt: skip
    mixup = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, mode="batch", label_smoothing=0.1, num_classes=3)
    network = SwinTransformerV2(
        img_size=SIZE,
        embed_dim=32,
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=4,
        num_classes=3,
        drop_path_rate=0.3,
    )
    missing, unexpected = network.load_state_dict(
        {in_timm(name): t for name, t in weights.items()}, strict=False
    )
    assert not unexpected
    assert not set(missing) & {name for name, _ in network.named_parameters()}
    network.train()
    dropped = replace_drop_path(network)
    optimizer = torch.optim.AdamW(parameter_groups(network), betas=(0.9, 0.999), eps=1e-8)
    steps = len(files) // BATCH
    scheduler = CosineLRScheduler(
        optimizer, t_initial=(EPOCHS - 2) * steps, lr_min=1e-5, warmup_lr_init=1e-6, warmup_t=2 * steps,
        warmup_prefix=True, t_in_epochs=False,
    )  # fmt: skip
    criterion, losses = SoftTargetCrossEntropy(), []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(SEED * 100_003 + epoch))
        for batch in order[: steps * BATCH].split(BATCH):
            step = len(losses)
            images = []
            for index in batch.tolist():
                seed_all(SEED, epoch, index)
                images.append(transform(Image.open(files[index]).convert("RGB")))
            seed_all(SEED, step)
            mixed, targets = mixup(torch.stack(images), labels[batch])
            draw(dropped, step)
            scheduler.step_update(step)
            loss = criterion(network(mixed), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            losses.append(loss.item())
    return losses


def in_timm(name: str) -> str:
    """timm has the patch merging at the start of the next stage."""
    if ".downsample." in name:
        _, stage, rest = name.split(".", 2)
        return f"layers.{int(stage) + 1}.{rest}"
    return name.replace("head.", "head.fc.")


def seed_of(*keys: int | str) -> int:
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "little")


def seed_all(*keys: int | str) -> None:
    torch.default_generator.manual_seed(seed_of(*keys))
    random.seed(seed_of(*keys))
    np.random.seed(seed_of(*keys) % 2**32)


class Given(nn.Module):
    """In the place of timm's DropPath, which draws from the generator of the program."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate, self.chance = rate, torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keep = (self.chance >= self.rate).float() / (1 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))


def replace_drop_path(network: nn.Module) -> list[tuple[Given, Given]]:
    """Of every block but the first, which drops nothing."""
    blocks = [block for stage in network.layers for block in stage.blocks]
    rates = torch.linspace(0, 0.3, len(blocks)).tolist()
    for block, rate in zip(blocks[1:], rates[1:], strict=True):
        assert block.drop_path1.drop_prob == pytest.approx(rate)
        block.drop_path1, block.drop_path2 = Given(rate), Given(rate)
    return [(block.drop_path1, block.drop_path2) for block in blocks[1:]]


def draw(dropped: list[tuple[Given, Given]], step: int) -> None:
    generator = torch.Generator().manual_seed(seed_of("drop path", SEED, step))
    chance = torch.rand(BATCH, 2, len(dropped), generator=generator)
    for i, branches in enumerate(dropped):
        for j, branch in enumerate(branches):
            branch.chance = chance[:, j, i]


def parameter_groups(network: nn.Module) -> list[dict]:
    """The official weight decay and layer decay; timm's schedule multiplies the rate with lr_scale."""
    groups = []
    for name, parameter in network.named_parameters():
        is_free = parameter.ndim == 1 or name.endswith(".bias") or "cpb_mlp" in name or "logit_scale" in name
        if name.startswith("patch_embed"):
            level = 0
        elif name.startswith("layers"):
            _, stage, part, block, *_ = name.split(".")
            level = sum(DEPTHS[: int(stage)]) + (int(block) + 1 if part == "blocks" else 0)
        else:
            level = sum(DEPTHS) + 1
        groups.append(
            {
                "params": [parameter],
                "lr": 1e-3,
                "weight_decay": 0.0 if is_free else 0.05,
                "lr_scale": 0.75 ** (sum(DEPTHS) + 1 - level),
            }
        )
    return groups
