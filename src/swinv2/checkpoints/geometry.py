"""Which architecture a file is: what its tensors say, and what must be said beside them.

Shapes give channels, depths, heads and classes. Window, image size and the windows that the position bias was
trained with leave no trace in the parameters; they come from a name, from a description beside the file, or
from the derived buffers that some libraries store. What the sources say must agree, and what none says is
asked for.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from swinv2.artifact import ArtifactError
from swinv2.config import ALIASES, VARIANTS, Pair, SwinV2Config, pair, resolve
from swinv2.weights import TORCHVISION_NAMES

_CHECKED = ("embed_dim", "depths", "heads", "patch_size", "mlp_ratio", "extra_norm_period")


@dataclass(frozen=True)
class Windows:
    """What derived buffers say. Pairs per stage; None where they do not say.

    Args:
        trained: the windows that the position bias was trained with.
    """

    windows: tuple[int, ...]
    trained: tuple[int, ...]
    image_size: Pair | None


def infer(
    state: Mapping[str, Tensor],
    where: str,
    *,
    architecture: str | SwinV2Config | None = None,
    described: SwinV2Config | None = None,
    names: Iterable[str] = (),
    image_size: int | Pair | None = None,
    window: int | None = None,
) -> tuple[SwinV2Config, str]:
    """The config of official tensors (with their derived buffers, if any).

    Args:
        where: the file, for messages.
        architecture: any name of a variant, or a config; decides, and must fit the tensors.
        described: what a config.json beside the file says.
        names: of the file and its folder; the longest known name in one of them counts.
        image_size, window: used where nothing else says them.

    Returns:
        The config, and what had to be taken for granted, in words; empty where nothing was.

    Raises:
        ArtifactError: sources that contradict each other, or nothing that decides.
        ValueError: architecture is not a name that is known.
    """
    shapes = read_shapes(state, where)
    found = read_buffers(state, shapes["patch_size"], where)
    if isinstance(architecture, SwinV2Config):
        return _fit(architecture, shapes, found, where, "the architecture given"), ""
    if architecture is not None:
        return _fit(VARIANTS[resolve(architecture)], shapes, found, where, f"architecture {architecture}"), ""
    if described is not None:
        return _named(_fit(described, shapes, found, where, "the config.json beside it")), ""
    if (name := known_name(names)) is not None:
        return _fit(VARIANTS[name], shapes, found, where, f"the name {name}"), ""
    if found is not None and (found.image_size or image_size):
        return _named(_from_buffers(shapes, found, pair(found.image_size or image_size or 0), where)), ""
    if (variant := _by_shape(shapes, found, where, image_size, window)) is not None:
        return variant, ""
    stages = len(shapes["depths"])
    if found is not None:  # its results do not depend on the size it was made for
        side = max(found.windows) * shapes["patch_size"] * 2 ** (stages - 1)
        assumed = f"image size {side}, the smallest that its windows fit in"
        return _from_buffers(shapes, found, (side, side), where), assumed
    if image_size is not None and window is not None:
        whole = {"window": window, "image_size": pair(image_size), "pretrained_windows": (0,) * stages}
        return _built(shapes | whole, where), ""
    raise ArtifactError(
        f"{where} is no published variant (embed_dim {shapes['embed_dim']}, depths {_words(shapes['depths'])}) "
        f"and does not say its window and image size; give both (swinv2 convert --image-size and --window, or "
        f"architecture=SwinV2Config(...) in Python)"
    )


def read_shapes(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """What shapes alone say, as fields of SwinV2Config."""
    stem = state.get("patch_embed.proj.weight")
    blocks = [
        m
        for name in state
        if (m := re.fullmatch(r"layers\.(\d{1,3})\.blocks\.(\d{1,3})\.attn\.logit_scale", name))
    ]
    hidden = state.get("layers.0.blocks.0.mlp.fc1.weight")
    if stem is None or stem.ndim != 4 or hidden is None or not blocks:
        raise ArtifactError(
            f"{where} lacks the patch embedding or the first blocks; it is no whole Swin V2 checkpoint"
        )
    depths = Counter(int(m[1]) for m in blocks)
    stages = range(len(depths))
    if {m[0] for m in blocks} != {_scale(i, b) for i in stages for b in range(depths[i])}:
        raise ArtifactError(f"{where} lacks some of its blocks; copy or download it again")
    extra = [b for b in range(depths[2]) if f"layers.2.blocks.{b}.norm3.weight" in state]
    heads, head = [state[_scale(i, 0)] for i in stages], state.get("head.weight")
    if hidden.ndim != 2 or any(t is not None and t.ndim == 0 for t in (*heads, head)):
        raise ArtifactError(
            f"{where} has tensors of other shapes than a Swin V2; it is something else, or damaged"
        )
    return {
        "embed_dim": stem.shape[0],
        "in_chans": stem.shape[1],
        "patch_size": stem.shape[2],
        "depths": tuple(depths[i] for i in stages),
        "heads": tuple(scale.shape[0] for scale in heads),
        "mlp_ratio": hidden.shape[0] / max(hidden.shape[1], 1),
        "num_classes": 0 if head is None else head.shape[0],
        "extra_norm_period": extra[0] + 1 if extra else 0,
    }


def _scale(stage: int, block: int) -> str:
    return f"layers.{stage}.blocks.{block}.attn.logit_scale"


def read_buffers(state: Mapping[str, Tensor], patch_size: int, where: str) -> Windows | None:
    """What the derived buffers say; None where the file holds none."""
    windows: list[int] = []
    trained: list[int] = []
    image_size: Pair | None = None
    while True:
        i = len(windows)
        attention = f"layers.{i}.blocks.0.attn"
        table, index = (
            state.get(f"{attention}.{name}") for name in ("relative_coords_table", "relative_position_index")
        )
        if table is None and index is None:
            break
        side = (table.shape[1] + 1) // 2 if table is not None and table.ndim == 4 else 0
        if index is not None and index.numel() != side**4:
            side = math.isqrt(math.isqrt(index.numel())) if table is None else 0
        if not 0 < side <= 256:
            raise ArtifactError(f"{where} has buffers of no square window; only square ones are read")
        windows.append(side)
        trained.append(_trained_window(table, side))
        if trained[-1] == 0:
            raise ArtifactError(f"{where} has a relative_coords_table of impossible values; it is damaged")
        mask = state.get(f"layers.{i}.blocks.1.attn_mask")
        if mask is not None and (mask.ndim != 3 or mask.shape[1:] != (side**2, side**2) or len(mask) > 65536):
            raise ArtifactError(f"{where} has an attn_mask that does not go with its window; it is damaged")
        if mask is not None and image_size is None:
            image_size = tuple(n * side * patch_size * 2**i for n in _windows_of(mask))
        elif mask is None and side < windows[0] and image_size is None:  # clamped: the window is the grid
            image_size = (side * patch_size * 2**i,) * 2
    return Windows(tuple(windows), tuple(trained), image_size) if windows else None  # type: ignore[arg-type]


def _trained_window(table: Tensor | None, side: int) -> int:
    """From the largest coordinate, log2(8 (side - 1) / (trained - 1) + 1) / 3; 0 where it cannot be one."""
    if table is None or side == 1:
        return side
    largest = float(table.max())
    return 1 + round(8 * (side - 1) / (2 ** (3 * largest) - 1)) if 0 < largest < 8 else 0


def _windows_of(mask: Tensor) -> Pair:
    """Windows down and across: masks start in the last column, so the first masked window ends the first row."""
    across = 1 + int((mask.flatten(1) != 0).any(1).int().argmax())
    return mask.shape[0] // across, across


def known_name(names: Iterable[str]) -> str | None:
    """The variant whose name, under any alias, is the longest contained in one of the names."""
    aliases = {alias.lower(): target for alias, target in (ALIASES | TORCHVISION_NAMES).items()}
    aliases |= {name: name for name in VARIANTS}
    found = [alias for name in names for alias in aliases if alias in name.lower()]
    return aliases[max(found, key=len)] if found else None


def names_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """What a path may say about the architecture: its own name and, for a file called like any other, its folder's."""
    parts = os.path.abspath(path).split(os.sep)
    if (
        len(parts) > 4 and parts[-3] == "snapshots"
    ):  # the hub's cache: models--owner--repo/snapshots/hash/file
        return parts[-1], parts[-4]
    generic = parts[-1].startswith(("model.", "pytorch_model.", "checkpoint.", "weights."))
    return (parts[-1], parts[-2]) if generic else (parts[-1],)


def _fit(
    config: SwinV2Config, shapes: dict[str, Any], buffers: Windows | None, where: str, source: str
) -> SwinV2Config:
    """The config with the classes and channels of the tensors; refused where anything else differs."""
    for name in _CHECKED:
        if getattr(config, name) != shapes[name]:
            raise ArtifactError(
                f"{where} does not fit {source}: its tensors have {name} {_words(shapes[name])}, "
                f"{source} has {_words(getattr(config, name))}; give the architecture that it is, or rename it"
            )
    config = replace(config, num_classes=shapes["num_classes"], in_chans=shapes["in_chans"])
    if buffers is not None:
        solved = config.stages(*config.image_size)
        said = [("window", tuple(s.window[0] for s in solved), buffers.windows)]
        said.append(("pretrained window", tuple(t[0] for t in config.trained_windows), buffers.trained))
        if buffers.image_size:
            said.append(("image size", config.image_size, buffers.image_size))
        for name, expected, found in said:
            if expected != found:
                raise ArtifactError(
                    f"{where} does not fit {source}: its buffers say {name} {_words(found)}, "
                    f"{source} says {_words(expected)}; give the architecture that it is, or rename it"
                )
    return config


def _from_buffers(shapes: dict[str, Any], buffers: Windows, image_size: Pair, where: str) -> SwinV2Config:
    same = buffers.trained == buffers.windows  # then 0 says so, and is what the variants say
    pretrained = tuple(pair(0 if same else trained) for trained in buffers.trained)
    given = {"window": max(buffers.windows), "image_size": image_size, "pretrained_windows": pretrained}
    config = _built(shapes | given, where)
    solved = tuple(stage.window[0] for stage in config.stages(*image_size))
    if solved != buffers.windows:
        height, width = image_size
        raise ArtifactError(
            f"{where} has the windows {_words(buffers.windows)} in its stages, and Swin V2 has {_words(solved)} for a "
            f"picture of {height}x{width}; give the image size that goes with them (--image-size, or image_size=)"
        )
    return config


def _built(fields: dict[str, Any], where: str) -> SwinV2Config:
    try:
        return SwinV2Config(**fields)
    except ValueError as error:
        raise ArtifactError(f"{where} is no Swin V2 that can be built: {error}") from None


def _named(config: SwinV2Config) -> SwinV2Config:
    """Under the name of the published variant that it is, if it is one."""
    for variant in VARIANTS.values():
        same = all(
            getattr(variant, name) == getattr(config, name) for name in (*_CHECKED, "image_size", "window")
        )
        if same and variant.trained_windows == config.trained_windows:
            return replace(variant, num_classes=config.num_classes, in_chans=config.in_chans)
    return config


def _by_shape(
    shapes: dict[str, Any],
    buffers: Windows | None,
    where: str,
    image_size: int | Pair | None,
    window: int | None,
) -> SwinV2Config | None:
    """The one variant with these shapes (and windows, where buffers say them); None where there is none."""
    candidates = [
        variant
        for variant in VARIANTS.values()
        if all(getattr(variant, name) == shapes[name] for name in _CHECKED)
        and (buffers is None or _agrees(variant, buffers))
    ]
    given = [
        variant
        for variant in candidates
        if (image_size is None or variant.image_size == pair(image_size)) and window in (None, variant.window)
    ]
    if len(candidates) > 1 and len(given) != 1:
        raise ArtifactError(
            f"{where} may be any of {', '.join(c.architecture for c in candidates)}, and its tensors do not say which; "
            f"give the architecture (--architecture {candidates[0].architecture}, or architecture= in Python)"
        )
    if not candidates:
        return None
    found = given[0] if given else candidates[0]
    return replace(found, num_classes=shapes["num_classes"], in_chans=shapes["in_chans"])


def _agrees(variant: SwinV2Config, buffers: Windows) -> bool:
    windows = tuple(stage.window[0] for stage in variant.stages(*variant.image_size))
    return windows == buffers.windows and tuple(t[0] for t in variant.trained_windows) == buffers.trained


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
