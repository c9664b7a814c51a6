"""What lies beside the weights: the config.json of transformers or timm, transformers' preprocessor_config.json, and
the record that our export puts beside Paddle's weights (model.pdparams.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swinv2.artifact import ArtifactError, Record
from swinv2.config import VARIANTS, Pair, SwinV2Config, pair, resolve
from swinv2.preprocess import Preprocess

_BICUBIC, _BILINEAR = 3, 2  # Pillow's numbers, as transformers writes them
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_absolute_embeddings": False, "qkv_bias": True}


@dataclass(frozen=True)
class Beside:
    """What was found; None and () where nothing was said.

    Args:
        image_size: where it is said and the rest of the config is not.
        blue_first: the weights take the channels in the order of OpenCV; the preprocessing is given red first.
    """

    config: SwinV2Config | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    image_size: Pair | None = None
    blue_first: bool = False


def read_beside(weights: Path, dialect: str) -> Beside:
    """Read the files beside a weight file that the library of its dialect puts there.

    Raises:
        ArtifactError: they are damaged, or say what Swin V2 here cannot be.
    """
    record = weights.with_name(f"{weights.name}.json")
    if dialect == "paddle" and record.is_file():
        ours = Record.from_dict(_json(record), str(record))
        return Beside(ours.config, ours.preprocess, ours.classes)
    path = weights.parent / "config.json"
    if dialect not in ("transformers", "timm") or not path.is_file():
        return Beside()
    values = _json(path)
    try:
        if dialect == "transformers" and values.get("model_type") == "swinv2":
            return _of_transformers(path, values)
        if dialect == "timm" and "architecture" in values:
            return _of_timm(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} cannot be used: {reason}") from None
    return Beside()


def write_transformers(folder: Path, record: Record) -> None:
    """config.json and preprocessor_config.json, as transformers' from_pretrained reads them."""
    config, preprocess = record.config, record.preprocess
    names = record.classes or tuple(f"LABEL_{i}" for i in range(config.num_classes))
    values = {
        "architectures": ["Swinv2ForImageClassification" if config.num_classes else "Swinv2Model"],
        "model_type": "swinv2",
        "image_size": config.image_size[0],
        "patch_size": config.patch_size,
        "num_channels": config.in_chans,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.heads),
        "window_size": config.window,
        "pretrained_window_sizes": [side for side, _ in config.pretrained_windows],
        "mlp_ratio": config.mlp_ratio,
        "drop_path_rate": config.drop_path,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        **_FIXED,
    }
    _write_json(folder / "config.json", values)
    size = {"height": preprocess.size[0], "width": preprocess.size[1]}
    crops = preprocess.resize == "shorter"
    described = {
        "image_processor_type": "BitImageProcessor" if crops else "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": preprocess.resize_to} if crops else size,
        "resample": _BICUBIC if preprocess.interpolation == "bicubic" else _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "do_convert_rgb": True,
        **({"do_center_crop": True, "crop_size": size} if crops else {}),
    }
    _write_json(folder / "preprocessor_config.json", described)


def _of_transformers(path: Path, values: dict[str, Any]) -> Beside:
    for name, fixed in _FIXED.items():
        if values.get(name, fixed) != fixed:
            raise ValueError(f"{name} is {values[name]!r}, and Swin V2 has {fixed!r} here")
    classes = int(values.get("num_labels") or len(values.get("id2label") or {}) or 2)
    config = SwinV2Config(
        image_size=pair(values.get("image_size", 224)),
        window=values.get("window_size", 7),
        embed_dim=values.get("embed_dim", 96),
        depths=tuple(values.get("depths", (2, 2, 6, 2))),
        heads=tuple(values.get("num_heads", (3, 6, 12, 24))),
        pretrained_windows=tuple(values.get("pretrained_window_sizes", (0, 0, 0, 0))),
        num_classes=classes,
        in_chans=values.get("num_channels", 3),
        patch_size=values.get("patch_size", 4),
        mlp_ratio=float(values.get("mlp_ratio", 4.0)),
        drop_path=values.get("drop_path_rate", 0.1),
    )
    named = {int(i): str(name) for i, name in (values.get("id2label") or {}).items()}
    names = tuple(named.get(i, "") for i in range(len(named)))
    if not all(names) or all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        names = ()  # a gap, or the names that transformers gives to what has none
    preprocess = _preprocess_of_transformers(path.parent / "preprocessor_config.json", config)
    return Beside(config, preprocess, names)


def _preprocess_of_transformers(path: Path, config: SwinV2Config) -> Preprocess | None:
    """None where there is no such file, or it says what Preprocess cannot."""
    values = _json(path) if path.is_file() else {}
    size, crop, resample = values.get("size"), values.get("crop_size"), values.get("resample")
    interpolation = {_BICUBIC: "bicubic", _BILINEAR: "bilinear"}.get(resample)  # type: ignore[arg-type]
    if interpolation is None or not values.get("do_resize", True) or not values.get("do_normalize", True):
        return None
    base = replace(
        Preprocess.official(config.image_size),
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=tuple(values["image_mean"]),
        std=tuple(values["image_std"]),
    )
    size = (
        {"height": size, "width": size} if isinstance(size, int) else size or {}
    )  # as older versions wrote it
    crops = bool(values.get("do_center_crop"))
    if "height" in size and not crops:
        return replace(base, size=(size["height"], size["width"]), resize="squash")
    if "shortest_edge" in size and crops and isinstance(crop, dict):
        edge = size["shortest_edge"]
        return replace(base, size=(crop["height"], crop["width"]), resize="shorter", resize_to=edge)
    return None


def _of_timm(values: dict[str, Any]) -> Beside:
    variant = VARIANTS[resolve(values["architecture"])]
    given = values.get("model_args") or {}
    size, window = pair(given.get("img_size", variant.image_size)), given.get("window_size", variant.window)
    config = replace(
        variant, image_size=size, window=window
    )  # timm divides by what the variant was trained with
    described = values.get("pretrained_cfg") or {}
    names = tuple(described.get("label_names") or ())
    if not {"input_size", "crop_pct", "interpolation", "mean", "std"} <= described.keys():
        return Beside(config, None, names)
    height, width = described["input_size"][1:]
    squash = described.get("crop_mode") == "squash"
    preprocess = Preprocess(
        size=(height, width),
        resize="squash" if squash else "shorter",
        resize_to=int(min(height, width) / described["crop_pct"]),
        interpolation=described["interpolation"],
        mean=tuple(described["mean"]),
        std=tuple(described["std"]),
    )
    return Beside(config, preprocess, names)


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} is not a JSON object; copy or download it again")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
