"""The models of other libraries, small and with weights that matter everywhere, and files as they save them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm
import torch
import torchvision.models as torchvision_models
import transformers
from conftest import SMALL, randomized
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwin
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from swinv2.artifact import Record
from swinv2.checkpoints import DIALECTS, files, save
from swinv2.config import VARIANTS, SwinV2Config
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess

# Small, with everything that a dialect can get wrong: unequal depths, shifts, a clamped window in stage 4 and
# windows that the position bias was trained with.
CONFIG = SwinV2Config(
    architecture="swinv2", image_size=128, window=8, embed_dim=32, depths=(2, 1, 2, 1), heads=(1, 2, 4, 8),
    pretrained_windows=(6, 6, 6, 3), num_classes=7,
)  # fmt: skip
# What torchvision can express: one window everywhere, trained with it.
PLAIN = replace(CONFIG, window=4, pretrained_windows=(0, 0, 0, 0))
TOLERANCE = 2e-5  # of the largest logit


def timm_model(config: SwinV2Config) -> nn.Module:
    return TimmSwin(
        img_size=config.image_size, embed_dim=config.embed_dim, depths=config.depths, num_heads=config.heads,
        window_size=config.window, num_classes=config.num_classes, in_chans=config.in_chans,
        pretrained_window_sizes=tuple(side for side, _ in config.pretrained_windows),
    )  # fmt: skip


def transformers_config(config: SwinV2Config) -> transformers.Swinv2Config:
    return transformers.Swinv2Config(
        image_size=config.image_size[0], embed_dim=config.embed_dim, depths=list(config.depths),
        num_heads=list(config.heads), window_size=config.window, num_labels=config.num_classes,
        pretrained_window_sizes=[side for side, _ in config.pretrained_windows],
    )  # fmt: skip


class Logits(nn.Module):
    """transformers wraps what it gives."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def torchvision_model(config: SwinV2Config) -> nn.Module:
    return SwinTransformer(
        [4, 4], config.embed_dim, list(config.depths), list(config.heads), [config.window] * 2,
        num_classes=config.num_classes, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip


MODELS = {
    # library          small model, its config                           a published one
    "timm":         (timm_model, CONFIG, lambda: timm.create_model("swinv2_tiny_window8_256")),
    "transformers": (
        lambda c: transformers.Swinv2ForImageClassification(transformers_config(c)),
        CONFIG,
        lambda: transformers.Swinv2ForImageClassification(transformers_config(VARIANTS["swinv2_tiny_window8_256"])),
    ),
    "torchvision":  (torchvision_model, PLAIN, torchvision_models.swin_v2_t),
}  # fmt: skip


def shuffled(model: nn.Module, seed: int = 0) -> nn.Module:
    """As conftest.randomized, for models with other names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("logit_scale"):
                # Not above 3.4: transformers 5.23 adds the mask twice, which shows where -100 alone lets through.
                p.copy_((2.3 + 0.5 * noise).clamp(max=3.4))
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim == 1:
                p.copy_(0.1 * noise)
            elif "cpb" in name or "continuous" in name:
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise / p[0].numel() ** 0.5)
    return model.eval()


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(ours: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    a, b = (Logits(m) if isinstance(m, transformers.PreTrainedModel) else m for m in (ours, theirs))
    expected = b(x)
    return float((a(x) - expected).abs().max() / expected.abs().max())


def save_theirs(library: str, model: nn.Module, folder: Path) -> Path:
    """The way the library itself saves."""
    if library == "transformers":
        model.save_pretrained(folder / "saved")
        return folder / "saved"
    torch.save(model.state_dict(), folder / "saved.pth")
    return folder / "saved.pth"


def save_state(config: SwinV2Config, path: Path, dialect: str = "microsoft", seed: int = 0) -> Path:
    """A file of a dialect with random weights."""
    state = randomized(SwinV2(config), seed).state_dict()
    translated = DIALECTS[dialect].from_official(state, config)
    files.write_tensors(path, translated, container=DIALECTS[dialect].container)
    return path


def save_trained(folder: Path) -> Path:
    """An artifact of a small model, with a full record."""
    record = Record(
        SMALL, Preprocess.official(64), classes=tuple("abcdefg"), provenance={"source": "test"}, license="MIT",
        accuracy={"imagenet-1k top-1": 81.8},
    )  # fmt: skip
    save(randomized(SwinV2(SMALL)), folder / "trained.safetensors", record)
    return folder / "trained.safetensors"
