"""How to train: every setting that decides the result, in one frozen record.

Recipes are YAML files in recipes/, or anywhere; a file states only what differs from the defaults here. The
merged recipe is saved with the run and written into the model file.
"""

from __future__ import annotations

import difflib
import inspect
import os
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Pair = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """Settings of one run. Learning rates are per reference_batch images and scale with the batch by
    themselves.

    Args:
        name: what to call it.
        pretrained: start from published or given weights; false starts from random ones.
        image_size: pixels a side; default is the size that the weights were made for.
        crop_pct: share of the resized picture that evaluation keeps, around its centre; default is what the
            weights were evaluated with. 1 keeps all of a square picture.
        epochs: passes over the training pictures.
        warmup_epochs: epochs in which the rate rises from warmup_lr to lr, step by step.
        batch_size: pictures a step.
        reference_batch: the batch that the learning rates are given for.
        lr: highest learning rate.
        warmup_lr: learning rate of the first step.
        min_lr: learning rate at the end of the cosine.
        weight_decay: of weight matrices; norms, biases, logit scale and position MLP have none.
        betas: of AdamW.
        eps: of AdamW.
        clip_grad: largest norm of the gradient; 0 does not clip.
        label_smoothing: share of the target that is spread over all classes.
        drop_path: rate of dropped residual branches in the last block; default is what the architecture says.
        precision: fp32, bf16 (autocast), or auto, which is bf16 on devices that have it and fp32 on a CPU.
        augment: photo crops, flips and recolours as the paper does; small moves and turns whole pictures a
            little; none only resizes.
        crop_scale: photo, smallest and largest share of the area that a random crop keeps.
        auto_augment: photo, RandAugment in timm's notation; "none" for none.
        random_erasing: photo, probability of erasing a rectangle.
        flip: mirror half of the pictures; false where left and right mean something, as in digits.
        rotate: small, largest turn in degrees.
        shift: small, largest move as a share of the side.
        zoom: small, largest change of scale as a share.
        mixup: strength (alpha) of mixing pictures of a batch; 0 for none.
        cutmix: strength (alpha) of pasting pictures into others; 0 for none.
        seed: of weights, order and augmentation.
    """

    name: str = "finetune"
    pretrained: bool = True
    image_size: int | None = None
    crop_pct: float | None = None
    epochs: int = 30
    warmup_epochs: float = 3.0
    batch_size: int = 64
    reference_batch: int = 512
    lr: float = 5e-4
    warmup_lr: float = 5e-7
    min_lr: float = 5e-6
    weight_decay: float = 0.05
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float = 5.0
    label_smoothing: float = 0.1
    drop_path: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    augment: Literal["photo", "small", "none"] = "photo"
    crop_scale: Pair = (0.08, 1.0)
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    random_erasing: float = 0.25
    flip: bool = True
    rotate: float = 10.0
    shift: float = 0.1
    zoom: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        for name, low, high, said in _RANGES:
            value = getattr(self, name)
            for part in value if isinstance(value, tuple) else (value,):
                if part is not None and not low <= part <= high:
                    raise ValueError(f"{name} is {value}; give {said}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and epochs {self.epochs}; give no more than epochs"
            )
        if self.crop_scale[0] > self.crop_scale[1] or self.crop_scale[0] == 0:
            raise ValueError(
                f"crop_scale is {self.crop_scale}; give the smallest share, above 0, then the largest"
            )

    def learning_rate(self, batch: int, rate: float | None = None) -> float:
        """The rate that a batch of this many pictures trains with (default: of lr)."""
        return (self.lr if rate is None else rate) * batch / self.reference_batch

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def to_yaml(self) -> str:
        """A file that load() reads back to the same recipe."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)


_MANY = 10**9
_RANGES: tuple[tuple[str, float, float, str], ...] = (
    # field             least   most    in words
    ("image_size",      1,      16384,  "pixels a side, at least 1"),
    ("crop_pct",        0.01,   1,      "a share above 0 and up to 1"),
    ("epochs",          1,      _MANY,  "at least 1"),
    ("warmup_epochs",   0,      _MANY,  "0 or more"),
    ("batch_size",      1,      _MANY,  "at least 1"),
    ("reference_batch", 1,      _MANY,  "at least 1"),
    ("lr",              0,      _MANY,  "a rate of 0 or more"),
    ("warmup_lr",       0,      _MANY,  "a rate of 0 or more"),
    ("min_lr",          0,      _MANY,  "a rate of 0 or more"),
    ("weight_decay",    0,      _MANY,  "0 or more"),
    ("betas",           0,      0.999999, "two numbers from 0 up to, not including, 1"),
    ("eps",             0,      1,      "a small number such as 1e-8"),
    ("clip_grad",       0,      _MANY,  "a norm above 0, or 0 for no clipping"),
    ("label_smoothing", 0,      0.99,   "a share from 0 up to, not including, 1"),
    ("drop_path",       0,      0.99,   "a rate from 0 up to, not including, 1"),
    ("crop_scale",      0,      1,      "two shares of the area, from 0 to 1"),
    ("random_erasing",  0,      1,      "a probability from 0 to 1"),
    ("rotate",          0,      180,    "degrees from 0 to 180"),
    ("shift",           0,      1,      "a share from 0 to 1"),
    ("zoom",            0,      0.99,   "a share from 0 up to, not including, 1"),
    ("mixup",           0,      _MANY,  "0 for none, or a strength such as 0.8"),
    ("cutmix",          0,      _MANY,  "0 for none, or a strength such as 1"),
    ("seed",            0,      2**63 - 1, "a whole number of 0 or more"),
)  # fmt: skip


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _shipped().iterdir() if p.name.endswith(".yaml"))


def load(source: str | os.PathLike | Recipe, **overrides: Any) -> Recipe:
    """A recipe by name or path, with single settings replaced; None leaves a setting as it is.

    Where only epochs is replaced, the warm-up keeps its share of the run.

    Raises:
        ValueError: an unknown recipe, setting or value, with the nearest known one.
        FileNotFoundError: a path to a YAML file that is not there.
    """
    changes = {name: value for name, value in overrides.items() if value is not None}
    changes = _typed(changes, "train")
    if isinstance(source, Recipe):
        recipe = source
    else:
        text, where = _text(source)
        recipe = Recipe(**_typed(_settings(text, where), where))
    if "epochs" in changes and "warmup_epochs" not in changes:
        changes["warmup_epochs"] = recipe.warmup_epochs * changes["epochs"] / recipe.epochs
    return replace(recipe, **changes)


def _text(source: str | os.PathLike) -> tuple[str, str]:
    name = os.fspath(source)
    if name in names():
        return (_shipped() / f"{name}.yaml").read_text(), f"recipe {name}"
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.read_text(), str(path)  # FileNotFoundError names the file by itself
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"no recipe is called {name!r}; {hint}There are {', '.join(names())}, or give a .yaml file"
    )


def _settings(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{where} holds no settings; write lines such as `epochs: 30`")
    return settings


def _typed(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings with the types of the fields; unknown names and other types are refused."""
    from jsonargparse import ArgumentParser

    hints = get_type_hints(Recipe)
    typed = {}
    for name, value in settings.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(hints)}"
            raise ValueError(f"{where} has no setting {name!r}; {hint}")
        # One at a time, so that the message can name it. Plain YAML does not read 1e-3 as a number.
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{name}", type=hints[name])
        try:
            typed[name] = parser.parse_object({name: value})[name]
            if typed[name] is None and NoneType not in get_args(hints[name]):
                raise TypeError
        except (ArgumentError, TypeError):
            raise ValueError(f"{where}: {name} is {value!r}; give {_said(hints[name])}") from None
    return typed


def _said(kind: Any) -> str:
    kinds = [k for k in get_args(kind) if k is not NoneType] if NoneType in get_args(kind) else [kind]
    if get_origin(kinds[0]) is Literal:
        return " or ".join(get_args(kinds[0]))
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Pair: "two numbers, as in [0.1, 1.0]",
    }.get(kinds[0], "a text")


def _shipped() -> Any:
    return resources.files("swinv2.train") / "recipes"


def takes_recipe(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command every setting of Recipe as an option that is None where not given.

    The command takes them as **overrides; its signature and help are completed from the dataclass, so that a
    setting is described in one place.
    """
    plain = inspect.signature(command)
    kept = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = {name: kind for name, kind in get_type_hints(Recipe).items() if name != "name"}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind | None)
        for name, kind in hints.items()
    ]
    command.__signature__ = plain.replace(parameters=kept + added)  # type: ignore[attr-defined]
    command.__annotations__ |= {p.name: p.annotation for p in added}
    documented = inspect.cleandoc(Recipe.__doc__ or "").partition("Args:\n")[2]
    command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n{documented}"
    return command
