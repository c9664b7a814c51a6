"""Tables of the variants: what they reach and what they cost."""

from __future__ import annotations

from swinv2.config import VARIANTS, published, tag
from swinv2.counts import macs, parameters
from swinv2.weights import WEIGHTS
from tables.form import table

# PaddleClas, docs/zh_CN/models/ImageNet1k/SwinTransformerV2.md: its columns "FLOPs(G)" and "Params(M)"
PADDLE_SAYS = {
    "swinv2_tiny_window8_256":            (4.3, 21.9),
    "swinv2_tiny_window16_256":           (4.4, 21.9),
    "swinv2_small_window8_256":           (8.4, 37.9),
    "swinv2_small_window16_256":          (8.5, 37.9),
    "swinv2_base_window8_256":            (15.0, 67.0),
    "swinv2_base_window16_256":           (15.1, 67.0),
    "swinv2_base_window12to24_192to384":  (34.0, 67.0),
    "swinv2_large_window12to16_192to256": (33.8, 149.6),
    "swinv2_large_window12to24_192to384": (76.1, 149.6),
}  # fmt: skip


def models() -> str:
    """The published models, and what each reaches."""
    rows = []
    for name in filter(published, VARIANTS):
        config, weights = VARIANTS[name], WEIGHTS[f"{name}.{tag(name)}"]
        trained = {"ms_in1k": "1k", "ms_in22k": "22k", "ms_in22k_ft_in1k": "22k, then 1k"}[tag(name)]
        accuracy = " / ".join(f"{a:.1f}" for a in weights.accuracy) or "-"
        rows.append(
            (f"`{name}`", config.image_size[0], config.window, f"{parameters(config) / 1e6:.1f}",
             f"{macs(config) / 1e9:.1f}", trained, accuracy)
        )  # fmt: skip
    return table("model | image | window | parameters (M) | GMACs | ImageNet | top-1 / top-5 (%)", rows)


def costs() -> str:
    """True parameters and multiply-adds beside what PaddleClas' documents say."""
    rows = []
    for name, config in VARIANTS.items():
        theirs = PADDLE_SAYS.get(name)
        rows.append(
            (f"`{name}`", f"{parameters(config):,}", f"{macs(config) / 1e9:.3f}",
             f"{macs(config, position_bias=False) / 1e9:.3f}",
             *((f"{theirs[1]} M", f"{theirs[0]} G") if theirs else ("-", "-")))
        )  # fmt: skip
    head = "architecture | parameters | GMACs | without the bias MLP | PaddleClas: parameters | PaddleClas: FLOPs"
    return table(head, rows)
