"""The generated tables of the documents, one file for each subject; names are those between <!-- table: and -->."""

from __future__ import annotations

from collections.abc import Callable

from swinv2.train.recipes import rules
from tables import browser, engine, formats, gpu, models, nine, pytorch, recipes, serving, sources

TABLES: dict[str, Callable[[], str]] = {
    "models": models.models,
    "costs": models.costs,
    "recipes": recipes.shipped,
    "from_weights": lambda: recipes.rule(rules.FROM_WEIGHTS),
    "from_nothing": lambda: recipes.rule(rules.FROM_NOTHING),
    "inference": pytorch.inference,
    "training": pytorch.training,
    "formats": formats.formats,
    "formats_here": formats.formats_here,
    "exports": formats.exports,
    "int8": formats.int8,
    "engine": lambda: engine.engine("engine-cpu"),
    "engine_amx": lambda: engine.engine(
        "engine-amx", "engine-amx-base", "engine-amx-large", "engine-amx-large-batch8"
    ),
    "engine_stages": engine.engine_stages,
    "engine_products": engine.engine_products,
    "engine_footprint": engine.engine_footprint,
    "engine_answers": engine.engine_answers,
    "browser": browser.browser,
    "serving": serving.serving,
    "serve_start": serving.serve_start,
    "serve_memory": serving.serve_memory,
    "nine_cpu": nine.on_a_cpu,
    "nine_gpu": nine.on_a_gpu,
    "gpu_kernels": gpu.gpu_kernels,
    "gpu_products": gpu.gpu_products,
    "gpu_training": gpu.gpu_training,
    "gpu_kept": gpu.gpu_kept,
    "gpu_traffic": gpu.gpu_traffic,
    "bf16_training": gpu.bf16_training,
    "float8_answers": gpu.float8_answers,
    "results": sources.results,
}
