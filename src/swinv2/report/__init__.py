"""What people look at after a run: report.html, and the pictures and tables beside it.

Everything is drawn from the files that a run leaves, so that a report can be made again, elsewhere and later:
`swinv2 report runs/x`. saved.py reads them, page.py puts the page together, the others draw one kind of
picture each.
"""

from __future__ import annotations

from swinv2 import console
from swinv2.report.errors import confusion
from swinv2.report.files import results_csv, save, write_text
from swinv2.report.learning import curves
from swinv2.report.page import write
from swinv2.report.pictures import mosaic, target_names
from swinv2.report.saved import read_lines
from swinv2.verbs import Exit

__all__ = [
    "confusion",
    "curves",
    "mosaic",
    "read_lines",
    "results_csv",
    "save",
    "target_names",
    "write",
    "write_text",
]


def command(run: str, *, data: str | None = None, grad_cam: bool = True, json: bool = False) -> int:
    """Make report.html, a page about a run that can be sent as one file.

    Everything on it comes from the files that `swinv2 train` or `swinv2 evaluate --output` left in the folder.
    What is missing leaves a sentence in its place.

    Args:
        run: folder of a run.
        data: where the pictures are now, if they have moved.
        grad_cam: show where the model looked, beside the pictures of the gallery.

    Examples:
        swinv2 report runs/photos
        swinv2 report runs/photos --data /mnt/photos --grad-cam=false
    """
    path = write(run, data=data, grad_cam=grad_cam)
    if json:
        console.emit_json({"report": str(path)})
    else:
        console.stdout().print(str(path), markup=False)
    return Exit.DONE
