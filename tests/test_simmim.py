"""SimMIM: what is hidden, what is asked for, and what a pre-training run leaves for training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, randomized
from PIL import Image
from torch import nn
from training import SPECK, write_pictures, write_split

import swinv2
from swinv2 import artifact, checkpoints, config
from swinv2.cli import main
from swinv2.config import VARIANTS
from swinv2.data.split import DataError
from swinv2.data.unlabelled import MEASURED, read_unlabelled
from swinv2.model import SwinV2
from swinv2.pretrain import Result, pretrain
from swinv2.train.method.optim import Schedule, groups
from swinv2.train.recipes import settings
from swinv2.train.recipes.recipe import Recipe
from swinv2.train.simmim.masking import Masks, enlarged, hidden_error, targets
from swinv2.train.simmim.pretraining import SimMIM

BACKBONE = replace(SMALL, num_classes=0)
SIDE = BACKBONE.image_size[0]


def masks(**changes) -> Masks:
    given = {"mask_patch": 32, "mask_ratio": 0.6, "seed": 3} | changes
    return Masks.of(Recipe(**given), VARIANTS["swinv2_base_window12_192"])


# ---------------------------------------------------------------- what is hidden


def test_22_of_36_squares_of_8_by_8_tokens_are_hidden_in_every_picture():
    hidden = masks().draw((192, 192), [(0, 0, i) for i in range(50)])
    assert hidden.shape == (50, 48, 48)
    assert (hidden.sum((1, 2)) == 22 * 64).all()
    squares = hidden.view(50, 6, 8, 6, 8)
    assert (squares.all(4).all(2) | ~squares.any(4).any(2)).all(), "a square is partly hidden"


def test_every_square_is_hidden_equally_often():
    often = masks().draw((192, 192), [(0, 0, i) for i in range(3000)])[:, ::8, ::8].float().mean(0)
    assert (often - 22 / 36).abs().max() < 4 * (0.61 * 0.39 / 3000) ** 0.5  # four standard deviations


def test_what_is_hidden_follows_from_the_seed_and_the_key_alone():
    keys = [(0, 5, i) for i in range(8)]
    together = masks().draw((64, 192), keys)
    apart = torch.cat([masks().draw((64, 192), [key]) for key in keys])
    assert torch.equal(together, apart)
    assert not torch.equal(together, masks(seed=4).draw((64, 192), keys))
    assert len({row.numpy().tobytes() for row in together}) > 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask_patch": 30}, "mask_patch is 30, and tokens are 4 pixels a side; give a multiple of that"),
        ({"mask_patch": 28}, r"192 x 192 pixels cannot be divided .* a multiple of 224"),
        ({"sizes": {3: 200}}, r"200 x 200 pixels cannot be divided .* a multiple of 32"),
        ({"mask_ratio": 0.99}, r"mask_ratio 0.99 hides all squares"),
        ({"mask_norm": 46}, r"mask_norm is 46; give an odd number"),
    ],
)
def test_impossible_masks_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        masks(**changes)


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(("side", "size"), [(47, (64, 96)), (5, (7, 3)), (9, (4, 4))])
def test_targets_are_normalised_by_the_pixels_around_them(side, size):
    """Pixel by pixel with numpy: the mean and the sample deviation of what exists of the neighbourhood."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = targets(images, side)
    chance = np.random.default_rng(0)
    for _ in range(60):
        b, c = chance.integers(2), chance.integers(3)
        y, x = chance.integers(size[0]), chance.integers(size[1])
        around = (
            images[b, c, max(0, y - side // 2) : y + side // 2 + 1, max(0, x - side // 2) : x + side // 2 + 1]
            .double()
            .numpy()
        )
        wanted = (images[b, c, y, x].item() - around.mean()) / np.sqrt(around.var(ddof=1) + 1e-6)
        assert found[b, c, y, x].item() == pytest.approx(wanted, abs=2e-4)


def test_a_flat_picture_has_finite_targets():
    assert targets(torch.full((1, 3, 64, 64), 2.2489083), 47).abs().max() < 5


def published_loss(predicted, images, hidden, *, side: int):
    """The loss of the official repository (models/simmim.py) as its formulas say, written again."""
    pixels = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].double()
    if side:
        kernel = {"kernel_size": side, "stride": 1, "padding": side // 2}
        mean = F.avg_pool2d(images, **kernel, count_include_pad=False)
        mean_of_squares = F.avg_pool2d(images**2, **kernel, count_include_pad=False)
        count = F.avg_pool2d(torch.ones_like(images), **kernel) * side**2
        variance = ((mean_of_squares - mean**2) * count / (count - 1)).clamp(min=0)
        images = (images - mean) / (variance + 1e-6) ** 0.5
    return ((images - predicted).abs() * pixels).sum() / (pixels.sum() + 1e-5) / 3


@pytest.mark.parametrize("side", [0, 47])
def test_the_loss_is_the_published_one(side):
    chance = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 192, 192, generator=chance)
    predicted = torch.randn(images.shape, generator=chance, requires_grad=True)
    hidden = masks().draw((192, 192), [(0, 1, 2), (0, 1, 3), (0, 1, 4)])
    loss = hidden_error(predicted, targets(images, side), hidden).mean()
    (gradient,) = torch.autograd.grad(loss, predicted)
    again = predicted.detach().double().requires_grad_()
    wanted = published_loss(again, images.double(), hidden, side=side)
    (wanted_gradient,) = torch.autograd.grad(wanted, again)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), wanted_gradient)
    assert (gradient[~enlarged(hidden, 4)[:, None].expand_as(gradient)] == 0).all()


# ---------------------------------------------------------------- the network


@pytest.fixture
def network() -> SimMIM:
    torch.manual_seed(0)
    model = SimMIM(randomized(SwinV2(BACKBONE)))
    nn.init.normal_(model.encoder.mask_token)
    return model.eval()


def test_parameters_have_the_official_names_and_shapes(network):
    state = network.state_dict()
    others = {name: tuple(t.shape) for name, t in state.items() if not name.startswith("encoder.")}
    assert others == {"decoder.0.weight": (32 * 32 * 3, 256, 1, 1), "decoder.0.bias": (32 * 32 * 3,)}
    assert state["encoder.mask_token"].shape == (1, 1, 32)
    encoder = {name.removeprefix("encoder.") for name in state if name.startswith("encoder.")}
    assert encoder == {*SwinV2(BACKBONE).state_dict(), "mask_token"}


def test_hidden_pixels_cannot_be_seen(network):
    hidden = torch.zeros(1, 16, 16, dtype=torch.bool)
    hidden[:, 8:, :8] = True
    images = torch.randn(1, 3, SIDE, SIDE)
    changed = torch.where(enlarged(hidden, 4)[:, None], torch.randn_like(images), images)
    with torch.no_grad():
        assert torch.equal(network(images, hidden), network(changed, hidden))
        assert not torch.equal(network(images, ~hidden), network(changed, ~hidden))


def test_reconstruction_and_loss_equal_those_of_transformers(network):
    """Swinv2ForMaskedImageModeling, which does not normalise targets; the weights by the names of its dialect."""
    transformers = pytest.importorskip("transformers")
    from swinv2.checkpoints import DIALECTS

    config = transformers.Swinv2Config(
        image_size=SIDE, patch_size=4, embed_dim=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4,
        encoder_stride=32, drop_path_rate=0.0,
    )  # fmt: skip
    theirs = transformers.Swinv2ForMaskedImageModeling(config).eval()
    body = {n: p for n, p in network.encoder.state_dict().items() if n != "mask_token"}
    state = DIALECTS["transformers"].from_official(body, BACKBONE)
    state |= {
        "swinv2.embeddings.mask_token": network.encoder.mask_token,
        "decoder.0.weight": network.decoder[0].weight,
        "decoder.0.bias": network.decoder[0].bias,
    }
    lacking = theirs.load_state_dict(state, strict=False)
    assert not [n for n in lacking.missing_keys if "relative" not in n], lacking.missing_keys
    assert not [n for n in lacking.unexpected_keys if "relative" not in n], lacking.unexpected_keys
    images = torch.randn(2, 3, SIDE, SIDE)
    hidden = Masks(16, 0.5, 4, seed=0).draw((SIDE, SIDE), [(0,), (1,)])
    with torch.no_grad():
        wanted = theirs(images, bool_masked_pos=hidden.flatten(1))
        found = network(images, hidden)
        loss = hidden_error(found, targets(images, 0), hidden).mean()
    torch.testing.assert_close(found, wanted.reconstruction, rtol=1e-4, atol=1e-4)
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)


def test_all_parameters_learn(network):
    network.train()
    hidden = Masks(16, 0.5, 4, seed=0).draw((SIDE, SIDE), [(0,), (1,)])
    network.encoder.checkpointing = True
    hidden_error(
        network(torch.randn(2, 3, SIDE, SIDE), hidden), torch.randn(2, 3, SIDE, SIDE), hidden
    ).mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


# ---------------------------------------------------------------- the recipe


def test_the_published_schedule_and_optimizer(network):
    """2048 pictures a step: 2e-6 to 4e-4 in 10 epochs, a tenth from epoch 700 on; and no decay where none belongs."""
    recipe = settings.load("simmim_pretrain").settled(images=1_281_167, classes=1)
    schedule = Schedule.of(recipe, 625, 2048)
    assert (schedule.steps, schedule(0), schedule(6250), schedule(700 * 625 - 1)) == (
        500_000,
        2e-6,
        4e-4,
        4e-4,
    )
    assert schedule(700 * 625) == schedule(499_999) == pytest.approx(4e-5)
    decayed, free = groups(network, recipe)
    assert (decayed.weight_decay, free.weight_decay) == (0.05, 0)
    assert {"encoder.mask_token", "decoder.0.bias"} <= free.parameters.keys()
    assert "decoder.0.weight" in decayed.parameters
    assert not [name for name in decayed.parameters if "cpb_mlp" in name or "logit_scale" in name]


def test_a_shorter_run_falls_at_the_same_share_of_it():
    assert settings.load("simmim_pretrain", epochs=100).decay_epochs == (88,)
    assert settings.load("simmim_pretrain", epochs=100, decay_epochs=(50,)).decay_epochs == (50,)


# ---------------------------------------------------------------- pictures without labels


@pytest.fixture
def loose(tmp_path) -> Path:
    """Pictures at two depths, beside what is no picture."""
    write_pictures(tmp_path / "loose", 10, classes=("a", "a/b"))
    for name in ("x.png", "y.png", ".hidden.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / "loose" / name)
    (tmp_path / "loose" / "notes.txt").write_text("no picture")
    return tmp_path / "loose"


def test_pictures_are_found_at_any_depth_and_a_fifth_is_held_out(loose):
    train, held_out = read_unlabelled(loose)
    assert (len(train), len(held_out)) == (18, 4)
    assert {*train.names, *held_out.names} == {"x.png", "y.png"} | {
        f"{folder}/{i}.png" for folder in ("a", "a/b") for i in range(10)
    }
    assert set(train.labels) == {0}
    assert read_unlabelled(loose)[1].names == held_out.names


def test_parts_are_taken_for_what_they_are_called(tmp_path):
    train, held_out = read_unlabelled(write_split(tmp_path, train=4, held_out=2))
    assert (len(train), len(held_out), train.split, held_out.split) == (12, 6, "train", "val")
    assert all(name.startswith("train/") for name in train.names)


def test_at_most_a_thousand_are_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("swinv2.data.unlabelled.MEASURED", 3)
    train, held_out = read_unlabelled(write_pictures(tmp_path, 20))
    assert (len(train), len(held_out), MEASURED) == (57, 3, 1000)
    assert not set(train.names) & set(held_out.names)


def test_one_picture_is_too_few(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="holds one picture; pre-training needs"):
        read_unlabelled(tmp_path)


# ---------------------------------------------------------------- a run

QUICK = {
    "mask_patch": 8,
    "mask_norm": 9,
    "batch_size": 8,
    "epochs": 2,
    "lr": 5.0,
    "image_size": 32,
    "workers": 0,
}


@pytest.fixture(autouse=True)
def speck(monkeypatch):
    """A variant of two blocks, by name."""
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)


def run(data: Path, output: Path, **changes) -> Result:
    return pretrain(data, model="swinv2_speck", output=output, **QUICK | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Result:
    where = tmp_path_factory.mktemp("pretrain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.VARIANTS, SPECK.architecture, SPECK)
        return run(write_pictures(where / "photos", 12), where / "run", epochs=6)


def rows(output: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_run_learns_and_shows_it(finished):
    losses = [row["loss"] for row in rows(finished.output, "epoch")]
    assert len(losses) == 6
    assert losses[-1] < 0.97 * losses[0]
    assert finished.loss == min(losses)
    pictures = sorted(path.name for path in (finished.output / "reconstructions").iterdir())
    assert pictures == [f"epoch-{epoch:04}.png" for epoch in range(1, 7)]
    for name in ("reconstruction.png", "augmented.png", "curves.png"):
        with Image.open(finished.output / name) as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50, f"{name} is empty"


def test_the_reconstruction_shows_what_the_network_predicts():
    """Visible pixels as they are; hidden ones as predicted, given the brightness and contrast around them."""
    from swinv2.train.simmim.reconstruction import Example

    image = torch.randn(3, 16, 16)
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[:2] = True
    exact = Example.of(0, image, hidden, targets(image[None], 5)[0], 5)
    np.testing.assert_allclose(exact.filled, image.numpy(), atol=1e-4)
    blank = Example.of(0, image, hidden, torch.zeros_like(image), 0)
    assert (blank.filled[:, :8] == 0).all()
    assert (blank.filled[:, 8:] == image[:, 8:].numpy()).all()


def test_training_starts_from_it_with_no_parameter_missing(finished, tmp_path):
    """From the model file and from the official one alike; at rate 0 only the head is new."""
    still = {
        "lr": 0.0,
        "warmup_lr": 0.0,
        "min_lr": 0.0,
        "epochs": 1,
        "batch_size": 8,
        "augment": "none",
        "ema": 0.0,
    }
    learnt = artifact.read(finished.last)[1]
    data = write_split(tmp_path / "labelled")
    for name in ("last.safetensors", "last.pth"):
        tuned = swinv2.train(
            data, model=str(finished.output / name), output=tmp_path / name, workers=0, **still
        )
        found = artifact.read(tuned.last)[1]
        assert found.keys() - learnt.keys() == {"head.weight", "head.bias"}
        assert all(np.array_equal(found[key], learnt[key]) for key in learnt), name


def test_the_whole_network_is_saved_under_official_names(finished):
    saved = torch.load(finished.output / "last.pth", weights_only=True)["model"]
    network = SimMIM(SwinV2(replace(SPECK, num_classes=0)))
    lacking = network.load_state_dict(saved, strict=False)
    assert lacking.missing_keys == []
    assert all("relative_" in name or "attn_mask" in name for name in lacking.unexpected_keys)
    again = checkpoints.read(finished.output / "last.pth")
    assert (again.dialect, again.record.config.image_size, again.record.config.window) == (
        "simmim",
        (32, 32),
        4,
    )
    assert again.dropped[:2] == ("the mask token", "the decoder of the pre-training")


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    photos = write_pictures(tmp_path / "photos", 8)
    whole = run(photos, tmp_path / "whole", epochs=3, drop_path=0.3)
    part = run(photos, tmp_path / "part", epochs=3, drop_path=0.3, save_every="2")
    newest = sorted((part.output / "checkpoints").iterdir())
    assert len(newest) > 1
    for path in newest[1:]:  # as if it had been killed after the first of them
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = pretrain(photos, resume=part.output, workers=0)
    assert artifact.read(again.last)[1].keys() == artifact.read(whole.last)[1].keys()
    hashes = {artifact.tensors_sha256(artifact.read(r.last)[1]) for r in (whole, part, again)}
    assert len(hashes) == 1


TWO = """
import sys
from training import SPECK
from swinv2 import config
config.VARIANTS[SPECK.architecture] = SPECK
from swinv2.pretrain import pretrain
pretrain(sys.argv[1], model="swinv2_speck", output=sys.argv[2], epochs=2, batch_size=8, mask_patch=8, mask_norm=9,
         lr=0.5, image_size=32, workers=0, drop_path=0.3, log_every=1)
"""


def test_two_processes_learn_what_one_does(tmp_path):
    photos = write_pictures(tmp_path / "photos", 8)
    alone = run(photos, tmp_path / "alone", lr=0.5, drop_path=0.3, log_every=1)
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(photos), str(tmp_path / "two")], check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for kind in ("step", "epoch"):
        one, two = (
            [row["loss"] for row in rows(output, kind)] for output in (alone.output, tmp_path / "two")
        )
        assert len(one) == len(two) > 1
        assert two == pytest.approx(one, rel=1e-4)


def test_the_command_says_what_it_will_take_and_what_it_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 4)
    options = ["--model", "swinv2_speck", "--mask-patch", "8", "--mask-norm", "9", "--batch-size", "4"]
    argv = ["pretrain", "photos", *options, "--epochs", "1", "--image-size", "32", "--workers", "0"]
    assert main([*argv, "--plan", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["images"], planned["steps"]) == (10, 2)
    assert not (tmp_path / "runs").exists()
    assert main([*argv, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["last"]).exists()
    assert made["loss"] > 0


def test_a_model_that_the_squares_do_not_fit_is_refused(tmp_path, capsys):
    write_pictures(tmp_path / "photos", 4)
    assert main(["pretrain", str(tmp_path / "photos"), "--model", "swinv2_pico", "--image-size", "100"]) == 2
    assert "give an image size that is a multiple of 32" in capsys.readouterr().err
