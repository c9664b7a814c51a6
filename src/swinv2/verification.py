"""An exported model beside the torch model it was made from: run it in its runtime, compare, and say what came out.

What the torch model answered on the probe images (swinv2.probe) travels in the record, so that the comparison can be
repeated where there is no torch. Every runtime runs in a process of its own: one that crashes is a finding.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import child, probe
from swinv2.artifact import Record
from swinv2.config import Pair
from swinv2.parity import Comparison, compare
from swinv2.runtimes import RUNTIMES, Runtime, beside, open_session

if TYPE_CHECKING:
    import numpy as np

BATCHES = (1, 2, 7)
COLUMNS = 1000  # classes whose reference logits a record keeps, evenly spread where the model has more


@dataclass(frozen=True)
class Reference:
    """Logits of the torch model in float32 on probe images.

    Args:
        step: every how-manieth class is kept.
        cases: (height, width) -> float32 [images, classes kept]; the size of the preprocessing first.
    """

    step: int
    cases: dict[Pair, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "cases": [
                {
                    "size": list(size),
                    "images": len(logits),
                    "logits": base64.b64encode(logits.astype("<f4").tobytes()).decode(),
                }
                for size, logits in self.cases.items()
            ],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Reference:
        import numpy as np

        cases: dict[Pair, np.ndarray] = {}
        for case in values["cases"]:
            logits = np.frombuffer(base64.b64decode(case["logits"]), "<f4")
            cases[(case["size"][0], case["size"][1])] = logits.reshape(case["images"], -1)
        return cls(values["step"], cases)


def step_of(classes: int) -> int:
    """Every how-manieth class a record keeps."""
    return max(1, -(-classes // COLUMNS))


def sizes(base: Pair, *, dynamic: bool) -> list[Pair]:
    """The image sizes to compare at: that of the preprocessing, and four more where the file takes any."""
    height, width = base
    if not dynamic:
        return [base]
    wide, odd = (height * 9 // 8, width * 11 // 8), (height * 75 // 64, width * 105 // 64)
    return [base, (height * 3 // 2, width * 5 // 4), (height * 2, width * 2), wide, odd]


def measure(
    path: Path, runtime: str, reference: Reference, *, device: str = "auto", batches: Iterable[int] = BATCHES
) -> tuple[list[Comparison], dict[str, str]]:
    """Open a file in a new process, run the probe images, compare with the reference.

    Returns:
        the comparisons, and what ran: runtime, device, precision.

    Raises:
        child.Died, ValueError, ImportError, OSError: why it does not run.
    """
    import numpy as np

    wanted = [
        (size, batch) for size, logits in reference.cases.items() for batch in batches if batch <= len(logits)
    ]
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        ran = child.call(
            "swinv2.verification:run",
            {"path": str(path), "runtime": runtime, "device": device, "cases": wanted, "folder": folder},
            doing=f"running {path.name} in {runtime}",
        )
        comparisons = []
        for i, (size, batch) in enumerate(wanted):
            found = np.load(Path(folder, f"{i}.npy"))[:, :: reference.step]
            comparisons.append(compare(found, reference.cases[size][:batch], size))
    return comparisons, ran


def run(
    path: str, runtime: str, device: str, cases: list[tuple[list[int], int]], folder: str
) -> dict[str, str]:
    """In the new process: the logits of every case, as files."""
    import numpy as np

    with open_session(path, runtime, device=device) as session:
        for i, ((height, width), batch) in enumerate(cases):
            logits = session.run(probe.images(session.record, batch, (height, width)))
            np.save(Path(folder, f"{i}.npy"), logits)
        return {"runtime": session.runtime, "device": session.device, "precision": session.precision}


def digest(row: Runtime, path: Path) -> str:
    """SHA-256 of what was exported, without the record that travels with it."""
    if own := getattr(row.load(), "digest", None):
        return own(path)
    found = hashlib.sha256()
    for file in row.files(path):
        if file != beside.path_of(path):
            for part in sorted(file.rglob("*")) if file.is_dir() else [file]:
                if part.is_file():
                    found.update(part.read_bytes())
    return found.hexdigest()


def read_record(row: Runtime, path: Path) -> Record:
    """The record of an exported file, wherever its format keeps it."""
    return getattr(row.load(), "read_record", beside.read_record)(path)


def write_record(row: Runtime, path: Path, record: Record) -> None:
    """Put the record where the format keeps it."""
    getattr(row.load(), "write_record", beside.write_record)(path, record)


def row_of(path: Path) -> Runtime:
    """The format of an exported file.

    Raises:
        ValueError: its suffix is none of a format that export writes.
    """
    for row in RUNTIMES.values():
        if row.exports and row.suffixes[0] == path.suffix.lower():
            return row
    known = ", ".join(row.suffixes[0] for row in RUNTIMES.values() if row.exports)
    raise ValueError(f"{path} is no exported model; exports end in {known}")
