"""Write the generated tables of README.md and docs/ again; figures in documents are computed, not typed.

    python docs/generate.py            write
    python docs/generate.py --check    exit 1 where a document is not what would be written

A table stands between <!-- table: NAME --> and <!-- end -->; tables/ has a function for every NAME.
"""

from __future__ import annotations

import re
import sys

from tables import TABLES
from tables.form import ROOT


def filled(text: str) -> str:
    """A document with its tables computed."""
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
    return pattern.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text)


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text()
        if filled(text) != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(filled(text))
    print(*(f"{'stale' if check else 'wrote'} {path}" for path in stale), sep="\n", end="\n" if stale else "")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
