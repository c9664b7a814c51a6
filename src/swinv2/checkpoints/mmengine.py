"""What mmengine, and mmcv before it, keep in a checkpoint around the weights: class names, and the settings of the run.

The settings are the text of a Python file. It is parsed and never run: literals and dict(...) are read, and
whatever else stands there counts as not said.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from swinv2.artifact import Record
from swinv2.checkpoints.beside import Beside
from swinv2.config import SwinV2Config, pair
from swinv2.preprocess import Preprocess

_LONGEST = 100_000  # characters of settings; those of mmpretrain have about 5,000


def read_meta(meta: Mapping[str, Any]) -> Beside:
    """Class names, preprocessing and image size, as far as a checkpoint says them in a way that is understood."""
    described = meta.get("dataset_meta")
    names = described.get("classes") if isinstance(described, Mapping) else meta.get("CLASSES")  # mmcv's
    known = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name for name in names)
    classes = tuple(map(str, names)) if known and names else ()
    settings = _settings(meta.get("cfg") or meta.get("config"))  # mmengine's, mmcv's
    steps = _steps(settings)
    values = steps.get("Normalize") or _normalisation(settings)
    preprocess = _preprocess(steps, values)
    return Beside(
        None, preprocess, classes, preprocess.size if preprocess else None,
        blue_first=bool(values) and not values.get("to_rgb", False),
    )  # fmt: skip


def write_meta(record: Record) -> dict[str, Any]:
    """As mmpretrain's get_model and inferencers take it: Config.fromstring(meta["cfg"], ".py") builds the model."""
    settings = {
        "default_scope": "mmpretrain",
        "model": _model(record.config),
        "data_preprocessor": {
            "mean": [round(255 * value, 9) for value in record.preprocess.mean],
            "std": [round(255 * value, 9) for value in record.preprocess.std],
            "to_rgb": True,
        },
        "test_dataloader": {"dataset": {"type": "CustomDataset", "pipeline": _pipeline(record.preprocess)}},
    }
    text = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    return {"cfg": text} | ({"dataset_meta": {"classes": record.classes}} if record.classes else {})


def _model(config: SwinV2Config) -> dict[str, Any]:
    backbone = {
        "type": "SwinTransformerV2",
        "arch": {
            "embed_dims": config.embed_dim,
            "depths": list(config.depths),
            "num_heads": list(config.heads),
            "extra_norm_every_n_blocks": config.extra_norm_period,
        },
        "img_size": config.image_size[0],
        "patch_size": config.patch_size,
        "in_channels": config.in_chans,
        "window_size": [stage.window[0] for stage in config.stages(*config.image_size)],
        "pretrained_window_sizes": [side for side, _ in config.pretrained_windows],
        "drop_path_rate": config.drop_path,
        "stage_cfgs": {"block_cfgs": {"ffn_ratio": config.mlp_ratio}},
    }
    head = {"type": "LinearClsHead", "num_classes": config.num_classes, "in_channels": config.num_features}
    return {
        "type": "ImageClassifier",
        "backbone": backbone,
        "neck": {"type": "GlobalAveragePooling"},
        **({"head": head} if config.num_classes else {}),
    }


def _pipeline(preprocess: Preprocess) -> list[dict[str, Any]]:
    (height, width), resample = (
        preprocess.size,
        {"backend": "pillow", "interpolation": preprocess.interpolation},
    )
    if preprocess.resize == "squash":
        resize = [{"type": "Resize", "scale": (width, height), "keep_ratio": False, **resample}]
    else:
        resize = [
            {"type": "ResizeEdge", "scale": preprocess.resize_to, "edge": "short", **resample},
            {"type": "CenterCrop", "crop_size": (height, width)},
        ]
    return [{"type": "LoadImageFromFile"}, *resize, {"type": "PackInputs"}]


def _steps(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is done to a picture of the test, by the names of the steps."""
    for place in ("test_dataloader.dataset", "val_dataloader.dataset", "data.test", "data.val"):
        pipeline = _at(settings, f"{place}.pipeline")
        if isinstance(pipeline, list):
            return {step["type"]: step for step in pipeline if isinstance(step, dict) and "type" in step}
    return {}


def _normalisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, deviation and order of the channels: in the model of mmpretrain; a step of the pipeline in mmcls."""
    found = _at(settings, "model.data_preprocessor") or _at(settings, "data_preprocessor")
    return found if isinstance(found, dict) else {}


def _preprocess(steps: Mapping[str, dict[str, Any]], values: Mapping[str, Any]) -> Preprocess | None:
    """None where the settings do not say it, or say what Preprocess cannot."""
    edge, resize, crop = steps.get("ResizeEdge"), steps.get("Resize", {}), steps.get("CenterCrop")
    side: Any = resize.get("scale", resize.get("size"))
    if edge is None and isinstance(side, (list, tuple)) and tuple(side[1:]) == (-1,):  # mmcls: size=(292, -1)
        edge = resize | {"scale": side[0]}
    try:
        mean, std = (tuple(round(value / 255, 12) for value in values[name]) for name in ("mean", "std"))
        if not values.get("to_rgb", False):  # the channels as OpenCV reads them
            mean, std = mean[::-1], std[::-1]
        if edge and crop and edge.get("edge", "short") == "short":
            size = pair(crop["crop_size"])
            return Preprocess(size, "shorter", edge["scale"], edge["interpolation"], mean, std)
        if edge or crop or resize.get("keep_ratio"):
            return None
        size = pair(side)[::-1] if "scale" in resize else pair(side)  # mmcv's scale is (width, height)
        return Preprocess(size, "squash", min(size), resize["interpolation"], mean, std)
    except (KeyError, TypeError, ValueError):
        return None


def _at(settings: object, path: str) -> Any:
    for name in path.split("."):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def _settings(text: object) -> dict[str, Any]:
    """The names that a settings file gives at its top level; None for values that are no literals."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return {}
    try:
        lines = ast.parse(text).body
        return {
            line.targets[0].id: _value(line.value)
            for line in lines
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List():
            return [_value(item) for item in node.elts]
        case ast.Tuple():
            return tuple(_value(item) for item in node.elts)
        case ast.Dict():
            items = zip(node.keys, node.values, strict=True)
            return {key.value: _value(item) for key, item in items if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    return None
