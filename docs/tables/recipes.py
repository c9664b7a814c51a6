"""Tables of the recipes of the package, and of the rules that settle one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from swinv2.train.recipes import rules, settings
from tables.form import table

STARTS = {
    "finetune": "weights", "scratch_small": "nothing", "scratch_1k": "nothing", "pretrain_22k": "nothing",
    "finetune_22k_1k_256": "22k weights", "finetune_22k_1k_384": "22k weights", "simmim_pretrain": "nothing",
    "simmim_finetune": "SimMIM weights",
}  # fmt: skip


def shipped() -> str:
    """The recipes of the package; rates as they are for the batch of the recipe."""
    rows = []
    for name in sorted(settings.names(), key=list(STARTS).index):
        recipe = settings.load(name)
        if recipe.epochs is None:
            rows.append(
                (
                    f"`{name}`",
                    STARTS[name],
                    "of the weights",
                    *["by the rule"] * 4,
                    f"{recipe.weight_decay:g}",
                )
            )
            continue
        settled = recipe.settled(images=10**6, classes=1000)
        scale = settled.learning_rate(settled.batch_size) / settled.lr
        rates = " / ".join(f"{rate * scale:.0e}" for rate in (settled.lr, settled.warmup_lr, settled.min_lr))
        if settled.schedule == "steps":
            rates = rates.rpartition(" / ")[0] + f" / x {settled.decay_rate:g} at {settled.decay_epochs[0]}"
        image = recipe.image_size or ("given" if name == "scratch_small" else "256")
        rows.append(
            (f"`{name}`", STARTS[name], image, f"{settled.epochs}, {settled.warmup_epochs:g}", settled.batch_size,
             rates.replace("e-0", "e-"), f"{settled.layer_decay:g}", f"{settled.weight_decay:g}")
        )  # fmt: skip
    head = "recipe | starts from | image | epochs, warm-up | batch | lr / first / last | layer decay | weight decay"
    return table(head, rows)


def rule(rows: Iterable[rules.Row]) -> str:
    """One of the tables that settle a recipe."""
    head = (
        "up to pictures | batch | epochs | bottom | drop path up to | crops from | RandAugment "
        "| erasing | mixup, cutmix"
    )
    return table(
        head,
        (
            (f"{row.images:,.0f}" if row.images < math.inf else "more", row.batch, row.epochs, f"{row.bottom:g}",
             f"{row.drop_path:g}" if row.drop_path < 1 else "any", f"{row.crop:.0%}", f"`{row.auto_augment}`",
             f"{row.erasing:g}", f"{row.mixup:g}, {row.cutmix:g}")
            for row in rows
        ),
    )  # fmt: skip
