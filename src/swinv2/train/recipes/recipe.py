"""How to train: every setting that decides the result, in one frozen record.

A setting that is None is left open: settled() chooses it from the number of pictures, the number of classes and the
model, by the tables in rules.py. What is given stays as it is given. The settled recipe is saved with the run and
written into the model file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from swinv2.config import SwinV2Config

Pair = tuple[float, float]
Sizes = dict[int, int]  # epoch -> pixels a side
Freeze = Literal["none", "embed", "stage1", "stage2", "stage3", "stage4"]


@dataclass(frozen=True)
class Recipe:
    """Settings of one run. Learning rates are per reference_batch images and scale with the batch by
    themselves.

    Args:
        name: what to call it.
        pretrained: start from published or given weights; false starts from random ones.
        image_size: pixels a side; default is the size that the weights were made for.
        sizes: training at other sizes, each from an epoch on, as in {0: 128, 20: 192}; evaluation stays at
            image_size.
        crop_pct: share of the resized picture that evaluation keeps, around its centre; default is what the
            weights were evaluated with. 1 keeps all of a square picture.
        epochs: passes over the training pictures; default by the rule, from pictures and model.
        warmup_epochs: epochs in which the rate rises from warmup_lr to lr, step by step; default is a share of
            epochs.
        batch_size: pictures of an optimizer step, over all processes and parts; default by the rule.
        accumulate: parts that each process takes its share of a step in, to save memory.
        reference_batch: the batch that the learning rates are given for.
        lr: highest learning rate; default by the rule.
        warmup_lr: learning rate of the first step; default is a thousandth of lr.
        min_lr: learning rate at the end; default is a hundredth of lr.
        schedule: of the rate after warming up; cosine falls to min_lr, steps falls at decay_epochs.
        decay_epochs: steps, epochs after which the rate falls.
        decay_rate: steps, what the rate is multiplied with each time.
        weight_decay: of weight matrices; norms, biases, logit scale and position MLP have none.
        betas: of AdamW.
        eps: of AdamW.
        layer_decay: rate of each block as a share of the rate of the block after it; 1 for one rate, default
            by the rule.
        freeze: what keeps its weights: the patch embedding, or everything up to and including a stage.
        clip_grad: largest norm of the gradient; 0 does not clip.
        ema: decay of the running average of the weights, which is what is then measured and saved; 0 for
            none, default by the rule.
        loss: auto is cross_entropy, or bce (one yes or no for each class) where pictures have several labels.
        class_weights: balanced weighs a picture by how rare its class is.
        label_smoothing: share of the target that is spread over all classes.
        drop_path: rate of dropped residual branches in the last block; default is what the architecture says,
            less for a short fine-tune.
        precision: fp32, bf16 (autocast), fp16 (autocast with loss scaling), bf16_all (bf16 between the blocks
            too, where autocast on a GPU has fp32), or auto, which is bf16 on devices that have it and fp32 on a
            CPU.
        compile: compile the network with torch.compile.
        checkpointing: compute blocks again in the backward pass, to save memory.
        augment: photo crops, flips and recolours as the paper does; small moves and turns whole pictures a
            little; none only resizes.
        crop_scale: photo, smallest and largest share of the area that a random crop keeps; default by the
            rule.
        auto_augment: photo, RandAugment in timm's notation, "none" for none; default by the rule.
        color_jitter: photo, strength of changes of colour where auto_augment is none.
        random_erasing: photo, probability of erasing a rectangle; default by the rule.
        flip: mirror half of the pictures; false where left and right mean something, as in digits.
        rotate: small, largest turn in degrees.
        shift: small, largest move as a share of the side.
        zoom: small, largest change of scale as a share.
        mixup: strength (alpha) of mixing pictures of a batch; 0 for none, default by the rule.
        cutmix: strength (alpha) of pasting pictures into others; 0 for none, default by the rule.
        mix_prob: probability that a batch is mixed at all.
        mix_switch_prob: probability of cutmix where both are on.
        teacher: a larger model to learn from as well, a name or a model file.
        distill_weight: share of the loss that is agreement with the teacher.
        distill_temperature: softness of the teacher's answers.
        mask_patch: pre-training, pixels a side of the squares that are hidden.
        mask_ratio: pre-training, share of them that is hidden.
        mask_norm: pre-training, pixels a side of the neighbourhood by whose mean and deviation targets are
            normalised; odd, 0 for plain pixels.
        max_skipped: steps with a loss or gradient that is no number, after which a run stops.
        max_unreadable: share of the training pictures that may be left out because they cannot be read.
        seed: of weights, order and augmentation.
    """

    name: str = "finetune"
    pretrained: bool = True
    image_size: int | None = None
    sizes: Sizes = field(default_factory=dict)
    crop_pct: float | None = None
    epochs: int | None = None
    warmup_epochs: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    reference_batch: int = 512
    lr: float | None = None
    warmup_lr: float | None = None
    min_lr: float | None = None
    schedule: Literal["cosine", "steps"] = "cosine"
    decay_epochs: tuple[int, ...] = ()
    decay_rate: float = 0.1
    weight_decay: float = 0.05
    betas: Pair = (0.9, 0.999)
    eps: float = 1e-8
    layer_decay: float | None = None
    freeze: Freeze = "none"
    clip_grad: float = 5.0
    ema: float | None = None
    loss: Literal["auto", "cross_entropy", "bce"] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = 0.1
    drop_path: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16", "bf16_all"] = "auto"
    compile: bool = False
    checkpointing: bool = False
    augment: Literal["photo", "small", "none"] = "photo"
    crop_scale: Pair | None = None
    auto_augment: str | None = None
    color_jitter: float = 0.4
    random_erasing: float | None = None
    flip: bool = True
    rotate: float = 10.0
    shift: float = 0.1
    zoom: float = 0.1
    mixup: float | None = None
    cutmix: float | None = None
    mix_prob: float = 1.0
    mix_switch_prob: float = 0.5
    teacher: str | None = None
    distill_weight: float = 0.5
    distill_temperature: float = 2.0
    mask_patch: int = 32
    mask_ratio: float = 0.6
    mask_norm: int = 47
    max_skipped: int = 10
    max_unreadable: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen: normalise what YAML and people write
        for name in ("betas", "crop_scale", "decay_epochs"):
            if getattr(self, name) is not None:
                set_(self, name, tuple(getattr(self, name)))
        set_(self, "sizes", {int(epoch): int(size) for epoch, size in sorted(self.sizes.items())})
        for name, low, high, said in _RANGES:
            value = getattr(self, name)
            for part in _parts(value):
                if part is not None and not low <= part <= high:
                    raise ValueError(f"{name} is {value}; give {said}")
        if self.epochs is not None and (self.warmup_epochs or 0) > self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and epochs {self.epochs}; give no more than epochs"
            )
        if self.crop_scale is not None and (
            self.crop_scale[0] > self.crop_scale[1] or not self.crop_scale[0]
        ):
            raise ValueError(
                f"crop_scale is {self.crop_scale}; give the smallest share, above 0, then the largest"
            )
        if any(before >= after for before, after in pairwise(self.decay_epochs)):
            raise ValueError(f"decay_epochs is {self.decay_epochs}; give each epoch once, in order")
        if self.schedule == "steps" and not self.decay_epochs:
            raise ValueError("schedule is steps and decay_epochs empty; give the epochs, as in [60, 80]")
        if self.mask_norm and (self.mask_norm % 2 == 0 or self.mask_norm == 1):
            raise ValueError(
                f"mask_norm is {self.mask_norm}; give an odd number from 3 on, or 0 for plain pixels"
            )
        if any(epoch < 0 for epoch in self.sizes):
            raise ValueError(f"sizes is {self.sizes}; give epochs from 0 on, as in {{0: 128, 20: 192}}")

    def settled(self, *, images: int, classes: int, config: SwinV2Config | None = None) -> Settled:
        """This recipe with everything that it leaves open chosen for so many training pictures and classes.

        Args:
            config: of the model; default is the tiny one.
        """
        from swinv2.train.recipes.rules import settle

        return settle(self, images=images, classes=classes, config=config)

    def size_at(self, epoch: int) -> int | None:
        """Pixels a side that an epoch (from 0) trains at; None for the size of the run."""
        begun = [size for start, size in self.sizes.items() if start <= epoch]
        return begun[-1] if begun else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in which keys are texts."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def to_yaml(self) -> str:
        """A file that settings.load() reads back to the same recipe."""
        import yaml

        return yaml.safe_dump(self.to_dict() | {"sizes": self.sizes}, sort_keys=False)


@dataclass(frozen=True)
class Settled(Recipe):
    """A recipe with nothing left open, as a run needs it."""

    epochs: int = 30
    warmup_epochs: float = 3.0
    batch_size: int = 64
    lr: float = 5e-4
    warmup_lr: float = 5e-7
    min_lr: float = 5e-6
    layer_decay: float = 1.0
    ema: float = 0.0
    crop_scale: Pair = (0.08, 1.0)
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    random_erasing: float = 0.25
    mixup: float = 0.0
    cutmix: float = 0.0

    def learning_rate(self, batch: int, rate: float | None = None) -> float:
        """The rate that a batch of this many pictures trains with (default: of lr)."""
        return (self.lr if rate is None else rate) * batch / self.reference_batch


def _parts(value: Any) -> tuple:
    if isinstance(value, dict):
        return tuple(value.values())
    return value if isinstance(value, tuple) else (value,)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): part for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


_MANY = 10**9
_RANGES: tuple[tuple[str, float, float, str], ...] = (
    # field             least   most    in words
    ("image_size",      1,      16384,  "pixels a side, at least 1"),
    ("sizes",           1,      16384,  "pixels a side of at least 1, as in {0: 128, 20: 192}"),
    ("crop_pct",        0.01,   1,      "a share above 0 and up to 1"),
    ("epochs",          1,      _MANY,  "at least 1"),
    ("warmup_epochs",   0,      _MANY,  "0 or more"),
    ("batch_size",      1,      _MANY,  "at least 1"),
    ("accumulate",      1,      _MANY,  "at least 1"),
    ("reference_batch", 1,      _MANY,  "at least 1"),
    ("lr",              0,      _MANY,  "a rate of 0 or more"),
    ("warmup_lr",       0,      _MANY,  "a rate of 0 or more"),
    ("min_lr",          0,      _MANY,  "a rate of 0 or more"),
    ("decay_epochs",    1,      _MANY,  "epochs of at least 1"),
    ("decay_rate",      0,      1,      "a share from 0 to 1"),
    ("weight_decay",    0,      _MANY,  "0 or more"),
    ("betas",           0,      0.999999, "two numbers from 0 up to, not including, 1"),
    ("eps",             0,      1,      "a small number such as 1e-8"),
    ("layer_decay",     0.01,   1,      "a share above 0 and up to 1, such as 0.75"),
    ("clip_grad",       0,      _MANY,  "a norm above 0, or 0 for no clipping"),
    ("ema",             0,      0.9999999, "0 for none, or a decay below 1, such as 0.999"),
    ("label_smoothing", 0,      0.99,   "a share from 0 up to, not including, 1"),
    ("drop_path",       0,      0.99,   "a rate from 0 up to, not including, 1"),
    ("crop_scale",      0,      1,      "two shares of the area, from 0 to 1"),
    ("color_jitter",    0,      1,      "a strength from 0 to 1"),
    ("random_erasing",  0,      1,      "a probability from 0 to 1"),
    ("rotate",          0,      180,    "degrees from 0 to 180"),
    ("shift",           0,      1,      "a share from 0 to 1"),
    ("zoom",            0,      0.99,   "a share from 0 up to, not including, 1"),
    ("mixup",           0,      _MANY,  "0 for none, or a strength such as 0.8"),
    ("cutmix",          0,      _MANY,  "0 for none, or a strength such as 1"),
    ("mix_prob",        0,      1,      "a probability from 0 to 1"),
    ("mix_switch_prob", 0,      1,      "a probability from 0 to 1"),
    ("mask_patch",      1,      16384,  "pixels a side, at least 1"),
    ("mask_ratio",      0.01,   1,      "a share above 0 and up to 1"),
    ("mask_norm",       0,      16383,  "an odd number of pixels a side from 3 on, or 0 for plain pixels"),
    ("distill_weight",  0,      1,      "a share from 0 to 1"),
    ("distill_temperature", 0.01, _MANY, "a number above 0, such as 2"),
    ("max_skipped",     0,      _MANY,  "a number of steps, 0 for none"),
    ("max_unreadable",  0,      1,      "a share from 0 to 1, 0 for none"),
    ("seed",            0,      2**63 - 1, "a whole number of 0 or more"),
)  # fmt: skip
