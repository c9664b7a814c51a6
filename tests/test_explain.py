"""Maps against plain computations without hooks; where they lie on the picture; what the command leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, randomized
from PIL import Image
from torch import Tensor, nn
from training import SPECK

import swinv2
from swinv2 import artifact
from swinv2.artifact import Record
from swinv2.cli import main
from swinv2.explain import Explainer, grad_cam, gradcam, overlay
from swinv2.explain import attention as maps
from swinv2.explain.drawing import over_picture
from swinv2.explain.explainer import whole_of
from swinv2.inputs import Failure
from swinv2.model import SwinV2
from swinv2.ops import window_attention
from swinv2.preprocess import Preprocess
from swinv2.runtimes.torch import TorchSession

CLASSES = ("ash", "birch", "cedar", "elm", "fir", "oak", "pine")
PREPROCESS = Preprocess(size=(64, 64), resize_to=72)
SIZES = [(64, 64), (100, 76), (33, 70)]  # whole windows; padded windows and tokens; less than a window


def small_model(**changes) -> SwinV2:
    model = randomized(SwinV2(replace(SMALL, **changes)), seed=5).eval()
    grey = {"mean": (0.5,), "std": (0.2,)} if model.config.in_chans == 1 else {}
    model.record = Record(model.config, replace(PREPROCESS, **grey), classes=CLASSES)
    return model


def noise(size: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def photo(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


# ---------------------------------------------------------------- Grad-CAM


def cam_by_hand(model: SwinV2, x: Tensor, class_id: int, stage: int) -> tuple[Tensor, Tensor]:
    """Grad-CAM from the definition: no hooks, the network is run in two halves. Returns (map, logits)."""
    stages = model.config.stages(*x.shape[2:])
    with torch.no_grad():
        x = model.patch_embed(x)
    for i, layer in enumerate(model.layers):
        x = model._blocks(layer, stages[i], swinv2.model.Offsets.of(stages[i], x), x)
        if i + 1 == stage < len(model.layers):
            x = leaf = x.detach().requires_grad_()
        x = layer.downsample(x) if layer.downsample is not None else x
    x = model.norm(x)
    if stage == len(model.layers):
        x = leaf = x.detach().requires_grad_()
    logits = model.head(x.mean((1, 2)))
    logits[0, class_id].backward()
    cam = torch.zeros(leaf.shape[1:3], dtype=leaf.dtype)
    for channel in range(leaf.shape[3]):
        cam += leaf.grad[0, :, :, channel].mean() * leaf[0, :, :, channel].detach()
    return cam.clamp(min=0) / cam.max(), logits.detach()[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_grad_cam_is_that_of_its_definition(size, stage):
    model, x = small_model().double(), noise(size, dtype=torch.float64)
    checked = 0
    for class_id in range(7):
        expected, logits = cam_by_hand(model, x, class_id, stage)
        if expected.max() <= 0 or not expected.isfinite().all():
            continue  # nothing speaks for the class
        checked += 1
        found = gradcam.grad_cam(model, x, class_id, stage)
        torch.testing.assert_close(found.grid, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.logits, logits)
    assert checked >= 3


def test_grad_cam_of_the_last_stage_is_cam():
    model, x = small_model(), noise((128, 96))
    with torch.no_grad():
        cam = (model.forward_features(x)[0] @ model.head.weight[2]).relu()
    assert cam.max() > 0
    torch.testing.assert_close(gradcam.grad_cam(model, x, 2).grid, cam / cam.max())


def test_the_gradient_is_that_of_small_steps():
    """The mean gradient of a channel, against what moving the channel everywhere does to the logit."""
    model, x, step = small_model().double(), noise((64, 64), dtype=torch.float64), 1e-6
    kept = []
    handle = model.layers[2].blocks[-1].register_forward_hook(lambda m, i, out: kept.append(out))
    with torch.no_grad():
        model(x)
    handle.remove()
    moved = torch.zeros(model.config.dim(2), dtype=torch.float64)
    for c in range(len(moved)):
        for sign in (1, -1):
            shift = F.one_hot(torch.tensor(c), len(moved)) * sign * step
            handle = model.layers[2].blocks[-1].register_forward_hook(lambda m, i, out, by=shift: out + by)
            with torch.no_grad():
                moved[c] += sign * model(x)[0, 4] / (2 * step)
            handle.remove()
    cam = (kept[0][0] @ moved).relu()
    torch.testing.assert_close(gradcam.grad_cam(model, x, 4, 3).grid, cam / cam.max(), rtol=1e-4, atol=1e-6)


def test_the_predicted_class_is_explained_where_none_is_named():
    model, x = small_model(), noise((64, 64))
    predicted = int(model(x)[0].argmax())
    torch.testing.assert_close(gradcam.grad_cam(model, x).grid, gradcam.grad_cam(model, x, predicted).grid)


def test_the_model_is_as_it_was_afterwards():
    model = small_model(drop_path=0.5).train()
    model.requires_grad_(False)
    first = gradcam.grad_cam(model, noise((64, 64)), 1)
    again = gradcam.grad_cam(model, noise((64, 64)), 1)
    maps.rollout(model, noise((64, 64)))
    assert torch.equal(first.grid, again.grid), "drop path was on"
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_go_where_the_network_fails():
    model = small_model()
    with pytest.raises(ValueError, match="images have shape"):
        gradcam.grad_cam(model, torch.zeros(1, 2, 64, 64), 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---------------------------------------------------------------- attention


def dense_attention(look: maps.Look) -> Tensor:
    """[heads, H*W, H*W] through the slow back end: who gets how much of a value that one token alone has."""
    attention, heads = look.attention, look.stage.heads
    H, W = look.size
    C, tokens = look.x.shape[3], H * W
    qkv = F.linear(look.x, attention.qkv.weight, attention.qkv_bias()).repeat(tokens, 1, 1, 1)
    values = torch.eye(tokens, dtype=qkv.dtype).view(tokens, H, W, 1)
    qkv = torch.cat([qkv[..., : 2 * C], values.expand(-1, -1, -1, C)], dim=-1)
    out = window_attention(
        qkv, attention.logit_scale, attention.position_bias(look.offsets), heads=heads,
        window=look.stage.window, shift=look.shift, backend="reference",
    )  # fmt: skip
    return out.view(tokens, tokens, heads, -1)[..., 0].permute(2, 1, 0)  # head, query, key


@pytest.mark.parametrize("size", SIZES)
def test_the_weights_of_every_block_are_those_of_the_reference(size):
    model, x = small_model(), noise(size)
    with torch.no_grad():
        looks, logits = maps.watch(model, x)
        torch.testing.assert_close(logits, model(x)[0])
        assert len(looks) == 8
        for look in looks:
            dense = dense_attention(look).mean(0)
            torch.testing.assert_close(dense.sum(1), torch.ones(len(dense)))
            share = torch.rand(look.size, generator=torch.Generator().manual_seed(1))
            expected = (share.flatten() @ dense).view(look.size)
            torch.testing.assert_close(maps.looked_at(look, share), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_rollout_is_the_product_of_whole_matrices(size):
    model, x = small_model(), noise(size)
    with torch.no_grad():
        looks, _ = maps.watch(model, x)
        flow = torch.full((1, looks[-1].size[0] * looks[-1].size[1]), 1.0) / np.prod(looks[-1].size)
        below: tuple[int, int] | None = None
        for look in reversed(looks):
            (H, W), tokens = look.size, look.size[0] * look.size[1]
            if below not in (None, look.size):
                merge = torch.zeros(below[0] * below[1], tokens)
                for y in range(H):
                    for z in range(W):
                        merge[y // 2 * below[1] + z // 2, y * W + z] = 1
                flow = flow @ (merge / merge.sum(1, keepdim=True))
            flow, below = flow @ (torch.eye(tokens) + dense_attention(look).mean(0)) / 2, look.size
        assert float(flow.sum()) == pytest.approx(1, abs=1e-5)
        expected = flow.view(below)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(maps.rollout(model, x).grid, expected, rtol=1e-3, atol=1e-4)


def test_what_a_stage_looks_at_is_the_mean_of_its_blocks():
    model, x = small_model(), noise((100, 76))
    with torch.no_grad():
        looks = maps.watch(model, x)[0][2:4]
        got = torch.stack([dense_attention(look).mean(0).sum(0).view(look.size) for look in looks]).mean(0)
    expected = (got - got.min()) / (got.max() - got.min())
    torch.testing.assert_close(maps.received(model, x, 2).grid, expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- does it find what decides?


@pytest.fixture(scope="module")
def finder() -> SwinV2:
    """A model that tells red squares on noise from blue ones; the square is somewhere, and it alone decides."""
    torch.manual_seed(0)
    model = SwinV2(replace(SPECK, image_size=64, num_classes=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        x, labels, _ = squares(16, seed=step)
        F.cross_entropy(model(x), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def squares(count: int, seed: int) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Pictures [count, 3, 64, 64], labels, (top, left) of the squares of 16 pixels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 64, 64, generator=g) * 0.5
    labels = torch.randint(2, (count,), generator=g)
    places = torch.randint(0, 49, (count, 2), generator=g).tolist()
    for i, (top, left) in enumerate(places):
        x[i, :, top : top + 16, left : left + 16] = torch.tensor([-1.0, -1, -1])[:, None, None]
        x[i, 2 * int(labels[i]), top : top + 16, left : left + 16] = 2
    return x, labels, places  # type: ignore[return-value]


def test_grad_cam_finds_the_square_that_decides(finder):
    x, labels, places = squares(40, seed=1000)
    with torch.no_grad():
        right = finder(x).argmax(1) == labels
    assert right.sum() >= 36, "the model has not learnt the task"
    hits = 0
    for i in right.nonzero().flatten().tolist():
        grid = gradcam.grad_cam(finder, x[i : i + 1], int(labels[i])).grid  # 8 8, a cell is 8 pixels
        y, z = divmod(int(grid.argmax()), grid.shape[1])
        top, left = places[i]
        hits += top - 8 < 8 * y < top + 16 and left - 8 < 8 * z < left + 16  # the cell touches the square
    assert hits >= 0.9 * int(right.sum()), f"{hits} of {int(right.sum())}; by chance it would be 1 in 7"


# ---------------------------------------------------------------- on the picture


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(size=(64, 64), resize_to=72),
        Preprocess(size=(48, 80), resize_to=90),
        Preprocess(size=(64, 64), resize="squash"),
    ],
)
@pytest.mark.parametrize("size", [(240, 180), (91, 333), (64, 64)])
def test_seen_is_exactly_what_reaches_the_model(preprocess, size):
    left, top, right, bottom = preprocess.seen(size)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[round(y0) : round(y1), round(x0) : round(x1)] = 255
    inside = preprocess.pixels(Image.fromarray(pixels))
    pixels[:] = 255
    possible = preprocess.pixels(Image.fromarray(pixels))  # black where the crop is larger than the picture
    share = inside.sum() / possible.sum()
    assert share > 0.95
    shrunk = np.zeros((size[1], size[0], 3), np.uint8)
    shrunk[round(y0) + 4 : round(y1) - 4, round(x0) + 4 : round(x1) - 4] = 255
    assert preprocess.pixels(Image.fromarray(shrunk)).sum() / possible.sum() < share - 0.03


@pytest.mark.parametrize("size", [(240, 180), (91, 333), (40, 40)])
@pytest.mark.parametrize("resize", ["shorter", "squash"])
def test_a_mark_in_the_picture_lies_under_its_cell_of_the_map(size, resize):
    """A bright spot goes through preprocessing into a grid; laid back, the map's peak is on the spot."""
    preprocess = Preprocess(size=(64, 64), resize_to=72, resize=resize)
    for share in ((0.5, 0.5), (0.35, 0.6), (0.6, 0.4)):
        spot = round(share[0] * size[0]), round(share[1] * size[1])
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        side = max(2, round(0.03 * max(size)))
        pixels[spot[1] - side : spot[1] + side, spot[0] - side : spot[0] + side] = 255
        seen = preprocess.pixels(Image.fromarray(pixels))[..., 0].astype(np.float32)
        if seen.max() < 100:
            continue  # cropped away
        grid = seen.reshape(16, 4, 16, 4).mean((1, 3)) / 255
        heat = over_picture(grid, 4, preprocess, size)
        assert heat.shape == (size[1], size[0])
        y, x = (np.arange(n) for n in heat.shape)
        centre = (heat.sum(0) @ x / heat.sum(), heat.sum(1) @ y / heat.sum())
        assert np.abs(np.array(centre) + 0.5 - spot).max() < 0.03 * max(size)


def test_a_grid_that_reaches_beyond_the_input_is_cut():
    """At 36 pixels the last stage has 2 x 2 cells of 32 pixels, and the second ones are nearly all padding."""
    grid = np.array([[0.0, 1.0], [0.0, 1.0]])
    heat = over_picture(grid, 32, Preprocess(size=(36, 36), resize="squash"), (360, 360))
    assert heat[:, 300:].mean() > heat[:, :60].mean()
    assert heat.max() < 0.75, "four pixels into the second cell, and half of its centre at most"


def test_what_is_not_seen_is_not_marked_and_dark():
    model = small_model()
    picture = Image.new("RGB", (300, 100), (200, 200, 200))
    answer = Explainer(model, target="oak")(picture)
    left, _, right, _ = answer.seen
    assert 0 < left < right < 300
    assert answer.map[:, : int(left) - 1].max() == 0
    assert answer.map[:, int(right) + 1 :].max() == 0
    pixels = np.asarray(answer.overlay())
    assert pixels[:, : int(left) - 1].max() <= 80
    whole = Explainer(model, whole=True)(picture)
    assert whole.seen == (0, 0, 300, 100)
    assert whole.preprocess.size == (72, 216)


def test_an_empty_map_leaves_the_picture_as_it_is():
    picture = photo()
    assert np.array_equal(np.asarray(overlay(picture, np.zeros((90, 120)))), np.asarray(picture))
    assert not np.array_equal(np.asarray(overlay(picture, np.ones((9, 12)))), np.asarray(picture))


@pytest.mark.parametrize("size", [(500, 333), (100, 300)])
@pytest.mark.parametrize("preprocess", [PREPROCESS, Preprocess(size=(384, 384), resize="squash")])
def test_the_whole_picture_keeps_its_proportions_and_scale(size, preprocess):
    whole = whole_of(preprocess, size)
    height, width = whole.size
    assert min(height, width) == (72 if preprocess is PREPROCESS else 384)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


# ---------------------------------------------------------------- asking


def test_one_picture_gives_an_explanation_and_many_give_a_list(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    explainer = Explainer(small_model())
    one = explainer(tmp_path / "a.png")
    assert one.map.shape == (90, 120)
    predicted = swinv2.Predictor(TorchSession(explainer.model, device="cpu"))(tmp_path / "a.png").top
    assert (one.class_name, one.score) == (predicted.name, pytest.approx(predicted.score, rel=1e-4))
    many = explainer(tmp_path)
    assert [type(answer).__name__ for answer in many] == ["Explanation", "Failure"]
    assert isinstance(many[1], Failure)
    with pytest.raises(ValueError, match=r"b\.png is not an image"):
        explainer(tmp_path / "b.png")


def test_the_short_way_is_the_same_map():
    model, picture = small_model(), photo()
    assert np.array_equal(grad_cam(model, picture, 3), Explainer(model, target="elm")(picture).map)
    assert grad_cam(model, picture, 3, stage=2).shape == (90, 120)


@pytest.mark.parametrize("method", ["grad-cam", "attention"])
def test_grey_models_and_other_sizes_are_explained(method, tmp_path):
    answer = Explainer(small_model(in_chans=1), method=method)(photo())
    assert answer.overlay().mode == "RGB"
    path = save(small_model(), tmp_path)
    finer = Explainer(path, method=method, image_size=160)(photo())
    assert finer.grid.shape == ((5, 5) if method == "grad-cam" else (40, 40))
    assert finer.preprocess.size == (160, 160)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "oka"}, "no class 'oka'; did you mean 'oak'"),
        ({"target": "zebra"}, "no class 'zebra'; give a name, or a number from 0 to 6"),
        ({"target": 7}, "no class '?7'?; give a name, or a number from 0 to 6"),
        ({"stage": 5}, "stage is 5; the model has stages 1 to 4"),
        ({"stage": 0}, "stage is 0; the model has stages 1 to 4"),
        ({"method": "attention", "target": "oak"}, "attention maps belong to no class"),
        ({"method": "saliency"}, "no method is called 'saliency'; there are grad-cam and attention"),
        ({"device": "cuda:99"}, "CUDA device"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Explainer(small_model(), **options)


def test_a_name_that_two_classes_have_needs_a_number():
    model = small_model()
    model.record = replace(model.record, classes=("crane", "crane", *CLASSES[2:]))
    with pytest.raises(ValueError, match=r"classes 0 and 1 are both called 'crane'"):
        Explainer(model, target="crane")
    assert Explainer(model, target="1").target == 1


# ---------------------------------------------------------------- the command


def save(model: SwinV2, folder: Path) -> Path:
    path = folder / "model.safetensors"
    artifact.write(path, model.record, model.state_dict())
    return path


def test_the_command_writes_an_overlay_for_each_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = save(small_model(), tmp_path)
    for folder in ("x", "y"):
        Path(folder).mkdir()
        photo(1500, 1000).save(f"{folder}/photo.jpg")
    assert main(["explain", "x", "y", "--model", str(model), "--target", "pine"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [
        "explained/photo.grad-cam.stage4.png", "explained/photo-2.grad-cam.stage4.png"
    ]  # fmt: skip
    assert all(line.endswith("% pine") for line in said)
    with Image.open("explained/photo.grad-cam.stage4.png") as picture:
        assert picture.size == (1280, 853)


def test_a_map_that_says_nothing_is_said_to(tmp_path, capsys):
    """At 32 pixels the last stage has one cell; and no place speaks for a class with a head of zeros."""
    model = small_model()
    with torch.no_grad():
        model.head.weight[2] = 0
    path = save(model, tmp_path)
    photo().save(tmp_path / "a.png")
    arguments = ["explain", str(tmp_path / "a.png"), "--model", str(path), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--image-size", "32"]) == 0
    assert "at this size stage 4 has one cell" in capsys.readouterr().err
    assert main([*arguments, "--target", "cedar"]) == 0
    assert "nothing in it speaks for 'cedar'; the map is empty" in capsys.readouterr().err


def test_the_command_prints_the_map_as_json(tmp_path, capsys):
    model = save(small_model(), tmp_path)
    photo().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    output = str(tmp_path / "out")
    arguments = ["--method", "attention", "--output", output, "--json"]
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert main(["explain", *files, "--model", str(model), *arguments]) == 5
    printed = capsys.readouterr()
    first, second = json.loads(printed.out)
    assert (first["method"], first["stage"]) == ("attention", None)
    assert np.shape(first["map"]) == (16, 16)
    assert 0 <= np.min(first["map"]) < np.max(first["map"]) <= 1
    assert Path(first["overlay"]).name == "a.attention.png"
    assert "b.png is empty" in second["error"]
    assert "b.png is empty" in printed.err


def test_a_turned_photo_is_explained_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photo(120, 90).save(tmp_path / "turned.jpg", exif=exif)
    assert Explainer(small_model())(tmp_path / "turned.jpg").overlay().size == (90, 120)
