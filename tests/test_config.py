"""Geometry, names and records, without torch."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swinv2.config import ALIASES, VARIANTS, SwinV2Config, pair, published, resolve, tag


@pytest.mark.parametrize(
    ("name", "windows", "shifts"),
    [
        ("swinv2_tiny_window8_256", [8, 8, 8, 8], [4, 4, 4, 0]),
        ("swinv2_tiny_window16_256", [16, 16, 16, 8], [8, 8, 0, 0]),
        ("swinv2_base_window12_192", [12, 12, 12, 6], [6, 6, 0, 0]),
        ("swinv2_base_window12to24_192to384", [24, 24, 24, 12], [12, 12, 0, 0]),
    ],
)
def test_windows_and_shifts_are_official(name, windows, shifts):
    config = VARIANTS[name]
    stages = config.stages(*config.image_size)
    assert [s.window for s in stages] == [(w, w) for w in windows]
    assert [s.shift for s in stages] == [(s, s) for s in shifts]
    assert all(s.shift_of(0) == (0, 0) and s.shift_of(1) == s.shift for s in stages)


@given(st.integers(1, 1600), st.integers(1, 1600), st.sampled_from([1, 4, 7, 8, 16, 24]))
def test_geometry_holds_for_any_size(height, width, window):
    for stage in SwinV2Config(window=window).stages(height, width):
        for grid, pixels, side, shift, span, padded in zip(
            stage.grid, (height, width), stage.window, stage.shift, stage.span, stage.padded, strict=True
        ):
            assert grid == -(-pixels // stage.stride)
            assert 1 <= side <= min(grid, window)
            assert shift == (side // 2 if grid > side else 0)
            assert span >= 1
            assert padded % side == 0
            assert 0 <= padded - grid < side


def test_seventy_names_lead_to_the_variants():
    assert {ALIASES[a] for a in ALIASES} >= {v for v in VARIANTS if published(v)}
    for name, expected in {
        "swinv2_tiny_window8_256": "swinv2_tiny_window8_256",
        "swinv2_tiny_window8_256.ms_in1k": "swinv2_tiny_window8_256",
        "timm/swinv2_base_window12_192.ms_in22k": "swinv2_base_window12_192",
        "SwinTransformerV2_base_patch4_window24_384": "swinv2_base_window12to24_192to384",
        "SwinTransformerV2_large_patch4_window16_256": "swinv2_large_window12to16_192to256",
        "swinv2_base_patch4_window12to24_192to384_22kto1k_ft": "swinv2_base_window12to24_192to384",
        "swinv2_large_patch4_window12_192_22k": "swinv2_large_window12_192",
        "microsoft/swinv2-tiny-patch4-window8-256": "swinv2_tiny_window8_256",
        "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft": "swinv2_large_window12to16_192to256",
        "swinv2_pico": "swinv2_pico_window8_256",
    }.items():
        assert resolve(name) == expected


def test_timm_knows_our_architecture_names_and_tags():
    import timm

    known = set(timm.list_models("swinv2_*", pretrained=True))
    assert {f"{name}.{tag(name)}" for name in VARIANTS if published(name)} == {
        n for n in known if "_cr_" not in n
    }


def test_transformers_and_timm_agree_with_the_table():
    import timm

    for name in filter(published, VARIANTS):
        config, cfg = VARIANTS[name], timm.get_pretrained_cfg(f"{name}.{tag(name)}")
        assert cfg.input_size == (3, *config.image_size)
        assert cfg.num_classes == config.num_classes


@pytest.mark.parametrize("name", VARIANTS)
def test_records_survive_json(name):
    config = VARIANTS[name]
    assert SwinV2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window is 0; give a whole number of at least 1"),
        ({"embed_dim": 100}, "stage 1 has 100 channels, which 3 heads do not divide"),
        ({"depths": (2, 2)}, "name 2, 4 and 4 stages"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"image_size": (0, 4)}, "image_size is"),
        ({"image_size": "256"}, "give one whole number or two"),
    ],
)
def test_impossible_settings_are_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        SwinV2Config(**change)


def test_unknown_record_keys_are_errors():
    with pytest.raises(ValueError, match="windwo, which this version does not know"):
        SwinV2Config.from_dict({"windwo": 8})


def test_nearest_names_are_offered():
    with pytest.raises(ValueError, match="did you mean SwinTransformerV2_tiny_patch4_window8_256"):
        resolve("SwinTransformerV2_tiny_patch4_windows8_256")
    with pytest.raises(ValueError, match=r"no model is called 'resnet50'; `swinv2 models` lists all names"):
        resolve("resnet50")


def test_pair_takes_one_number_or_two():
    assert pair(3) == (3, 3)
    assert pair([3, 4]) == (3, 4)
    for wrong in (True, 1.5, (1, 2, 3), "ab"):
        with pytest.raises(ValueError, match="whole number"):
            pair(wrong)
