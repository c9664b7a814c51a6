"""What a run will take: the memory that is predicted is what a step allocates, and the steps are those of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from swinv2.config import VARIANTS, SwinV2Config
from swinv2.counts import parameters
from swinv2.data.order import Order
from swinv2.model import Block, Offsets, SwinV2
from swinv2.train.memory import Load, _block, peak
from swinv2.train.method.optim import Schedule
from swinv2.train.plan import GB, _gb, advice, capacity, plan, savings
from swinv2.train.recipes.recipe import Recipe

NARROW = SwinV2Config(
    architecture="narrow", image_size=64, window=8, embed_dim=64, depths=(2, 2, 4, 2), heads=(2, 4, 8, 16),
    num_classes=10,
)  # fmt: skip
W16, W24 = replace(NARROW, window=16, image_size=128), replace(NARROW, window=24, image_size=192)
BASE = VARIANTS["swinv2_base_window8_256"]


def allocated(config: SwinV2Config, load: Load) -> int:
    """Bytes at the fullest moment of a second training step, as torch's allocator counts them."""
    torch.manual_seed(0)
    model = SwinV2(config).train()
    model.checkpointing = load.checkpointing
    for name, parameter in model.named_parameters():
        is_frozen = (load.frozen and name.startswith("patch_embed")) or name.startswith(
            tuple(f"layers.{i}." for i in range(load.frozen - 1))
        )
        parameter.requires_grad_(not is_frozen)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, fused=True)
    images = torch.randn(load.images, config.in_chans, *load.size)
    labels = torch.zeros(load.images, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=load.precision == "bf16"):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 5.0)
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    there = sum(p.numel() for p in model.parameters()) + 2 * sum(p.numel() for p in learning) + images.numel()
    return 4 * there + most


@pytest.mark.parametrize(
    ("config", "load"),
    [
        (NARROW, Load(6, (128, 128))),
        (NARROW, Load(1, (64, 64))),
        (NARROW, Load(6, (128, 128), precision="bf16")),
        (NARROW, Load(12, (128, 128), checkpointing=True)),
        (NARROW, Load(3, (100, 140))),
        (NARROW, Load(6, (128, 128), frozen=3)),
        (W16, Load(4, (128, 128))),
        (W16, Load(4, (128, 128), precision="bf16")),
        (W24, Load(2, (192, 192))),
        (W24, Load(2, (192, 192), precision="bf16", checkpointing=True)),
    ],
    ids=[
        "window 8", "one picture", "bf16", "checkpointing", "padded", "frozen", "window 16", "window 16 bf16",
        "window 24", "window 24 bf16 checkpointing",
    ],
)  # fmt: skip
def test_the_predicted_peak_is_what_a_step_allocates(config, load):
    found, predicted = allocated(config, load), peak(config, load).total
    assert abs(predicted / found - 1) < 0.08, (
        f"{predicted / 2**20:.1f} MB predicted, {found / 2**20:.1f} found"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("side", "index", "window"), [(32, 0, 8), (32, 1, 8), (24, 1, 16), (32, 0, 32)])
def test_what_a_block_keeps_is_what_autograd_keeps(side, index, window, precision):
    config = replace(NARROW, image_size=4 * side, window=window)
    stage = config.stages(4 * side, 4 * side)[0]
    load = Load(2, (4 * side, 4 * side), precision=precision)
    block = Block(stage, index, config, 0.0).train()
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(2, side, side, 64, dtype=dtype, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        out = block(x, stage, Offsets.of(stage, x))
    assert out.dtype == dtype
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    copies = 2 * sum(p.numel() for p in block.parameters() if p.ndim == 2) * (precision == "bf16")
    assert _block(stage, index, load)[0] + copies == pytest.approx(found, rel=0.01)


# ---------------------------------------------------------------- arithmetic of what cannot be measured here


def test_shards_divide_what_belongs_to_the_weights():
    alone = peak(BASE, Load(1, (256, 256)))
    shared = peak(BASE, Load(1, (256, 256), processes=8, is_sharded=True))
    for name in ("weights", "optimizer"):
        assert getattr(shared, name) == pytest.approx(getattr(alone, name) / 8)
    assert shared.total < alone.total / 2


def test_copies_of_a_network_keep_all_gradients_through_the_step():
    alone, copied = (peak(BASE, Load(8, (256, 256), processes=n)) for n in (1, 2))
    assert copied.gradients == 4 * parameters(BASE) > alone.gradients
    assert alone.total < copied.total <= alone.total + copied.gradients


def test_averages_and_a_teacher_are_counted():
    plain, more = peak(BASE, Load(1, (64, 64))), peak(BASE, Load(1, (64, 64), averages=True, teacher=1000))
    assert more.total - plain.total == 4 * parameters(BASE) + 4000


def test_a_gpu_keeps_no_scores_of_large_windows():
    load = Load(2, (384, 384), precision="bf16")
    large = VARIANTS["swinv2_base_window12to24_192to384"]
    assert peak(large, replace(load, kind="cuda")).activations < 0.6 * peak(large, load).activations


def test_a_gpu_has_half_the_residual_stream_where_all_is_bf16():
    load = Load(8, (256, 256), precision="bf16", kind="cuda", checkpointing=True)  # which keeps nothing else
    mixed, pure = peak(BASE, load), peak(BASE, replace(load, precision="bf16_all"))
    assert 0.5 < pure.activations / mixed.activations < 0.9
    on_cpu = replace(load, kind="cpu")
    assert peak(BASE, on_cpu) == peak(BASE, replace(on_cpu, precision="bf16_all"))


# ---------------------------------------------------------------- a plan


def test_steps_and_rates_are_those_of_the_run():
    recipe = Recipe(batch_size=64, epochs=7, lr=1e-3, accumulate=2)
    planned = plan(BASE, recipe, images=1003, classes=5, world=4)
    order = Order(1003, 64, 0, rank=1, world=4, accumulate=2)
    schedule = Schedule.of(planned.recipe, order.steps, order.batch_size)
    assert (planned.batch, planned.steps_per_epoch, planned.steps) == (64, order.steps, schedule.steps)
    assert planned.micro == 8
    assert planned.to_dict()["learning_rate"] == schedule.lr
    assert f"7 epochs of {order.steps} steps = {schedule.steps} steps" in str(planned)
    assert "batch    64 = 4 x 2 x 8" in str(planned)


def test_a_batch_larger_than_the_data_is_as_large_as_the_data():
    planned = plan(BASE, Recipe(batch_size=512), images=100, classes=5)
    assert (planned.batch, planned.steps_per_epoch) == (100, 1)
    assert plan(BASE, Recipe(batch_size=512, accumulate=4), images=100, classes=5).batch == 96
    with pytest.raises(ValueError, match="3 pictures cannot be divided over 2 processes"):
        plan(BASE, Recipe(batch_size=512), images=3, classes=2, world=2)


def test_memory_is_that_of_one_forward_pass_of_one_process():
    whole = plan(BASE, Recipe(batch_size=64), images=1000, classes=5).memory
    divided = plan(BASE, Recipe(batch_size=64, accumulate=4), images=1000, classes=5, world=2).memory
    assert divided.activations == pytest.approx(whole.activations / 8, rel=0.1)


def test_the_largest_training_size_decides():
    growing = plan(BASE, Recipe(sizes={0: 128, 5: 320}), images=1000, classes=5)
    assert growing.memory == plan(BASE, Recipe(sizes={0: 320}), images=1000, classes=5).memory
    assert growing.memory.total > plan(BASE, Recipe(), images=1000, classes=5).memory.total


def test_savings_are_what_the_plan_with_the_setting_says():
    given = {"batch_size": 32, "epochs": 3}
    planned = plan(BASE, Recipe(**given), images=1000, classes=5)
    found = {saving.option: saving for saving in savings(planned)}
    with_them = {
        "--checkpointing": {"checkpointing": True},
        "--accumulate 2": {"accumulate": 2},
        "--precision bf16": {"precision": "bf16"},
        "--batch-size 16": {"batch_size": 16},
        "--freeze stage2": {"freeze": "stage2"},
    }
    for option, setting in with_them.items():
        other = plan(BASE, Recipe(**given | setting), images=1000, classes=5)
        assert found[option].memory == other.memory, option
        assert found[option].saved == planned.memory.total - other.memory.total > 0
    smaller = plan(BASE.resized(192), Recipe(**given), images=1000, classes=5)
    assert found["--image-size 192"].memory == smaller.memory


def test_advice_is_one_sentence_with_figures():
    said = advice(BASE, Recipe(batch_size=64), images=1000, classes=5)
    planned = plan(BASE, Recipe(batch_size=64), images=1000, classes=5)
    assert said.startswith(f"not enough memory: a step needs about {_gb(planned.memory.total)}")
    assert all(f"{s.option}: {_gb(s.memory.total)}" in said for s in savings(planned))
    assert said.count("--") >= 5
    assert "\n" not in said


def test_a_plan_that_does_not_fit_says_so(monkeypatch):
    monkeypatch.setattr("swinv2.train.plan.capacity", lambda kind: GB)
    planned = plan(BASE, Recipe(batch_size=64), images=1000, classes=5)
    assert planned.fits is False
    assert "of 1.00 GB for the tensors" in str(planned)
    assert "more than there is" in str(planned)


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < capacity("cpu") < 2**50
