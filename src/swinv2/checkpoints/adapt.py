"""Trained weights for another task: other classes, other input channels, another size or window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from swinv2 import labels
from swinv2.artifact import Record, with_provenance
from swinv2.checkpoints.dialect import State
from swinv2.config import Pair, pair
from swinv2.preprocess import Preprocess

STEM = "patch_embed.proj"


def adapt(
    record: Record,
    tensors: Mapping[str, Tensor],
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    image_size: int | Pair | None = None,
    window: int | None = None,
    drop_path: float | None = None,
) -> tuple[Record, State, tuple[str, ...]]:
    """The record and the tensors for other settings, and the names of what starts anew.

    The published accuracy is that of the weights as they were: a change takes it out of the record.
    """
    state, config = dict(tensors), record.config
    new: tuple[str, ...] = ()
    if num_classes is not None and num_classes != config.num_classes:
        record, state, new = _with_classes(record, state, num_classes)
    if in_chans is not None and in_chans != config.in_chans:
        record, state = _with_channels(record, state, in_chans)
    if image_size is not None or window is not None:
        record = _with_size(record, image_size, window)
    if record.config != config:
        was = {name: getattr(config, name) for name in ("num_classes", "in_chans", "image_size", "window")}
        changed = {name: value for name, value in was.items() if getattr(record.config, name) != value}
        record = with_provenance(replace(record, accuracy={}), adapted_from=changed)
    if drop_path is not None:
        record = replace(record, config=replace(record.config, drop_path=drop_path))
    return record, state, new


def _with_classes(record: Record, state: State, num_classes: int) -> tuple[Record, State, tuple[str, ...]]:
    config = replace(record.config, num_classes=num_classes)
    about = {key: value for key, value in record.provenance.items() if key != "class_names"}
    body = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    if record.config.num_classes == 21841 and num_classes == 1000:
        rows = torch.tensor(labels.map_22k_to_1k())
        head = {name: state[name][rows] for name in ("head.weight", "head.bias")}
        names, synsets = labels.imagenet(1000) if record.classes else ((), ())
        return replace(record, config=config, classes=names, synsets=synsets), body | head, ()
    new = ("head.weight", "head.bias") if num_classes else ()
    return replace(record, config=config, classes=(), synsets=(), provenance=about), body, new


def _with_channels(record: Record, state: State, in_chans: int) -> tuple[Record, State]:
    """Fewer channels sum those of the trained stem, more repeat them in turn and share their weight.

    A channel that stands for several is normalised by the average of their means and deviations; what that
    changes goes into the weights and the bias. So a grey picture gives the same logits in any number of
    channels, each model seeing it as its own record says.
    """
    old, mean, std = record.config.in_chans, record.preprocess.mean, record.preprocess.std
    if in_chans < old:
        sources = [[c for c in range(old) if c % in_chans == j] for j in range(in_chans)]
    else:
        sources = [[j % old] for j in range(in_chans)]
    weight, bias = (state[f"{STEM}.{part}"].double() for part in ("weight", "bias"))
    planes, means, stds = [], [], []
    for those in sources:
        m, s = (sum(values[c] for c in those) / len(those) for values in (mean, std))
        shared = {c: weight[:, c] / sum(c in others for others in sources) for c in those}
        planes.append(torch.stack([w * (s / std[c]) for c, w in shared.items()]).sum(0))
        moved = [(w * ((m - mean[c]) / std[c])).sum((1, 2)) for c, w in shared.items()]
        bias = bias + torch.stack(moved).sum(0)
        means.append(m)
        stds.append(s)
    adapted = {"weight": torch.stack(planes, dim=1), "bias": bias}
    record = replace(
        record,
        config=replace(record.config, in_chans=in_chans),
        preprocess=replace(record.preprocess, mean=tuple(means), std=tuple(stds)),
    )
    return record, state | {f"{STEM}.{part}": t.to(state[f"{STEM}.{part}"]) for part, t in adapted.items()}


def reversed_channels(state: Mapping[str, Tensor]) -> State:
    """The same weights for pictures whose channels come in the opposite order."""
    return {name: tensor.flip(1) if name == f"{STEM}.weight" else tensor for name, tensor in state.items()}


def _with_size(record: Record, image_size: int | Pair | None, window: int | None) -> Record:
    """The same weights at another resolution or window; what they were trained with stays the divisor."""
    old, config = record.preprocess, record.config.resized(image_size, window)
    if image_size is None or pair(image_size) == old.size:
        return replace(record, config=config)
    official = Preprocess.official(old.size)
    if (old.resize, old.resize_to) == (official.resize, official.resize_to):
        now = Preprocess.official(config.image_size)
        resize, resize_to = now.resize, now.resize_to
    else:  # the same share of the picture
        resize, resize_to = old.resize, round(old.resize_to * min(config.image_size) / min(old.size))
    return replace(
        record,
        config=config,
        preprocess=replace(old, size=config.image_size, resize=resize, resize_to=resize_to),
    )
