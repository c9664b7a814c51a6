"""How much memory a training step takes, by arithmetic: no network is built, nothing is run.

What a step holds is what it cannot avoid (weights, gradients, optimizer) and what the backward pass needs of the
forward pass. The latter is summed tensor by tensor, for every block, as autograd keeps them: tests/test_plan.py
compares the list with what is kept, and the peak with what a step allocates, on a CPU. For a GPU the types are those of
its autocast and the attention is the fused one; docs/plan.md says what of it is extrapolated.
"""

# B pictures of a micro batch, T = B*h*w tokens of a stage, N tokens of a window, C channels, H heads

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod

from swinv2.config import Pair, Stage, SwinV2Config
from swinv2.counts import CPB_HIDDEN, parameter_shapes

FLOAT = 4  # bytes; of weights, gradients, optimizer and everything that is computed in full precision
INTEGER = 8
ADAM = 2  # averages that AdamW keeps of every parameter


@dataclass(frozen=True)
class Memory:
    """Bytes at the moment of a step when most is held, by what they are for.

    Args:
        averages: running average of the weights; teacher: weights of a model to learn from.
        copies: of weights, in half precision until they are used, or of blocks that are otherwise sharded.
        activations: what the backward pass still needs at that moment; workspace: what it computes with.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    teacher: int
    copies: int
    pictures: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Load:
    """What a process does in a step.

    Args:
        images: pictures of a micro batch in this process.
        size: of the pictures, in pixels.
        precision: "fp32", "bf16", "bf16_all" or "fp16".
        kind: of the device: "cpu", "cuda", "mps".
        frozen: parts of the network that keep their weights: 0 none, 1 the patch embedding, 2 also stage 1, ...
        teacher: parameters of the model to learn from.
    """

    images: int
    size: Pair
    precision: str = "fp32"
    kind: str = "cpu"
    checkpointing: bool = False
    averages: bool = False
    frozen: int = 0
    teacher: int = 0
    processes: int = 1
    is_sharded: bool = False

    @property
    def half(self) -> int:
        """Bytes of what autocast computes in the lower precision."""
        return FLOAT if self.precision == "fp32" else 2

    @property
    def stream(self) -> int:
        """Bytes of the residual stream: autocast normalises in float32 on a GPU, and in its own type on a CPU."""
        return self.half if self.kind == "cpu" or self.precision == "bf16_all" else FLOAT

    @property
    def normed(self) -> int:
        """Bytes of what is normalised, as it is kept."""
        return self.half if self.kind == "cpu" else FLOAT

    @property
    def is_fused(self) -> bool:
        """Whether attention keeps no scores: a learned bias is taken by the fused kernel of a GPU only."""
        return self.kind == "cuda"


@dataclass(frozen=True)
class Span:
    """A piece of the network between two moments of a step.

    Args:
        kept: bytes that the backward pass needs of it, from the forward pass on.
        again: bytes that exist only while it is computed again (checkpointing).
        work: bytes more than those, at most, while the backward pass is in it.
        copied: bytes of its weights in half precision, kept as well.
        parameters: that learn.
    """

    kept: int
    again: int
    work: int
    copied: int
    parameters: int


def peak(config: SwinV2Config, load: Load, *, parameters: int | None = None, largest: int = 0) -> Memory:
    """The most that a training step holds at once, from the second step on.

    The backward pass goes through the network from the end: it frees what was kept and leaves gradients. Where the
    most is held depends on the batch, so every moment is looked at.

    Args:
        parameters: of the network, where it has more than the classifier (a decoder).
        largest: bytes of the largest tensors that the loss works with, where they are more than logits.
    """
    shapes = parameter_shapes(config)
    spans = list(_spans(config, load))
    own = sum(map(prod, shapes.values()))
    count = own if parameters is None else parameters
    learning = sum(span.parameters for span in spans) + count - own  # a decoder learns, and first of all
    share = load.processes if load.is_sharded else 1
    is_reduced = load.processes > 1 and not load.is_sharded  # DDP keeps its buckets, which are the gradients
    always = {
        "weights": FLOAT * count // share,
        "optimizer": ADAM * FLOAT * learning // share,
        "averages": FLOAT * learning // share if load.averages else 0,
        "teacher": FLOAT * load.teacher,
        "pictures": FLOAT * load.images * config.in_chans * prod(load.size),
    }
    whole = _gathered(config, shapes) if load.is_sharded else 0
    kept, copied = sum(span.kept for span in spans), sum(span.copied for span in spans)
    done = count - own
    moments: list[Memory] = []
    for span in reversed(spans):
        done += span.parameters
        moments.append(
            Memory(
                **always,
                gradients=FLOAT * (learning if is_reduced else done) // share,
                copies=whole + (span.copied if load.checkpointing else copied),
                activations=kept + span.again,
                workspace=span.work + (0 if moments else largest),
            )
        )
        kept -= span.kept
        copied -= span.copied
    # The optimizer's step: all gradients, and nothing of the forward pass any more.
    gradients = FLOAT * learning // share
    moments.append(Memory(**always, gradients=gradients, copies=0, activations=0, workspace=0))
    return max(moments, key=lambda memory: memory.total)


def _spans(config: SwinV2Config, load: Load) -> Iterator[Span]:
    """The network from the patch embedding to the head."""
    stages = config.stages(*load.size)
    sizes: dict[str, int] = {}
    copied: dict[str, int] = {}
    for name, shape in parameter_shapes(config).items():
        part = ".".join(name.split(".")[: 4 if ".blocks." in name else 3 if ".downsample." in name else 1])
        sizes[part] = sizes.get(part, 0) + prod(shape)
        is_copied = load.precision != "fp32" and len(shape) in (2, 4)  # what autocast multiplies with
        copied[part] = copied.get(part, 0) + load.half * prod(shape) * is_copied

    def span(part: str, kept: int, work: int, again: int = 0, *, learns_from: int) -> Span:
        is_learning = load.frozen < learns_from
        return Span(*(is_learning * n for n in (kept, again, work, copied[part], sizes[part])))

    tokens = load.images * prod(stages[0].grid)
    embedded = load.half * tokens * config.embed_dim
    yield span("patch_embed", embedded + 2 * FLOAT * tokens, embedded, learns_from=1)
    for stage in stages:
        for b in range(stage.depth):
            kept, work = _block(stage, b, load)
            name, level = f"layers.{stage.index}.blocks.{b}", stage.index + 2
            if load.checkpointing:
                first = load.stream * load.images * prod(stage.grid) * stage.dim  # what the block begins with
                again = kept - first if load.half == load.stream else kept  # the input of qkv is a copy then
                yield span(name, first, work, again, learns_from=level)
            else:
                yield span(name, kept, work, learns_from=level)
        if stage.index < len(stages) - 1:
            merged = load.images * ((stage.grid[0] + 1) // 2) * ((stage.grid[1] + 1) // 2)
            four = 4 * merged * stage.dim
            kept = load.half * four + load.normed * four // 2 + 2 * FLOAT * merged
            yield span(f"layers.{stage.index}.downsample", kept, 2 * load.half * four, learns_from=level)
    last = stages[-1]
    tokens, logits = load.images * prod(last.grid), load.images * config.num_classes
    features = load.stream * tokens * last.dim
    sizes["head"], copied["head"] = (found.get("head", 0) + found["norm"] for found in (sizes, copied))
    yield span(
        "head",
        features + 2 * FLOAT * (tokens + logits),
        features + FLOAT * logits,
        learns_from=len(stages) + 2,
    )


def _block(stage: Stage, index: int, load: Load) -> tuple[int, int]:
    """What a block keeps, in the order in which it computes it, and what its backward pass works with beside it."""
    half, norm, stream = load.half, load.normed, load.stream
    T, C, H = load.images * prod(stage.grid), stage.dim, stage.heads
    P = load.images * prod(stage.padded)  # tokens of whole windows
    N = prod(stage.window)
    offsets = (2 * stage.window[0] - 1) * (2 * stage.window[1] - 1)
    # On a CPU torch's attention computes in float32; up to 256 tokens ours is used (ops.choose).
    attended = FLOAT if load.kind == "cpu" and N > 256 else half
    scores = attended * P * N * H
    is_masked = stage.shift_of(index) != (0, 0) or stage.padded != stage.grid
    kept = (
        half * T * C  # input of qkv
        + FLOAT * 2 * P * C  # q and k before they are normalised
        + FLOAT * 5 * P * H  # their norms, what they are multiplied with
        + attended * 3 * P * C  # q, k, v
        + (half * P * C + FLOAT * P * H if load.is_fused else scores)  # result and sums, or the scores
        + half * T * C  # input of proj
        + norm * T * C + 2 * FLOAT * T  # input of norm1
        + half * T * C  # input of fc1
        + half * 2 * 4 * T * C  # before and after GELU
        + norm * T * C + 2 * FLOAT * T  # input of norm2
        + half * offsets * CPB_HIDDEN + FLOAT * offsets * H + INTEGER * N * N  # position bias
    )  # fmt: skip
    if load.is_fused:
        # The kernel keeps what it added: the bias, with the mask of every window where there is one.
        kept += half * N * N * H * (stage.windows if is_masked else 1)
    # Inside the MLP: gradients of the stream, of fc2's input and of GELU's. In attention the MLP is freed already,
    # and gradients of the scores and of q and k twice, before and after the normalisation, are there.
    freed = half * 9 * T * C + 2 * norm * T * C
    attention = (
        stream * T * C
        + (1 if load.is_fused else 2) * scores
        + attended * 3 * P * C
        + FLOAT * 2 * P * C
        - freed
    )
    return kept, max(stream * T * C + half * 4 * T * C, attention)


def _gathered(config: SwinV2Config, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of blocks that are whole for a moment, though sharded: one, the next on its way, and one's gradient."""
    last = f"layers.{len(config.depths) - 1}.blocks."
    return (
        3 * FLOAT * sum(prod(s) for name, s in shapes.items() if name.startswith(last)) // config.depths[-1]
    )
