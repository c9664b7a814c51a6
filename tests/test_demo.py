"""`make demo`, as a person runs it: to at least 97 % on held-out digits."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from swinv2 import artifact

DEMO = Path(__file__).parent.parent / "examples" / "demo.sh"


def test_the_demo_reaches_97_percent_and_shows_what_it_made(tmp_path):
    place = tmp_path / "demo"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", DEMO, place], env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    with open(place / "digits-pico" / "evaluation" / "predictions.csv", newline="") as file:
        answers = [Path(row["file"]).parent.name == row["prediction"] for row in csv.DictReader(file)]
    assert len(answers) == 359
    assert sum(answers) >= 0.97 * 359, f"{sum(answers)} of 359"
    lines = done.stdout.splitlines()
    assert f"({sum(answers)} of 359)" in done.stdout
    samples = [i for i, line in enumerate(lines) if line.endswith(".png") and "/samples/" in line]
    right = [lines[i + 1].split()[-1] == Path(lines[i]).stem for i in samples]
    assert len(right) == 10
    assert sum(right) >= 9
    assert [line.split()[2] for line in lines if line.startswith("$ swinv2")] == [
        "data",
        "train",
        "evaluate",
        "predict",
    ]
    made = {path.name for path in (place / "digits-pico").iterdir()}
    assert made >= {
        "best.safetensors",
        "curves.png",
        "confusion.png",
        "metrics.jsonl",
        "results.csv",
        "recipe.yaml",
    }
    assert all(name in done.stdout for name in made - {"last.safetensors", "summary.json"})
    assert artifact.read_record(place / "digits-pico" / "best.safetensors").classes[7] == "digit-7"
