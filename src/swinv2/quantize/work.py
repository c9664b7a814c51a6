"""One model on its way to int8: pictures, float answers and ranking are made once, whatever the formats."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinv2 import artifact, child, verification
from swinv2.artifact import with_provenance
from swinv2.config import SwinV2Config
from swinv2.data import DataError
from swinv2.evaluate.counting import labels_of, tally_for
from swinv2.evaluate.reading import batches
from swinv2.export.one import Disagreement, Exported, Say, export_one, move, refer, size_of, workshop
from swinv2.quantize import search
from swinv2.quantize.choice import choose
from swinv2.quantize.judging import Judgement, answers, judge
from swinv2.quantize.search import Tried
from swinv2.runtimes import Options, Runtime
from swinv2.verification import Reference

if TYPE_CHECKING:
    import numpy as np


class LostTooMuch(artifact.ArtifactError):
    """Int8 that costs more than is allowed, in one sentence."""


@dataclass(frozen=True)
class Attempt:
    """One file of one try; judgement is None where it was not even the same network."""

    exported: Exported | None
    judgement: Judgement | None
    kept: tuple[str, ...]
    problem: str = ""


class Job:
    """What the formats share.

    Args:
        source: an artifact.
        folder: for pictures and answers; whoever gave it removes it.
        images, judge: how many pictures to calibrate on, and to judge on.
    """

    def __init__(
        self, source: Path, data: str | os.PathLike[str], folder: Path, *, max_drop: float, images: int, judge: int,
        opset: int | None, say: Say,
    ):  # fmt: skip
        self.source, self.folder, self.max_drop, self.opset, self.say = source, folder, max_drop, opset, say
        self.record = artifact.read_record(source)
        self.layers = count_layers(self.record.config)
        self.choice = choose(data, self.record, images=images, judge=judge)
        if why := self.choice.why_no_labels:
            say(f"labels are not used, and each answer that differs counts as lost: {why}")
        self._rankings: dict[str, list[tuple[str, float]]] = {}

    def write(
        self, row: Runtime, target: Path, activations: str | None
    ) -> tuple[Exported, Judgement, tuple[str, ...], int, dict[str, Any]]:
        """One format, at target, or not at all; what a Quantized holds."""
        options = Options(precision="int8", opset=self.opset, activations=activations or row.activations[0])
        if why := row.cannot_export(options) or row.unsupported("auto", "int8"):
            raise ImportError(why) if "pip install" in why else ValueError(why)
        with workshop(target) as place:

            def attempt(count: int) -> Tried[Attempt]:
                kept = tuple(name for name, _ in self.ranking(options.activations)[:count]) if count else ()
                found = self._attempt(
                    row, place / str(count) / target.name, replace(options, keep_float=kept)
                )
                good = found.judgement is not None and found.judgement.drop <= self.max_drop
                if not good:
                    shutil.rmtree(place / str(count), ignore_errors=True)
                return Tried(count, found, good=good)

            tried = search.fewest(self.layers, attempt)
            if (best := search.best(tried)) is None:
                raise LostTooMuch(self._refusal(target, tried))
            exported, judgement, kept = best.found.exported, best.found.judgement, best.found.kept
            assert exported is not None
            assert judgement is not None
            about = exported.about | {"int8": self._facts(options, judgement, kept, tried)}
            verification.write_record(row, exported.path, with_provenance(self.record, export=about))
            files = row.files(exported.path)
            exported = replace(exported, path=target, about=about, size=sum(map(size_of, files)))
            move(files, target.parent)
        return exported, judgement, kept, self.layers, about["int8"]

    def _attempt(self, row: Runtime, path: Path, options: Options) -> Attempt:
        """One file: written, compared on the probe images, judged."""
        calibration = self.calibration if options.activations == "static" else None
        kept, float_answers = options.keep_float, self.float_answers
        try:
            exported = export_one(
                self.source, path, row, options, self.reference, calibration=calibration, say=self.say
            )
        except Disagreement as error:
            return Attempt(None, None, kept, str(error))
        self.say(f"{row.name}: judging {path.name} on {len(self.choice.judged):,} pictures")
        logits = answers(path, row.name, self.choice.judged, self.folder)
        judgement = judge(logits, float_answers, self.is_right(logits), self.is_right(float_answers))
        self.say(
            f"{row.name}: {judgement.drop:.2f} points lost with {len(kept)} of {self.layers} layers in float"
        )
        return Attempt(exported, judgement, kept)

    # ------------------------------------------------------------------ made once, when it is needed

    @cached_property
    def reference(self) -> Reference:
        self.say("running the torch model")
        return refer(self.source, dynamic_size=False)

    @cached_property
    def float_answers(self) -> np.ndarray:
        self.say(f"running the torch model on {len(self.choice.judged):,} pictures")
        return answers(self.source, "torch", self.choice.judged, self.folder)

    @cached_property
    def calibration(self) -> Path:
        """A .npy file of preprocessed images, float32 [N, C, H, W]."""
        import numpy as np

        split, parts = self.choice.calibration, []
        self.say(f"reading {len(split):,} pictures to calibrate on")
        for batch in batches(split, range(len(split)), self.record.preprocess, batch_size=32):
            if batch.unreadable:
                raise DataError(f"{batch.unreadable[0].reason}; repair it or remove it")
            assert batch.images is not None
            parts.append(batch.images)
        np.save(self.folder / "calibration.npy", np.concatenate(parts))
        return self.folder / "calibration.npy"

    def ranking(self, activations: str) -> list[tuple[str, float]]:
        """Layers with the error that each causes in int8, the worst first."""
        if activations not in self._rankings:
            self.say(f"trying each of {self.layers} layers in int8")
            found = child.call(
                "swinv2.quantize.sensitivity:rank",
                {
                    "source": str(self.source),
                    "calibration": str(self.calibration),
                    "activations": activations,
                },
                doing=f"trying the layers of {self.source.name}",
            )
            assert len(found) == self.layers, (len(found), self.layers)
            self._rankings[activations] = [(name, error) for name, error in found]
        return self._rankings[activations]

    def is_right(self, logits: np.ndarray) -> np.ndarray | None:
        """Whether each answer is that of the label, [pictures]; None where there are no labels."""
        split = self.choice.judged
        if not self.choice.has_labels:
            return None
        tally, every = tally_for(split, self.record, None), list(range(len(split)))
        tally.add(logits, labels_of(split, every), every)  # type: ignore[arg-type]
        return tally.measurement().is_correct

    # ------------------------------------------------------------------ words

    def _facts(
        self, options: Options, judgement: Judgement, kept: tuple[str, ...], tried: list[Tried[Attempt]]
    ) -> dict[str, Any]:
        """What the record says about it."""
        pictures = self.choice.to_dict()
        if options.activations == "dynamic":
            pictures["calibration"] = None  # ranges are found at run time
        ranking = self._rankings.get(options.activations, [])
        return {
            "activations": options.activations,
            "pictures": pictures,
            **judgement.to_dict(),
            "max_drop": self.max_drop,
            "kept_float": list(kept),
            "layers": self.layers,
            "tries": [_described(one) for one in tried],
            "sensitivity": [[name, float(f"{error:.3g}")] for name, error in ranking],
        }

    def _refusal(self, target: Path, tried: list[Tried[Attempt]]) -> str:
        last = tried[-1].found
        if last.judgement is None:
            return f"{last.problem}, with {len(last.kept)} of {self.layers} layers in float"
        images, what = last.judgement.agreement.images, "accuracy" if self.choice.has_labels else "answers"
        one = 100 / images
        few = f" (one of {images} pictures is {one:.2g} points: give more)" if one > self.max_drop else ""
        return (
            f"{target.name} was not written: it loses {last.judgement.drop:.2f} points of {what} with "
            f"{len(last.kept)} of {self.layers} layers in float, and {self.max_drop:g} are allowed{few}; "
            f"allow more with --max-drop, or try other --activations or another format"
        )


def count_layers(config: SwinV2Config) -> int:
    """What int8 quantises: four layers a block, the patch embedding, the mergings, and the head where there is one."""
    return 4 * sum(config.depths) + len(config.depths) + bool(config.num_classes)


def _described(one: Tried[Attempt]) -> dict[str, Any]:
    judgement = one.found.judgement
    return {"kept_float": one.kept, "drop": None if judgement is None else judgement.drop}
