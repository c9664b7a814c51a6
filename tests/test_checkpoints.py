"""Weights of every dialect: read, written, recognised, and refused where they are not what they seem.

The references are the models of timm, transformers and torchvision themselves, built from their packages with
random weights that matter everywhere.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision.models as torchvision_models
import transformers
from conftest import randomized
from libraries import (
    CONFIG,
    MODELS,
    PLAIN,
    TOLERANCE,
    difference,
    images,
    save_state,
    save_theirs,
    shuffled,
    transformers_config,
)
from PIL import Image
from torch import Tensor, nn

from swinv2 import checkpoints, convert
from swinv2.artifact import ArtifactError, Record
from swinv2.checkpoints import DIALECTS, buffers, geometry, naming
from swinv2.config import VARIANTS
from swinv2.counts import parameter_shapes
from swinv2.model import SwinV2, create_model
from swinv2.preprocess import Preprocess

# ---------------------------------------------------------------------- parity, both ways


@pytest.mark.parametrize("library", MODELS)
def test_their_weights_give_their_logits(library, tmp_path):
    build, config, _ = MODELS[library]
    theirs = shuffled(build(config))
    # timm's file does not say windows and sizes; the others do, in buffers or config.json
    ours = checkpoints.load(
        save_theirs(library, theirs, tmp_path), architecture=config if library == "timm" else None
    )
    assert ours.config.trained_windows == config.trained_windows
    assert difference(ours.eval(), theirs, images(128)) <= TOLERANCE


@pytest.mark.parametrize("library", MODELS)
def test_our_weights_give_our_logits_in_their_model(library, tmp_path):
    build, config, _ = MODELS[library]
    ours = randomized(SwinV2(config)).eval()
    with torch.no_grad():
        for block in ours.blocks():
            block.attn.logit_scale.clamp_(max=3.4)  # see shuffled()
    checkpoints.save(ours, tmp_path / "ours.safetensors")
    out = tmp_path / ("theirs" if library == "transformers" else "theirs.pth")
    convert.convert(tmp_path / "ours.safetensors", out, to=library)
    if library == "transformers":
        theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    else:
        theirs = build(config).eval()
        theirs.load_state_dict(torch.load(out), strict=True)
    assert difference(theirs, ours, images(128)) <= TOLERANCE


@pytest.mark.parametrize("library", MODELS)
def test_a_published_architecture_has_the_same_logits(library, tmp_path):
    theirs = shuffled(MODELS[library][2]())
    path = save_theirs(library, theirs, tmp_path)
    ours = checkpoints.load(
        path, architecture="swinv2_tiny_window8_256" if library == "timm" else None
    ).eval()
    assert ours.config == VARIANTS["swinv2_tiny_window8_256"]
    assert difference(ours, theirs, images(256, batch=1)) <= TOLERANCE


def test_timm_loads_what_is_written_for_it_by_its_own_road(tmp_path):
    """timm.create_model(checkpoint_path=...) filters and loads strictly."""
    ours = randomized(create_model("swinv2_tiny_window8_256")).eval()
    checkpoints.save(ours, tmp_path / "ours.safetensors")
    convert.convert(tmp_path / "ours.safetensors", tmp_path / "timm.safetensors", to="timm")
    theirs = timm.create_model(
        "swinv2_tiny_window8_256", checkpoint_path=tmp_path / "timm.safetensors"
    ).eval()
    assert difference(theirs, ours, images(256, batch=1)) <= TOLERANCE


def test_the_folder_for_transformers_carries_names_and_preprocessing(tmp_path):
    record = Record(CONFIG, Preprocess.official(128), classes=tuple("abcdefg"))
    checkpoints.save(randomized(SwinV2(CONFIG)), tmp_path / "ours.safetensors", record)
    convert.convert(tmp_path / "ours.safetensors", tmp_path / "folder")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "folder")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    assert list(theirs.config.id2label.values()) == list("abcdefg")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 190, 3), np.uint8))
    pixels = processor(picture, return_tensors="pt")["pixel_values"][0].numpy()
    assert np.abs(pixels - record.preprocess(picture)).max() <= 2 / 255 / 0.22  # two steps of 8 bits
    back = checkpoints.read(tmp_path / "folder").record
    assert (back.classes, back.preprocess, back.config) == (record.classes, record.preprocess, record.config)


@pytest.mark.parametrize("how", ["squash", "shorter"])
def test_preprocessing_beside_transformers_weights_is_kept(how, tmp_path):
    preprocess = Preprocess((128, 128), how, 140, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    checkpoints.save(SwinV2(CONFIG), tmp_path / "ours.safetensors", Record(CONFIG, preprocess))
    convert.convert(tmp_path / "ours.safetensors", tmp_path / "folder")
    back = checkpoints.read(tmp_path / "folder").record.preprocess
    assert replace(back, resize_to=140) == preprocess


# ---------------------------------------------------------------------- recognition


@pytest.mark.parametrize("dialect", DIALECTS)
def test_exactly_one_dialect_recognises_its_own(dialect):
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(PLAIN).items()}
    theirs = DIALECTS[dialect].from_official(state, PLAIN)
    assert [d.name for d in DIALECTS.values() if d.detect(theirs)] == [dialect]


@pytest.mark.parametrize(
    ("dialect", "classes"),
    [
        (d, c) for d in DIALECTS for c in (7, 0) if (d, c) != ("torchvision", 0)
    ],  # its models always have a head
)
def test_the_way_there_and_back_changes_nothing(dialect, classes, tmp_path):
    config = replace(PLAIN, num_classes=classes)
    model = randomized(SwinV2(config))
    checkpoints.save(model, tmp_path / "ours.safetensors")
    there = tmp_path / f"there{DIALECTS[dialect].suffix}"
    convert.convert(tmp_path / "ours.safetensors", there, to=dialect)
    convert.convert(there, tmp_path / "back.safetensors", architecture=None, image_size=128, window=4)
    back = checkpoints.load(tmp_path / "back.safetensors")
    expected = {
        n: t for n, t in model.state_dict().items() if dialect != "simmim" or not n.startswith("head.")
    }
    assert back.config.image_size == (128, 128)
    assert back.config.trained_windows == config.trained_windows
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in back.state_dict().items())


def test_simmim_files_give_a_backbone(tmp_path):
    """As the pre-training saves: an encoder with a mask token, a decoder, and the older name of the position MLP."""
    official = randomized(SwinV2(CONFIG)).state_dict()
    state = {f"encoder.{n.replace('cpb_mlp', 'rpe_mlp')}": t for n, t in official.items() if "head" not in n}
    state |= {"encoder.mask_token": torch.zeros(1, 1, 32), "decoder.0.weight": torch.zeros(3072, 256, 1, 1)}
    state |= {"decoder.0.bias": torch.zeros(3072)}
    torch.save({"model": state, "epoch": 799}, tmp_path / "simmim.pth")
    checkpoint = checkpoints.read(tmp_path / "simmim.pth", architecture=CONFIG)
    assert checkpoint.dialect == "simmim"
    assert checkpoint.record.config == replace(CONFIG, num_classes=0)
    assert checkpoint.dropped == ("the mask token", "the decoder of the pre-training")
    name = "layers.1.blocks.0.attn.cpb_mlp.0.weight"
    assert torch.equal(checkpoint.tensors[name], official[name])
    assert (
        checkpoints.load(tmp_path / "simmim.pth", architecture=CONFIG, num_classes=3).config.num_classes == 3
    )


def test_transformers_without_a_head_or_with_a_mask_token(tmp_path):
    model = shuffled(transformers.Swinv2ForMaskedImageModeling(transformers_config(CONFIG)))
    model.save_pretrained(tmp_path / "masked")
    model.swinv2.save_pretrained(tmp_path / "bare")
    masked, bare = (checkpoints.read(tmp_path / name) for name in ("masked", "bare"))
    assert masked.record.config == bare.record.config == replace(CONFIG, num_classes=0, drop_path=0.1)
    assert "the mask token" in masked.dropped
    assert masked.tensors.keys() == bare.tensors.keys()
    assert all(torch.equal(tensor, bare.tensors[name]) for name, tensor in masked.tensors.items())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings is True"),
        ({"embed_dim": 64}, "embed_dim 32"),
        ({"num_heads": [1, 2, 4]}, "depths, heads"),
    ],
)
def test_a_config_beside_that_cannot_be_true_is_refused(changed, words, tmp_path):
    transformers.Swinv2ForImageClassification(transformers_config(CONFIG)).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ArtifactError, match=words):
        checkpoints.load(tmp_path / "saved")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state, "state_dict_ema": {}, "arch": "swin"},
        lambda state: {"model_state": {f"module.{n}": t for n, t in state.items()}},
        lambda state: {
            "model": {f"module._orig_mod.{n}": t for n, t in state.items()},
            "loss": torch.zeros(1),
        },
    ],
    ids=["bare", "model", "state_dict", "ddp", "ddp-compiled"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_containers_of_training_scripts_are_opened(wrap, zipped, tmp_path):
    state = randomized(SwinV2(PLAIN)).state_dict()
    torch.save(wrap(state), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    found = checkpoints.read(tmp_path / "c.pth", architecture=PLAIN).tensors
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


def test_half_precision_weights_are_kept(tmp_path):
    state = {n: t.to(torch.bfloat16) for n, t in randomized(SwinV2(PLAIN)).state_dict().items()}
    for name in ("half.pth", "half.safetensors", "half.pdparams"):
        theirs = DIALECTS["paddle" if name.endswith("pdparams") else "microsoft"].from_official(state, PLAIN)
        checkpoints.files.write_tensors(tmp_path / name, theirs)
        found = checkpoints.read(tmp_path / name).tensors
        assert all(torch.equal(found[n], t) and found[n].dtype == torch.bfloat16 for n, t in state.items())


# ---------------------------------------------------------------------- nothing at random, nothing left over


@pytest.mark.parametrize(
    "lost", ["norm.weight", "layers.2.blocks.1.attn.q_bias", "head.bias", "layers.1.downsample.norm.bias"]
)
def test_a_missing_parameter_is_an_error_unless_allowed(lost, tmp_path):
    state = randomized(SwinV2(CONFIG)).state_dict()
    del state[lost]
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match=f"{lost}; name it in allow_new"):
        checkpoints.load(tmp_path / "c.pth", architecture=CONFIG)
    model = checkpoints.load(tmp_path / "c.pth", architecture=CONFIG, allow_new=[lost.rpartition(".")[0]])
    kept = {name: tensor for name, tensor in model.state_dict().items() if name != lost}
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())


def test_allow_new_is_a_name_or_whole_parts_of_it(tmp_path):
    state = randomized(SwinV2(CONFIG)).state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match=r"norm\.weight"):
        checkpoints.load(tmp_path / "c.pth", architecture=CONFIG, allow_new=["no", "nor", "norm.w"])


def test_a_tensor_that_the_model_does_not_have_is_an_error(tmp_path):
    torch.save(SwinV2(CONFIG).state_dict() | {"absolute_pos_embed": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match=r"holds 1 tensors .* absolute_pos_embed"):
        checkpoints.load(tmp_path / "c.pth", architecture=CONFIG)


def test_a_wrong_shape_is_an_error(tmp_path):
    torch.save(SwinV2(CONFIG).state_dict() | {"norm.bias": torch.zeros(3)}, tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match=r"norm.bias has shape \[3\]"):
        checkpoints.load(tmp_path / "c.pth", architecture=CONFIG, allow_new=["norm.bias"])


def test_what_is_no_swin_v2_is_named_for_what_it_is(tmp_path):
    torch.save(torchvision_models.swin_t().state_dict(), tmp_path / "v1.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><head><title>404</title></head></html>")
    (tmp_path / "pointer.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    )
    (tmp_path / "empty").mkdir()
    for name, words in {
        "v1.pth": "Swin Transformer of version 1",
        "linear.pth": "no dialect that is known",
        "empty.pth": "no named tensors",
        "page.pth": "a web page",
        "pointer.safetensors": "Git LFS",
        "empty": "holds none of model.safetensors",
    }.items():
        with pytest.raises(ArtifactError, match=words):
            checkpoints.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        checkpoints.load(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="did you mean swinv2_tiny_window8_256"):
        checkpoints.load("swinv2_tiny_window8_265")


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors", "c.pdparams"])
def test_a_file_that_was_cut_off_is_refused_in_one_sentence(name, tmp_path):
    whole = save_state(PLAIN, tmp_path / name, "paddle" if name == "c.pdparams" else "microsoft").read_bytes()
    for share in (0.0, 0.00001, 0.001, 0.3, 0.9, 0.9999):
        (tmp_path / f"cut-{name}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ArtifactError, match=f"cut-{name}") as error:
            checkpoints.load(tmp_path / f"cut-{name}")
        assert "\n" not in str(error.value)


def understood(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What read() does with the tensors of a file."""
    _, official, _ = checkpoints._to_official(state, "file")
    config, _ = geometry.infer(official, "file")
    return checkpoints._complete(config, official, "file", ())[0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tensor_of_any_other_shape_is_refused_in_one_sentence(dialect):
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(PLAIN).items()}
    theirs = DIALECTS[dialect].from_official(state, PLAIN)
    for name, tensor in theirs.items():
        for shape in [(), (0,), (1, 1), (*tensor.shape, 1), (2,) * tensor.ndim, tensor.shape[1:]]:
            if shape == tensor.shape or name.endswith(("coords_table", "position_index", "attn_mask")):
                continue
            changed = theirs | {name: torch.zeros(shape)}
            with pytest.raises(ArtifactError) as error:
                understood(changed)
            assert "\n" not in str(error.value), (name, shape)


@pytest.mark.parametrize("dialect", ["microsoft", "paddle", "torchvision"])
def test_a_buffer_of_any_other_shape_is_no_way_to_crash(dialect):
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(PLAIN).items()}
    theirs = DIALECTS[dialect].from_official(state, PLAIN)
    for name, tensor in theirs.items():
        if name.endswith(("coords_table", "position_index", "attn_mask")):
            for shape in [(), (0,), (1, 1), (*tensor.shape, 1), (2,) * tensor.ndim, (1, 10**7, 10**7, 2)]:
                changed = theirs | {name: torch.zeros(()).expand(shape)}
                try:
                    understood(changed)
                except ArtifactError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize("value", [0.0, -1.0, 500.0, math.inf, math.nan])
def test_a_buffer_of_impossible_values_is_refused(value):
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(PLAIN).items()} | buffers.derive(
        PLAIN
    )
    state["layers.1.blocks.0.attn.relative_coords_table"] = torch.full((1, 7, 7, 2), value)
    with pytest.raises(ArtifactError, match="relative_coords_table of impossible values"):
        understood(state)


def test_a_mixture_of_dialects_is_refused():
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(PLAIN).items()}
    both = DIALECTS["timm"].from_official(state, PLAIN) | DIALECTS["torchvision"].from_official(state, PLAIN)
    with pytest.raises(ArtifactError, match="no dialect that is known"):
        checkpoints._to_official(both, "file")


@pytest.mark.parametrize("name", ["b.pth", "b.pdparams", "b"])
def test_a_failing_disk_leaves_no_half_of_a_file(name, monkeypatch, tmp_path):
    checkpoints.save(SwinV2(PLAIN), tmp_path / "a.safetensors")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        convert.convert(tmp_path / "a.safetensors", tmp_path / name)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tmp_path / "a.safetensors"]


def test_a_table_of_names_is_read_both_ways():
    names = naming.Names(
        ("layers.{i}.merge", "stages.{2i+1}.down"), ("layers.{i}.blocks.{b}", "stages.{2i}.{b+1}")
    )
    pairs = {
        "layers.0.merge.weight": "stages.1.down.weight",
        "layers.3.merge": "stages.7.down",
        "layers.2.blocks.0.norm.bias": "stages.4.1.norm.bias",
    }
    for official, theirs in pairs.items():
        assert names.from_official(official) == theirs
        assert names.to_official(theirs) == official
    for strange in ("stages.2.down.weight", "stages.4.0.norm", "stages.1.downs.weight", "other"):
        assert names.to_official(strange) is None
