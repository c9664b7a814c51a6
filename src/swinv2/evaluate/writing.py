"""The files of an evaluation: figures, a row per class, a row per picture, the confusion matrix."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import metrics, report
from swinv2.extras import require

if TYPE_CHECKING:
    from swinv2.evaluate import Evaluation


def write(result: Evaluation, output: Path, *, parquet: bool = False) -> list[Path]:
    """evaluation.json, results.csv (per class), predictions.csv (per picture), and confusion.png where a picture
    has one class; returns their paths.

    Args:
        parquet: predictions.parquet as well.
    """
    measured = result.measured
    if parquet:
        require("pyarrow", extra="datasets")  # before anything is written
    output.mkdir(parents=True, exist_ok=True)
    names = ["evaluation.json", "results.csv", "predictions.csv"]
    names += ["predictions.parquet"] if parquet else []
    names += ["confusion.png"] if isinstance(measured, metrics.Measurement) else []
    report.write_text(output / "evaluation.json", json.dumps(result.to_dict(), indent=2) + "\n")
    report.results_csv(output / "results.csv", measured.per_class())
    report.results_csv(output / "predictions.csv", measured.answers(result.split.names))
    if parquet:
        write_parquet(result, output / "predictions.parquet")
    if isinstance(measured, metrics.Measurement):
        title = f"{result.record.config.architecture} on {result.split.name}/{result.split.split}"
        report.save(report.confusion(measured, title), output / "confusion.png")
    return [output / name for name in names]


def write_parquet(result: Evaluation, path: Path) -> None:
    """The rows of predictions.csv with their types, and with what a table of text has no place for.

    One class a picture: class_ids and scores of the likeliest classes, best first. Several: labels and
    predictions as lists of names, and the score of every class.
    """
    pa, parquet = require("pyarrow", extra="datasets"), require("pyarrow.parquet", extra="datasets")
    measured, names = result.measured, result.split.names
    rows = measured.answers(names)
    answered = measured.is_answered
    columns = {
        "file": pa.array([row["file"] for row in rows]),
        "loss": pa.array([float(row["loss"]) if row["loss"] else None for row in rows], pa.float64()),
        "correct": pa.array([bool(row["correct"]) for row in rows]),
    }

    def lists(values: Any, kind: Any) -> Any:
        """One list a picture; none where there was no answer."""
        there = zip(values, answered, strict=True)
        return pa.array([list(value) if is_there else None for value, is_there in there], pa.list_(kind))

    if isinstance(measured, metrics.Measurement):
        columns |= {
            "label": pa.array([row["label"] for row in rows]),
            "prediction": pa.array([row["prediction"] or None for row in rows], pa.string()),
            "class_ids": lists(measured.top, pa.int32()),
            "scores": lists(measured.top_scores, pa.float32()),
        }
    else:
        columns |= {
            "labels": pa.array([measured.names_of(row) for row in measured.labels], pa.list_(pa.string())),
            "predictions": lists(map(measured.names_of, measured.predictions), pa.string()),
            "scores": lists(measured.scores, pa.float32()),
        }
    part = path.with_name(f".{path.name}.part")
    parquet.write_table(pa.table(columns), part)
    os.replace(part, path)
