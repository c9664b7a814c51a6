"""The verb `swinv2 benchmark`: a model and its exports side by side, by speed, size, memory and answers.

    swinv2 benchmark model.safetensors model.onnx model.xml --precision auto bf16

Every contender has a process of its own; they take turns in rounds, so that a machine that slows down slows all of
them down, and whatever cannot run has its reason in the table.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from swinv2 import console, report
from swinv2.benchmark.comparing import compare_runs, read_run
from swinv2.benchmark.contest import benchmark
from swinv2.benchmark.printing import print_benchmark, print_comparison, progress, write_csv, write_markdown
from swinv2.benchmark.result import Benchmark, Row
from swinv2.verbs import Exit, UsageError, make_callable

__all__ = ["Benchmark", "Row", "benchmark", "compare_runs", "read_run"]

RuntimeName = Literal[
    "auto", "engine", "torch", "onnx", "openvino", "pt2", "torchscript", "tensorrt", "executorch", "litert", "ncnn",
    "mnn", "coreml",
]  # fmt: skip
Precision = Literal["auto", "fp32", "bf16", "fp16", "fp8", "int8"]


def command(
    model: str,
    exports: list[str] = [],  # noqa: B006 -- a signature to read
    /,
    *,
    data: str | None = None,
    images: int = 1000,
    batch_size: tuple[int, ...] = (1, 8),
    rounds: int = 20,
    threads: int | None = None,
    device: str = "auto",
    runtime: list[RuntimeName] = [],  # noqa: B006
    precision: list[Precision] = ["auto"],  # noqa: B006
    output: str | None = None,
    csv: str | None = None,
    markdown: str | None = None,
    picture: str | None = None,
    compare: bool = False,
    json: bool = False,
) -> int:
    """Compare speed, memory and answers of a model in all its formats.

    Every contender runs in a process of its own and all take turns. Latencies are milliseconds a batch of ready
    tensors, with the 95 % interval of the median; "with pictures" begins with encoded pictures. Exit code 5
    where some contenders cannot run; the table says why.

    Args:
        model: a model file, or the name of a published model; the first row, which the others are compared with.
        exports: files that `swinv2 export` wrote; a folder stands for all in it.
        data: a data set or a folder of pictures; its accuracy and agreement with the model are measured.
        images: of the data set, at most.
        batch_size: one or several, as 1,8.
        rounds: turns of each contender at each batch.
        threads: of the computation; default is one per processor, the same for all.
        device: cpu, cuda, ...; auto takes each runtime's own choice.
        runtime: runtimes to run each file in, where they open it; default is the one that it was exported for.
        precision: precisions to run each file in; auto is that of the file.
        output: file for the figures (JSON), which --compare reads.
        csv: file for a row per contender and batch.
        markdown: file for the table in Markdown.
        picture: file for a picture of latencies and answers (PNG).
        compare: take two files of earlier runs (--output), the old one first, and say what has changed.

    Examples:
        swinv2 benchmark swinv2_tiny_window8_256
        swinv2 benchmark model.safetensors model.onnx model.xml --precision auto bf16 --picture speed.png
        swinv2 benchmark model.safetensors exports/ --data photos/ --output new.json
        swinv2 benchmark --compare old.json new.json
    """
    if compare:
        return _compare(model, exports, data or output or csv or picture, markdown, json)
    with progress(json) as tell:
        result = benchmark(
            model, exports, data=data, images=images, batch_sizes=batch_size, rounds=rounds, threads=threads,
            device=device, runtimes=runtime, precisions=precision, tell=tell,
        )  # fmt: skip
    if output:
        report.write_text(Path(output), jsonlib.dumps(result.to_dict(), indent=1) + "\n")
    if csv:
        write_csv(Path(csv), result)
    if markdown:
        write_markdown(Path(markdown), result)
    if picture:
        from swinv2.benchmark.drawing import draw

        draw(Path(picture), result)
    if json:
        console.emit_json(result.to_dict())
    else:
        print_benchmark(result)
    failed = [row for row in result.rows if row.not_run]
    return Exit.DONE if not failed else Exit.PARTIAL if result.ran else Exit.FAILED


def _compare(old: str, others: Sequence[str], refused: Any, markdown: str | None, json: bool) -> int:
    if len(others) != 1:
        raise UsageError("--compare takes two files that --output wrote, the old one first")
    if refused:
        raise UsageError("--compare measures nothing; of the other options it takes --markdown and --json")
    found = compare_runs(read_run(old), read_run(others[0]))
    if markdown:
        write_markdown(Path(markdown), found)
    if json:
        console.emit_json(found.to_dict())
    else:
        print_comparison(found)
    return Exit.DONE


make_callable(__name__)
