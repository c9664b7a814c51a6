"""The verb `swinv2 verify`: whether an exported model still gives the answers it gave when it was made, here.

It needs no torch: what the torch model answered travels in the record. With --against the model itself answers again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinv2 import artifact, console, verification
from swinv2.export.printing import figures, progress
from swinv2.parity import Comparison
from swinv2.verbs import Exit, make_callable


@dataclass(frozen=True)
class Verified:
    """What came out.

    Args:
        problems: why the file is not what it was, in sentences; none where it is.
    """

    path: Path
    format: str
    runtime: str
    device: str
    precision: str
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path), "format": self.format, "runtime": self.runtime, "device": self.device,
            "precision": self.precision, "verified": [c.to_dict() for c in self.comparisons],
            "problems": list(self.problems),
        }  # fmt: skip


def command(
    exported: list[str],
    *,
    against: str | None = None,
    runtime: str = "auto",
    device: str = "auto",
    json: bool = False,
) -> int:
    """Check exported models on this machine.

    Compares the hash of each file with the one in its record, runs it on the same real pixels as when it was
    made, and compares with what the torch model answered then. Needs no torch. Exit code 3 where a file is
    damaged or does not agree.

    Args:
        exported: files that `swinv2 export` wrote.
        against: the model it was made from; it answers again, with torch.
        runtime: what opens the files; auto takes the runtime of the format.
        device: cpu, cuda, gpu, ...; auto takes the runtime's own choice.

    Examples:
        swinv2 verify model.onnx
        swinv2 verify model.tflite --against model.safetensors
    """
    done = []
    with progress(json) as say:
        for path in exported:
            say(f"verifying {path}")
            done.append(verify(path, against=against, runtime=runtime, device=device))
    if json:
        console.emit_json([one.to_dict() for one in done])
    for one in done:
        if not json and one.comparisons:
            error, mean, cosine, agreement = figures(one.comparisons)
            console.stdout().print(
                f"{one.path}: {one.runtime} on {one.device} in {one.precision}, largest error {error}, mean {mean}, "
                f"cosine {cosine}, same first class {agreement}",
                markup=False,
            )
        for problem in one.problems:
            console.stderr().print(f"error: {one.path}: {problem}", markup=False)
    return Exit.MODEL if any(one.problems for one in done) else Exit.DONE


def verify(
    exported: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    runtime: str = "auto",
    device: str = "auto",
) -> Verified:
    """Check one exported file; the options are those of the command.

    Raises:
        FileNotFoundError, ArtifactError: there is no such file, or it was not made by export.
        ValueError, ImportError: its runtime cannot run here, and why.
        child.Died: its runtime crashed.
    """
    path = Path(exported)
    row = verification.row_of(path)
    record = verification.read_record(row, path)
    about = record.provenance.get("export")
    if not isinstance(about, dict) or "reference" not in about:
        raise artifact.ArtifactError(f"{path} does not say what it should answer; export it again")
    problems = []
    if verification.digest(row, path) != about["sha256"]:
        problems.append("it was changed or damaged after it was written; copy it again, or export again")
    reference = verification.Reference.from_dict(about["reference"])
    if against is not None:
        from swinv2.export import as_artifact, refer

        with as_artifact(against, record.preprocess.size, lambda text: None) as source:
            reference = refer(source, dynamic_size="height" in about["dynamic"])
    precision = about["precision"]
    comparisons, ran = verification.measure(
        path, row.name if runtime == "auto" else runtime, reference, device=device
    )
    problems += [problem for one in comparisons if (problem := one.problem(precision))][:1]
    return Verified(
        path, row.name, ran["runtime"], ran["device"], ran["precision"], tuple(comparisons), tuple(problems)
    )


make_callable(__name__)
