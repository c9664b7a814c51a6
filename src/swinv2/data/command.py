"""The verb `swinv2 data`: look into data sets, make them ready, pack them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from swinv2 import console
from swinv2.data import digits, imagenet
from swinv2.data import pack as packing
from swinv2.verbs import Exit, UsageError

if TYPE_CHECKING:
    from swinv2.data.check import Checked
    from swinv2.data.prepared import Prepared

SHOWN = 30  # classes up to which every one has its line


def check(data: str, *, json: bool = False) -> int:
    """Say what is in a data set and what is wrong with it.

    Reads every picture once: counts, balance of the classes, pictures that cannot be read, the same picture in
    two parts or under two classes, classes that a part lacks. Ends with 3 where something would spoil training
    or its figures, with 0 where there are only warnings.

    Args:
        data: folder, list, .tar, .parquet or hub:owner/name.

    Examples:
        swinv2 data check photos
        swinv2 data check photos --json > problems.json
    """
    from swinv2.data.check import check as look

    with _progress("reading pictures") as progress:
        checked = look(data, lambda done, total: progress("reading pictures", done, total))
    if json:
        console.emit_json(checked.to_dict())
    else:
        _print(checked)
    return Exit.MODEL if checked.has_errors else Exit.DONE


def pack(
    data: str,
    folder: str,
    *,
    shard_mb: int = packing.SHARD_MB,
    short_side: int | None = None,
    json: bool = False,
) -> int:
    """Write a data set as a few tar shards in WebDataset layout.

    `swinv2 train` reads the shards in place, and gets the same split. Interrupted, it goes on where it was.

    Args:
        data: folder, list, .parquet or hub:owner/name.
        folder: where to; it is made.
        shard_mb: size from which a new shard is begun.
        short_side: pixels that larger pictures to learn from are scaled down to, which makes them faster to
            decode; default keeps all bytes. Held-out pictures are never changed.

    Examples:
        swinv2 data pack photos packed
        swinv2 data pack photos packed --short-side 320
    """
    with _progress("packing") as progress:
        made = packing.pack(
            data,
            folder,
            shard_mb=shard_mb,
            short_side=short_side,
            on_picture=lambda done, total: progress("packing", done, total),
        )
    if json:
        shards = [str(shard) for shard in made.shards]
        console.emit_json({"folder": str(made.root), "images": made.images, "shards": shards})
        return Exit.DONE
    counts = ", ".join(f"{count:,} pictures in {part}" for part, count in made.images.items())
    console.stdout().print(f"{made.root}: {counts}, {len(made.shards)} shards", markup=False)
    return Exit.DONE


def prepare(
    dataset: Literal["digits", "imagenet", "imagenet22k"],
    folder: str,
    *,
    source: str | None = None,
    json: bool = False,
) -> int:
    """Write a data set as `swinv2 train` takes it.

    A second call finds the folder complete and does nothing; after an interrupted one it goes on where that was.

    Args:
        dataset: digits are the 1,797 handwritten digits that ship inside scikit-learn; nothing is downloaded.
            imagenet unpacks the official archives, imagenet22k lays out one tar per synset.
        folder: where to; it is made.
        source: folder of the archives of ImageNet.

    Examples:
        swinv2 data prepare digits runs/demo/digits
        swinv2 data prepare imagenet imagenet --source downloads
    """
    if (source is None) != (dataset == "digits"):
        raise UsageError(
            "digits need no --source; they are inside scikit-learn"
            if dataset == "digits"
            else f"{dataset} needs --source: the folder of the archives from image-net.org"
        )
    with _progress(f"preparing {dataset}") as progress:
        made = _prepared(dataset, folder, source, progress)
    if json:
        console.emit_json(
            {
                "dataset": dataset,
                "folder": str(made.root),
                "images": made.images,
                "classes": list(made.classes),
                "samples": [str(path) for path in made.samples],
                "written": made.is_new,
            }
        )
        return Exit.DONE
    done = "written" if made.is_new else "already there, nothing to do"
    say = console.stdout().print
    say(f"{made.root}: {made.images:,} pictures of {len(made.classes):,} classes, {done}", markup=False)
    if made.samples:
        say(f"one held-out picture of each class: {made.samples[0].parent}", markup=False)
    return Exit.DONE


def _prepared(dataset: str, folder: str, source: str | None, progress: imagenet.Progress) -> Prepared:
    if source is None:
        return digits.digits(folder)
    make: Callable = imagenet.imagenet_1k if dataset == "imagenet" else imagenet.imagenet_22k
    return make(folder, source, on_progress=progress)


@contextmanager
def _progress(what: str) -> Iterator[imagenet.Progress]:
    """A bar on a terminal, nothing elsewhere."""
    if not console.stderr().is_terminal:
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console.stderr(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield show


def _print(checked: Checked) -> None:
    from rich.markup import escape
    from rich.table import Table

    say = console.stdout().print
    if parts := checked.parts:
        names = list(dict.fromkeys(name for split in parts.values() for name in split.classes))
        counts = {part: dict(zip(s.classes, s.counts, strict=True)) for part, s in parts.items()}
        say(f"{checked.root}: {checked.form}, {len(names):,} classes", markup=False)
        table = Table(box=None, pad_edge=False, header_style="dim", footer_style="dim", show_footer=True)
        table.add_column("class", "all", overflow="fold")
        for part, split in parts.items():
            table.add_column(escape(part), f"{len(split):,}", justify="right")
        shown = sorted(names, key=lambda name: sum(c.get(name, 0) for c in counts.values()))
        shown = names if len(names) <= SHOWN else [*shown[: SHOWN // 2], *shown[-SHOWN // 2 :]]
        for name in shown:
            table.add_row(escape(name), *(f"{counts[part].get(name, 0):,}" for part in parts))
        if len(shown) < len(names):
            say(f"the {SHOWN // 2} smallest and the {SHOWN // 2} largest classes; --json has all")
        say(table)
    for problem in sorted(checked.problems, key=lambda problem: problem.severity != "error"):
        say(f"{problem.severity}: {problem.text}", markup=False)
    if not checked.problems:
        say("nothing is wrong with it")


COMMANDS = {"check": check, "prepare": prepare, "pack": pack}
