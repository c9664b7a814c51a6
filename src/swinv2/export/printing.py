"""What people see of an export: what is being done, and a table of what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from swinv2 import console
from swinv2.parity import Comparison

if TYPE_CHECKING:
    from swinv2.export.one import Exported


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done: a moving line on a terminal, a line each elsewhere."""
    out = console.stderr()
    if quiet and not out.is_terminal:
        yield lambda text: None
    elif out.is_terminal:
        with out.status("") as status:
            yield lambda text: status.update(text)
    else:
        yield lambda text: out.print(text, markup=False)


def print_exports(exports: Iterable[Exported]) -> None:
    """A line per file."""
    every = list(exports)
    width = max((len(str(one.path)) for one in every), default=0)
    for one in every:
        line = f"{one.path!s:<{width}}  {one.precision}  {one.size / 1e6:6.1f} MB  "
        if one.worst is None:
            line += f"not run here: {one.not_run}"
        else:
            error, mean, cosine, agreement = figures(one.comparisons)
            line += f"largest error {error}, mean {mean}, cosine {cosine}, same first class {agreement}"
        console.stdout().print(line, markup=False)


def figures(comparisons: Iterable[Comparison]) -> tuple[str, str, str, str]:
    """The worst of several comparisons: errors as shares of the largest logit, cosine, agreement."""
    every = list(comparisons)
    worst = max(every, key=lambda c: c.error)
    mean = max(c.mean_error / c.largest if c.largest else c.mean_error for c in every)
    agreement = sum(c.agreement * c.batch for c in every) / sum(c.batch for c in every)
    return f"{worst.error:.1e}", f"{mean:.1e}", f"{min(c.cosine for c in every):.6f}", f"{agreement:.0%}"
