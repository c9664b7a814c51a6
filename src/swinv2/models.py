"""The verb `swinv2 models`: every model there is, what it costs, how good it is and whether it is here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from swinv2 import console, counts, weights
from swinv2.config import ALIASES, VARIANTS, Stage, SwinV2Config
from swinv2.verbs import Exit, UsageError, make_callable
from swinv2.weights import WEIGHTS, Weights

Row = tuple[str, ...]  # of a printed table


def command(name: str | None = None, /, *, json: bool = False) -> int:
    """List the models: size, cost, accuracy, licence.

    GMACs are multiply-adds of one image at the model's own size, attention included. Top-1 is the published
    accuracy on ImageNet-1k, in percent, and the licence is the licence of the first tag; models without tags
    have no published weights. A star marks weights that are on this machine.

    Args:
        name: a model by any of its names, for everything about it; or a part of the names to list.

    Examples:
        swinv2 models
        swinv2 models large
        swinv2 models swinv2_tiny_window8_256
        swinv2 models --json
    """
    if name is not None and (architecture := _architecture(name)):
        model = models(architecture)[0]
        console.emit_json(model) if json else print(_portrait(model))
        return Exit.DONE
    found = models(name or "")
    if not found:
        raise UsageError(f"no model has {name!r} in its names; `swinv2 models` lists all")
    console.emit_json(found) if json else print(_table(found))
    return Exit.DONE


def models(part: str = "") -> list[dict[str, Any]]:
    """Everything about the models with this part in one of their names, as plain JSON types."""
    described = map(_describe, VARIANTS.values())
    return [
        m for m in described if any(part.lower() in n.lower() for n in (m["name"], *m["aliases"], *m["tags"]))
    ]


def _architecture(name: str) -> str | None:
    """The architecture that a complete name stands for; None for a part of names."""
    if name in VARIANTS:
        return name
    try:
        return weights.find(name).architecture
    except ValueError:
        return ALIASES.get(name)


def _describe(config: SwinV2Config) -> dict[str, Any]:
    sets = [w for w in WEIGHTS.values() if w.architecture == config.architecture]
    return {
        "name": config.architecture,
        "aliases": [alias for alias, name in ALIASES.items() if name == config.architecture],
        "image_size": list(config.image_size),
        "window": config.window,
        "num_classes": config.num_classes,
        "parameters": counts.parameters(config),
        "macs": counts.macs(config, position_bias=False),
        "stages": [asdict(stage) for stage in config.stages(*config.image_size)],
        "trained_windows": [list(window) for window in config.trained_windows],
        "tags": [w.tag for w in sets],
        "weights": [_describe_weights(w) for w in sets],
    }


def _describe_weights(w: Weights) -> dict[str, Any]:
    return {
        "name": w.name,
        "tag": w.tag,
        "publisher": w.publisher.name,
        "license": w.license,
        "accuracy": dict(zip(("top1", "top5"), w.accuracy, strict=False)),
        "bytes": w.size,
        "cached": weights.cached(w.name),
        "urls": [
            *dict.fromkeys(f"https://huggingface.co/{repository}" for repository, _ in w.repositories),
            w.url,
        ],
    }


def _table(found: list[dict[str, Any]]) -> str:
    rows: list[Row] = [("model", "image", "window", "params", "GMACs", "top-1", "licence", "tags")]
    for m in found:
        first: dict[str, Any] = m["weights"][0] if m["weights"] else {"accuracy": {}, "license": ""}
        rows.append((
            m["name"],
            str(m["image_size"][0]),
            str(m["window"]),
            f"{m['parameters'] / 1e6:,.1f} M",
            f"{m['macs'] / 1e9:,.1f}",
            f"{first['accuracy']['top1']:.1f}" if first["accuracy"] else "",
            first["license"],
            " ".join(w["tag"] + "*" * w["cached"] for w in m["weights"]),
        ))  # fmt: skip
    note = "\n\n* on this machine" if any(w["cached"] for m in found for w in m["weights"]) else ""
    return _aligned(rows, right=range(1, 6)) + note


def _portrait(m: dict[str, Any]) -> str:
    height, width = m["image_size"]
    lines = [
        m["name"],
        f"  {height} x {width} pixels, window {m['window']}, {m['num_classes']:,} classes, "
        f"{m['parameters']:,} parameters, {m['macs'] / 1e9:.3f} GMACs",
        "",
        "stages",
        _indented(_stages(m)),
    ]
    if m["weights"]:
        lines += ["", "weights", _indented(_weights(m))]
        lines += ["", "from", *(f"  {url}" for w in m["weights"] for url in w["urls"])]
    else:
        lines += ["", "No weights of it were published; `swinv2 train` makes some."]
    if m["aliases"]:
        lines += ["", "also called", *(f"  {alias}" for alias in m["aliases"])]
    return "\n".join(lines)


def _stages(m: dict[str, Any]) -> str:
    rows: list[Row] = [("grid", "channels", "heads", "blocks", "stride", "window", "shift", "trained window")]
    for values, trained in zip(m["stages"], m["trained_windows"], strict=True):
        stage = Stage(**values)
        pairs = [f"{a} x {b}" if a != b else str(a) for a, b in (stage.window, stage.shift, trained)]
        grid = f"{stage.grid[0]} x {stage.grid[1]}"
        rows.append((grid, *map(str, (stage.dim, stage.heads, stage.depth, stage.stride)), *pairs))
    return _aligned(rows, right=range(8))


def _weights(m: dict[str, Any]) -> str:
    rows: list[Row] = [("name", "top-1", "top-5", "size", "licence", "here", "published by")]
    for w in m["weights"]:
        accuracy = [f"{value:.2f}".removesuffix("0") for value in w["accuracy"].values()] or ["", ""]
        here = "yes" if w["cached"] else "no"
        rows.append((w["name"], *accuracy, f"{w['bytes'] / 1e6:,.0f} MB", w["license"], here, w["publisher"]))
    return _aligned(rows, right=range(1, 4))


def _aligned(rows: list[Row], *, right: range) -> str:
    """Columns as wide as they need to be; those of numbers end at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


make_callable(__name__)
