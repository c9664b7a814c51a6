"""SimMIM: an encoder that learns from pictures without labels, by filling in what is hidden of them.

The network has the official names (encoder.*, encoder.mask_token, decoder.0.*); Pretraining is the task that
a run learns. What it leaves is twofold: a model file of the encoder, from which `swinv2 train` starts, and beside
it the whole network as the official repository saves it.
"""

# B batch, H W pixels, h w tokens, C channels

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import swinv2
from swinv2 import artifact, report, world
from swinv2.artifact import Record
from swinv2.checkpoints import DIALECTS, files
from swinv2.data.loader import Batch, Transform, Unreadable
from swinv2.data.split import Split
from swinv2.model import SwinV2
from swinv2.preprocess import Preprocess
from swinv2.train.compute import Compute
from swinv2.train.feed import refuse_held_out
from swinv2.train.method.augment import Augment
from swinv2.train.recipes.recipe import Recipe, Settled
from swinv2.train.simmim import reconstruction
from swinv2.train.simmim.masking import Masks, enlarged, hidden_error, targets
from swinv2.train.simmim.reconstruction import Example
from swinv2.train.start import build, preprocessing, settle
from swinv2.train.task import Measured, Sums

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "encoder."
EXAMPLES = 6  # pictures whose reconstruction is drawn
TRAINING, MEASURING = 0, 1  # first key of a mask: the two never share one


class SimMIM(nn.Module):
    """An encoder without a head, a token that stands for what is hidden, and one linear layer back to pixels."""

    def __init__(self, encoder: SwinV2):
        super().__init__()
        config = encoder.config
        assert config.num_classes == 0, "the decoder takes the features, not logits"
        self.config = config
        self.encoder = encoder
        encoder.mask_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))  # official name and shape
        nn.init.trunc_normal_(encoder.mask_token, std=0.02)
        self.stride = config.patch_size * 2 ** (len(config.depths) - 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.num_features, self.stride**2 * config.in_chans, 1), nn.PixelShuffle(self.stride)
        )

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images [B, C, H, W] and what is hidden of them [B, h, w] -> the whole pictures [B, C, H, W]."""
        encoder = self.encoder
        x = encoder.patch_embed(images)  # B h w C
        assert isinstance(encoder.mask_token, Tensor)
        x = torch.where(hidden[..., None], encoder.mask_token.to(x.dtype), x)
        *_, x = encoder.through_stages(x, self.config.stages(int(images.shape[2]), int(images.shape[3])))
        return self.decoder(encoder.norm(x).permute(0, 3, 1, 2))


class Pretraining:
    """The task of `swinv2 pretrain`: hidden pixels from visible ones. See task.Task.

    Args:
        model: what the encoder starts from, as the user named it.
    """

    figures: tuple[str, ...] = ()

    def __init__(self, model: str, recipe: Recipe, train: Split, held_out: Split):
        self.model, self.train, self.held_out = model, train, held_out
        encoder = build(model, recipe, ())
        self.recipe: Settled = settle(encoder, recipe, train)
        self.preprocess: Preprocess = preprocessing(encoder, recipe)
        self.masks = Masks.of(self.recipe, encoder.config)
        self.network = SimMIM(encoder)
        self.best_epoch, self.best_loss = 0, 0.0

    def augment(self) -> Transform:
        # torchvision's default, which the official pre-training uses; trained models use bicubic afterwards.
        return Augment(self.recipe, replace(self.preprocess, interpolation="bilinear"))

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Sums]:
        keys = [(TRAINING, step, position) for position in batch.positions.tolist()]
        return self._errors(model, batch.images, keys)[0].mean(), {}

    @torch.no_grad()
    def measure(self, network: nn.Module, batches: Iterable[Batch], on: Compute) -> Measured:
        """The same squares are hidden in every epoch, so that epochs can be compared."""
        shown = {len(self.held_out) * i // EXAMPLES for i in range(EXAMPLES)}
        examples: list[Example] = []
        unreadable: list[Unreadable] = []
        total, count = 0.0, 0
        for batch in batches:
            unreadable += batch.unreadable
            indices = batch.indices.tolist()
            # All processes call the network equally often, also one that has no picture left.
            blank = torch.zeros(1, self.preprocess.channels, *self.preprocess.size)
            images = on.send(batch.images if indices else blank)
            with on.autocast():
                errors, predicted, hidden = self._errors(
                    network, images, [(MEASURING, i) for i in indices or [0]]
                )
            if not indices:
                continue
            total, count = total + errors.double().sum().item(), count + len(indices)
            examples += [
                Example.of(index, images[b], hidden[b], predicted[b], self.recipe.mask_norm)
                for b, index in enumerate(indices)
                if index in shown
            ]
        refuse_held_out([u for found in world.gather(unreadable) for u in found], self.held_out)
        loss_sum, images_measured = world.total([total, count])
        gathered = [example for part in world.gather(examples) for example in part]
        loss = loss_sum / images_measured
        return Measured({"loss": loss}, (-loss,), sorted(gathered, key=lambda example: example.index))

    def save(self, weights: dict[str, Tensor], path: Path, measured: Measured, epoch: int) -> None:
        """The encoder as a model file, and beside it the whole network as name.pth."""
        config = self.network.config
        body = {name.removeprefix(PREFIX): t for name, t in weights.items() if name.startswith(PREFIX)}
        extra = {"encoder.mask_token": body.pop("mask_token")}
        extra |= {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}
        dialect = DIALECTS["simmim"]
        if dialect.unsupported(config) is None:
            official = dialect.from_official(body, config) | extra
            files.write_tensors(path.with_suffix(".pth"), official, container=dialect.container)
        artifact.write(path, self._record(measured, epoch), body)

    def after_epoch(self, output: Path, measured: Measured, epoch: int, *, is_best: bool) -> None:
        """reconstructions/epoch-0001.png, and the newest as reconstruction.png."""
        if is_best:
            self.best_epoch, self.best_loss = epoch, measured.row["loss"]
        if world.current().is_first:
            title = f"{self.network.config.architecture} on {self.train.name}, epoch {epoch}"
            reconstruction.save(reconstruction.draw(measured.detail, self.preprocess, title), output, epoch)

    def after_run(self, output: Path) -> None:
        pass  # all pictures are there

    def summary(self) -> dict[str, Any]:
        train, held_out = self.train, self.held_out
        return {
            "task": "pre-training",
            "train_images": len(train),
            "held_out_images": len(held_out),
            "held_out_split": held_out.split,
            "held_out": {"loss": self.best_loss, "images": len(held_out)},
        }

    def preview(self, batch: Batch) -> Figure:
        keys = [(TRAINING, 0, position) for position in batch.positions.tolist()]
        hidden = self.masks.draw((int(batch.images.shape[2]), int(batch.images.shape[3])), keys)
        pixels = enlarged(hidden, self.masks.patch)[:, None]
        return report.mosaic(batch.images.masked_fill(pixels, 0), [""] * len(keys), self.preprocess)

    def state(self) -> dict[str, Any]:
        return {"best_epoch": self.best_epoch, "best_loss": self.best_loss}

    def load_state(self, state: dict[str, Any]) -> None:
        self.best_epoch, self.best_loss = state["best_epoch"], state["best_loss"]

    def _errors(
        self, model: nn.Module, images: Tensor, keys: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Error of each picture [B], what is predicted [B, C, H, W], what was hidden [B, h, w]."""
        hidden = self.masks.draw((int(images.shape[2]), int(images.shape[3])), keys)
        hidden = hidden.to(images.device, non_blocking=True)
        predicted = model(images, hidden)
        return hidden_error(predicted, targets(images, self.recipe.mask_norm), hidden), predicted, hidden

    def _record(self, measured: Measured, epoch: int) -> Record:
        data = self.train
        return Record(
            config=self.network.config,
            preprocess=self.preprocess,
            provenance={
                "source": self.model if self.recipe.pretrained else "random weights",
                "task": "SimMIM pre-training; the head is to be learnt",
                "trained_with": f"swinv2 {swinv2.__version__}, torch {torch.__version__}",
                "epoch": epoch,
                "held_out_loss": measured.row["loss"],
                "recipe": json.loads(json.dumps(self.recipe.to_dict())),
                "data": {"name": data.name, "train": len(data), "held_out": len(self.held_out)},
            },
        )
