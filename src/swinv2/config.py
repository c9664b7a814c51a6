"""The architecture of a Swin Transformer V2, and its geometry solved for any input size.

SwinV2Config is what the artifact stores; config.stages(height, width) derives window, shift and
grid of every stage once, per axis, so that blocks, kernels, exports and the C++ engine receive
them solved. The published variants are the rows of a table, reachable under the names that timm,
Microsoft, PaddleClas and transformers gave them.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

Pair = tuple[int, int]


def pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    """An int n becomes (n, n), a sequence of two ints (height, width).

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise ValueError(f"got {value!r}; give one whole number or two (height, width)")


@dataclass(frozen=True)
class Stage:
    """One stage at one input size. Pairs are (vertical, horizontal), in tokens.

    Attributes:
        grid: tokens of the feature map, before padding.
        window: attention window; never larger than the grid.
        shift: cyclic shift of the odd blocks; 0 along an axis that one window covers.
        span: what relative coordinates are divided by (the trained window - 1, at least 1).
        stride: input pixels per token.
    """

    index: int
    dim: int
    depth: int
    heads: int
    stride: int
    grid: Pair
    window: Pair
    shift: Pair
    span: Pair

    @property
    def padded(self) -> Pair:
        """The grid rounded up to whole windows."""
        return tuple(-(-g // w) * w for g, w in zip(self.grid, self.window, strict=True))  # type: ignore[return-value]

    @property
    def windows(self) -> int:
        """Windows in the padded grid."""
        return (self.padded[0] // self.window[0]) * (self.padded[1] // self.window[1])

    def shift_of(self, block: int) -> Pair:
        """Even blocks look straight, odd blocks look through shifted windows."""
        return self.shift if block % 2 else (0, 0)


@dataclass(frozen=True)
class SwinV2Config:
    """Everything that decides parameter shapes and results, but for the weights.

    Args:
        architecture: timm's name of the variant, or any name of your own.
        image_size: (height, width) the weights were made for; other sizes work as well.
        window: side of the attention window, in tokens.
        pretrained_windows: per stage, the window that the position bias was trained with;
            0 where that is the window this config has at image_size.
        extra_norm_period: one more LayerNorm on the main branch after every so many blocks of
            stage 3 (the paper's SwinV2-H and G, section 3.2); 0 for none.

    Raises:
        ValueError: fields that contradict each other, in one sentence.
    """

    architecture: str = "swinv2"
    image_size: Pair = (256, 256)
    window: int = 8
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    pretrained_windows: tuple[Pair, ...] = ((0, 0), (0, 0), (0, 0), (0, 0))
    num_classes: int = 1000
    in_chans: int = 3
    patch_size: int = 4
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    extra_norm_period: int = 0

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen: normalise what JSON and people write
        set_(self, "image_size", pair(self.image_size))
        set_(self, "depths", tuple(self.depths))
        set_(self, "heads", tuple(self.heads))
        set_(self, "pretrained_windows", tuple(pair(w) for w in self.pretrained_windows))
        self._validate()

    def _validate(self) -> None:
        if not len(self.depths) == len(self.heads) == len(self.pretrained_windows):
            raise ValueError(
                f"{self.architecture}: depths, heads and pretrained_windows name {len(self.depths)}, {len(self.heads)} "
                f"and {len(self.pretrained_windows)} stages; give each one value per stage"
            )
        whole = ("window", "embed_dim", "in_chans", "patch_size")
        for name in whole:
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a whole number of at least 1")
        if min(self.image_size) < 1:
            raise ValueError(f"image_size is {self.image_size}; give at least 1 pixel a side")
        if not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes!r}; give a whole number, 0 for no head")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is {self.drop_path}; give a rate from 0 up to, not including, 1")
        for i, heads in enumerate(self.heads):
            if heads < 1 or self.dim(i) % heads:
                raise ValueError(
                    f"stage {i + 1} has {self.dim(i)} channels, which {heads} heads do not divide"
                )

    def dim(self, stage: int) -> int:
        """Channels of a stage (0-based): embed_dim, doubled by each patch merging."""
        return self.embed_dim * 2**stage

    @property
    def num_features(self) -> int:
        """Channels that the head sees."""
        return self.dim(len(self.depths) - 1)

    @property
    def trained_windows(self) -> tuple[Pair, ...]:
        """Per stage, the window that the position bias of these weights was trained with."""
        sizes = _windows(self, *self.image_size)
        return tuple(
            tuple(t or w for t, w in zip(trained, window, strict=True))  # type: ignore[misc]
            for trained, (_, window) in zip(self.pretrained_windows, sizes, strict=True)
        )

    def stages(self, height: int, width: int) -> tuple[Stage, ...]:
        """The solved geometry for an image of height x width pixels.

        Official rule, per axis: where the grid is not larger than the window, the window is the grid and
        nothing shifts; otherwise odd blocks shift by window // 2. Grids round up, as padding does.
        """
        solved = []
        for i, ((grid, window), trained) in enumerate(
            zip(_windows(self, height, width), self.trained_windows, strict=True)
        ):
            shift = tuple(w // 2 if g > w else 0 for g, w in zip(grid, window, strict=True))
            # Official divisor: trained window - 1. A window of one token has no neighbours to be relative
            # to; there the official formula divides by zero, ours divides 0 by 1.
            span = tuple(max((t if t > 1 else w) - 1, 1) for t, w in zip(trained, window, strict=True))
            stride = self.patch_size * 2**i
            solved.append(
                Stage(i, self.dim(i), self.depths[i], self.heads[i], stride, grid, window, shift, span)  # type: ignore[arg-type]
            )
        return tuple(solved)

    def resized(self, image_size: int | Pair | None = None, window: int | None = None) -> SwinV2Config:
        """The config of the same weights at another resolution or window.

        The trained windows are kept as the divisor of the position bias, through any number of changes.
        Where only image_size changes, the window follows it if the official pairs do (192/12, 256/16, 384/24:
        the same share of the image) and otherwise stays.
        """
        size = pair(image_size) if image_size is not None else self.image_size
        if window is None:
            window = _proportional_window(self, size)
        if size == self.image_size and window == self.window:
            return self
        return replace(self, image_size=size, window=window, pretrained_windows=self.trained_windows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; SwinV2Config.from_dict reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SwinV2Config:
        """Raises ValueError on keys this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(
                f"the architecture record holds {', '.join(unknown)}, which this version does not know"
            )
        return cls(**values)


def _windows(config: SwinV2Config, height: int, width: int) -> list[tuple[Pair, Pair]]:
    grid = (-(-height // config.patch_size), -(-width // config.patch_size))
    sizes = []
    for _ in config.depths:
        window = (min(grid[0], config.window), min(grid[1], config.window))
        sizes.append((grid, window))
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return sizes


def _proportional_window(config: SwinV2Config, size: Pair) -> int:
    window, rest = divmod(config.window * min(size), min(config.image_size))
    stride = config.patch_size * 2 ** (len(config.depths) - 1)
    fits = rest == 0 and window > 0 and size[0] == size[1] and size[0] % stride == 0
    # Below 6 tokens a side a window sees too little; attention cost grows with its area, which 32 ends.
    return window if fits and 6 <= window <= 32 else config.window


# The published models (microsoft/Swin-Transformer, MODELHUB.md), the giants of the paper (section 4.1) and
# two small ones of our own for edge devices and demos.
_T, _S = ((2, 2, 6, 2), (3, 6, 12, 24)), ((2, 2, 18, 2), (3, 6, 12, 24))
_B, _L = ((2, 2, 18, 2), (4, 8, 16, 32)), ((2, 2, 18, 2), (6, 12, 24, 48))
_H, _G = ((2, 2, 18, 2), (11, 22, 44, 88)), ((2, 2, 42, 4), (16, 32, 64, 128))
_12 = (12, 12, 12, 6)
_ROWS: dict[str, tuple] = {
    # architecture                        embed  depths, heads              image window drop  pretrained classes norms
    "swinv2_pico_window8_256":           (32,  ((2, 2, 4, 2), (1, 2, 4, 8)),  256, 8,  0.0, None, 1000, 0),
    "swinv2_nano_window8_256":           (64,  ((2, 2, 4, 2), (2, 4, 8, 16)), 256, 8,  0.1, None, 1000, 0),
    "swinv2_tiny_window8_256":           (96,  _T, 256, 8,  0.2, None, 1000, 0),
    "swinv2_tiny_window16_256":          (96,  _T, 256, 16, 0.2, None, 1000, 0),
    "swinv2_small_window8_256":          (96,  _S, 256, 8,  0.3, None, 1000, 0),
    "swinv2_small_window16_256":         (96,  _S, 256, 16, 0.3, None, 1000, 0),
    "swinv2_base_window8_256":           (128, _B, 256, 8,  0.5, None, 1000, 0),
    "swinv2_base_window16_256":          (128, _B, 256, 16, 0.5, None, 1000, 0),
    "swinv2_base_window12_192":          (128, _B, 192, 12, 0.2, None, 21841, 0),
    "swinv2_base_window12to16_192to256": (128, _B, 256, 16, 0.2, _12,  1000, 0),
    "swinv2_base_window12to24_192to384": (128, _B, 384, 24, 0.2, _12,  1000, 0),
    "swinv2_large_window12_192":         (192, _L, 192, 12, 0.2, None, 21841, 0),
    "swinv2_large_window12to16_192to256": (192, _L, 256, 16, 0.2, _12, 1000, 0),
    "swinv2_large_window12to24_192to384": (192, _L, 384, 24, 0.2, _12, 1000, 0),
    "swinv2_huge_window12_192":          (352, _H, 192, 12, 0.4, None, 21841, 6),
    "swinv2_giant_window12_192":         (512, _G, 192, 12, 0.4, None, 21841, 6),
}  # fmt: skip


def _variant(name: str, row: tuple) -> SwinV2Config:
    embed, (depths, heads), image, window, drop_path, pretrained, classes, norms = row
    return SwinV2Config(
        architecture=name, image_size=pair(image), window=window, embed_dim=embed, depths=depths, heads=heads,
        pretrained_windows=tuple(pair(w) for w in pretrained or (0, 0, 0, 0)), num_classes=classes, drop_path=drop_path,
        extra_norm_period=norms,
    )  # fmt: skip


VARIANTS: dict[str, SwinV2Config] = {name: _variant(name, row) for name, row in _ROWS.items()}

# PaddleClas lists nine; its base w24 and both large are fine-tunes of the 22k weights.
_PADDLE: dict[str, str] = {
    "SwinTransformerV2_tiny_patch4_window8_256":   "swinv2_tiny_window8_256",
    "SwinTransformerV2_tiny_patch4_window16_256":  "swinv2_tiny_window16_256",
    "SwinTransformerV2_small_patch4_window8_256":  "swinv2_small_window8_256",
    "SwinTransformerV2_small_patch4_window16_256": "swinv2_small_window16_256",
    "SwinTransformerV2_base_patch4_window8_256":   "swinv2_base_window8_256",
    "SwinTransformerV2_base_patch4_window16_256":  "swinv2_base_window16_256",
    "SwinTransformerV2_base_patch4_window24_384":  "swinv2_base_window12to24_192to384",
    "SwinTransformerV2_large_patch4_window16_256": "swinv2_large_window12to16_192to256",
    "SwinTransformerV2_large_patch4_window24_384": "swinv2_large_window12to24_192to384",
}  # fmt: skip

_SHORT = {"swinv2_pico": "swinv2_pico_window8_256", "swinv2_nano": "swinv2_nano_window8_256"}


def published(architecture: str) -> bool:
    """Whether weights of this variant were released by its authors (twelve were)."""
    return not architecture.startswith(("swinv2_pico", "swinv2_nano", "swinv2_huge", "swinv2_giant"))


def tag(architecture: str) -> str:
    """timm's tag of the released weights: how they were trained."""
    if VARIANTS[architecture].num_classes == 21841:
        return "ms_in22k"
    return "ms_in22k_ft_in1k" if "to" in architecture.split("window")[1] else "ms_in1k"


def _aliases() -> dict[str, str]:
    names = dict(_SHORT) | dict(_PADDLE)
    for name in filter(published, VARIANTS):
        microsoft = name.replace("_window", "_patch4_window") + {
            "ms_in1k": "", "ms_in22k": "_22k", "ms_in22k_ft_in1k": "_22kto1k_ft",
        }[tag(name)]  # fmt: skip
        names[microsoft] = name
        names[f"{name}.{tag(name)}"] = name
        names[f"timm/{name}.{tag(name)}"] = name
        names["microsoft/" + microsoft.replace("_", "-")] = name
        names[microsoft.replace("_", "-")] = name
        if tag(name) == "ms_in22k_ft_in1k":  # the official configuration files leave the suffix out
            names[microsoft.removesuffix("_22kto1k_ft")] = name
    return names


ALIASES: dict[str, str] = _aliases()


def resolve(name: str) -> str:
    """Any known name of a variant -> its architecture name, a key of VARIANTS.

    Raises:
        ValueError: an unknown name, with the nearest known ones.
    """
    if name in VARIANTS:
        return name
    if name in ALIASES:
        return ALIASES[name]
    near = difflib.get_close_matches(name, [*VARIANTS, *ALIASES], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"no model is called {name!r}; {hint}`swinv2 models` lists all names")
