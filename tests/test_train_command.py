"""Recipes as people give them to `swinv2 train`, and the command around a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from training import SPECK, write_split

from swinv2 import config
from swinv2.cli import main, parse
from swinv2.train import train
from swinv2.train.recipes import settings as recipes
from swinv2.train.recipes.recipe import Recipe

QUICK = {"pretrained": False, "augment": "small", "batch_size": 8, "crop_pct": 1.0, "epochs": 1, "lr": 0.05}


@pytest.fixture(autouse=True)
def speck(monkeypatch):
    """A variant of two blocks, by name."""
    monkeypatch.setitem(config.VARIANTS, SPECK.architecture, SPECK)


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_split(tmp_path / "photos")


@pytest.mark.parametrize("package", ["timm", "sklearn", "matplotlib"])
def test_a_missing_package_is_named_before_anything_is_done(photos, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package} -- pip install .*swinv2\[train\]"):
        train(photos, model="swinv2_speck", output=photos.parent / "run", **QUICK)
    assert not (photos.parent / "run").exists()


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_loads_and_is_called_as_its_file(name):
    assert recipes.load(name).name == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "no setting 'epoch'; did you mean epochs?"),
        ("lr: fast", "lr is 'fast'; give a number"),
        ("epochs: 2.5", "epochs is 2.5; give a whole number"),
        ("flip: 3", "flip is 3; give true or false"),
        ("augment: phot", "augment is 'phot'; give photo or small or none"),
        ("betas: [0.9, 2]", "betas is"),
        ("epochs: 0", "epochs is 0; give at least 1"),
        ("- 3", "holds no settings"),
        ("a: [", "is not YAML"),
    ],
)
def test_an_impossible_recipe_is_refused_in_one_sentence(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine|betas|epochs") as error:
        recipes.load(tmp_path / "mine.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_or_setting_names_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean scratch_small\?"):
        recipes.load("scratch-small")
    with pytest.raises(ValueError, match=r"did you mean weight_decay\?"):
        recipes.load("finetune", weight_decy=0.1)


def test_a_number_without_a_point_is_a_number(tmp_path):
    """Plain YAML 1.1 reads 1e-3 as text."""
    (tmp_path / "mine.yaml").write_text("lr: 1e-3\n")
    assert recipes.load(tmp_path / "mine.yaml").lr == 0.001


def test_a_recipe_survives_its_file(tmp_path):
    recipe = recipes.load("scratch_small", image_size=32, betas=[0.8, 0.9], drop_path=0.1)
    (tmp_path / "saved.yaml").write_text(recipe.to_yaml())
    assert recipes.load(tmp_path / "saved.yaml") == recipe
    assert yaml.safe_load(recipe.to_yaml())["image_size"] == 32


def test_the_warm_up_keeps_its_share_where_only_epochs_change():
    assert recipes.load(Recipe(epochs=30, warmup_epochs=3), epochs=10).warmup_epochs == 1
    assert recipes.load(Recipe(epochs=30, warmup_epochs=3), epochs=10, warmup_epochs=2).warmup_epochs == 2


def test_every_setting_is_an_option_with_help():
    command, values = parse(["train", "photos", "--lr", "1e-3", "--betas", "0.8,0.9", "--flip=false"])
    options = {option.dest: option for option in command.options}
    for name in Recipe.__dataclass_fields__.keys() - {"name", "mask_patch", "mask_ratio", "mask_norm"}:
        assert options[name].help, name
        assert options[name].default is None
    assert (values["lr"], tuple(values["betas"]), values["flip"], values["epochs"]) == (
        0.001,
        (0.8, 0.9),
        False,
        None,
    )


def test_the_command_prints_one_document_with_json(photos, capsys):
    output = photos.parent / "run"
    arguments = ["train", str(photos), "--model", "swinv2_speck", "--output", str(output), "--json"]
    assert (
        main([*arguments, "--pretrained=false", "--augment", "none", "--epochs", "1", "--batch-size", "8"])
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["best"] == str(output / "best.safetensors")
    assert printed["epochs"] == 1


def test_without_an_output_runs_are_numbered(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    outputs = [train(photos, model="swinv2_speck", **QUICK).output for _ in range(2)]
    assert outputs == [Path("runs/photos-swinv2_speck"), Path("runs/photos-swinv2_speck-2")]


def test_a_picture_of_any_mode_trains(tmp_path):
    photos = write_split(tmp_path / "photos")
    Image.new("L", (40, 9), 90).save(photos / "train" / "red" / "grey.png")
    Image.new("RGBA", (9, 40), (200, 0, 0, 90)).save(photos / "train" / "red" / "clear.png")
    Image.new("CMYK", (30, 30)).save(photos / "train" / "red" / "print.jpg")
    result = train(photos, model="swinv2_speck", output=tmp_path / "run", **(QUICK | {"augment": "photo"}))
    assert result.epochs == 1
