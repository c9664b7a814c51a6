"""swinv2 models: the table shows every variant with the true figures, and one model with all its names."""

from __future__ import annotations

import json

import pytest

from swinv2 import cli, models, weights
from swinv2.config import ALIASES, VARIANTS
from swinv2.verbs import Exit
from swinv2.weights import WEIGHTS


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SWINV2_HOME", str(tmp_path))


def shown(capsys, *argv: str) -> str:
    assert cli.main(["models", *argv]) == Exit.DONE
    return capsys.readouterr().out


def test_every_variant_and_every_tag_is_listed(capsys):
    lines = shown(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(VARIANTS)
    for w in WEIGHTS.values():
        (line,) = (line for line in lines if line.split()[0] == w.architecture)
        assert w.tag in line.split()


def test_a_row_has_the_published_figures(capsys):
    """microsoft/Swin-Transformer, MODELHUB.md: 87.9 M parameters, 54.7 GMACs, 87.1 top-1."""
    (line,) = (r for r in shown(capsys).splitlines() if r.startswith("swinv2_base_window12to24_192to384 "))
    assert line.split()[1:8] == ["384", "24", "87.9", "M", "54.7", "87.1", "MIT"]


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("tiny", ["swinv2_tiny_window8_256", "swinv2_tiny_window16_256"]),
        ("LARGE_window12_", ["swinv2_large_window12_192"]),
        ("patch4_window24_384", ["swinv2_base_window12to24_192to384", "swinv2_large_window12to24_192to384"]),
        ("ms_in22k_ft", [n for n in VARIANTS if "to" in n.split("window")[1]]),
    ],
)
def test_a_part_of_the_names_filters(part, names, capsys):
    assert [line.split()[0] for line in shown(capsys, part).splitlines()[1:]] == names


@pytest.mark.parametrize("name", [*VARIANTS, *ALIASES, *WEIGHTS, *weights.TORCHVISION_NAMES])
def test_every_name_shows_its_model(name, capsys):
    shown_as = json.loads(shown(capsys, name, "--json"))["name"]
    assert shown_as == ALIASES.get(name, weights.TORCHVISION_NAMES.get(name, name.partition(".")[0]))


def test_one_model_shows_names_addresses_and_geometry(capsys):
    text = shown(capsys, "SwinTransformerV2_large_patch4_window24_384")
    for expected in (
        "196,739,932 parameters",
        "115.416 GMACs",
        "  microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft",
        "  https://huggingface.co/timm/swinv2_large_window12to24_192to384.ms_in22k_ft_in1k",
        "  12 x 12      1536     48       2      32      12      0               6",
        "787 MB  Apache-2.0  no    PaddleClas",
    ):
        assert expected in text
    assert text.count("https://huggingface.co/microsoft/") == 1


def test_a_model_without_published_weights_says_so(capsys):
    assert "No weights of it were published" in shown(capsys, "swinv2_pico")


def test_what_is_in_the_cache_has_a_star(capsys, monkeypatch):
    monkeypatch.setattr(weights, "cached", lambda name: name == "swinv2_tiny_window8_256.tv_in1k")
    lines = shown(capsys, "tiny").splitlines()
    assert lines[1].endswith("ms_in1k tv_in1k* pd_in1k")
    assert lines[-1] == "* on this machine"


def test_json_has_everything(capsys):
    found = json.loads(shown(capsys, "--json"))
    assert found == json.loads(json.dumps(models.models()))
    tiny = next(m for m in found if m["name"] == "swinv2_tiny_window8_256")
    assert (tiny["parameters"], tiny["weights"][0]["accuracy"]) == (28_347_154, {"top1": 81.8, "top5": 95.9})
    assert [w["cached"] for w in tiny["weights"]] == [False, False, False]


def test_an_unknown_name_is_refused(capsys):
    assert cli.main(["models", "resnet"]) == Exit.USAGE
    assert capsys.readouterr().err == "error: no model has 'resnet' in its names; `swinv2 models` lists all\n"
