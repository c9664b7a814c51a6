"""What the graph of an exported model may hold, so that small runtimes and slow compilers can take it.

Rules for every format: nothing is rolled, no index is computed, no slice has a step. In the edge mode no result has
more than four dimensions besides.
"""

from __future__ import annotations

from collections.abc import Iterable

from swinv2.runtimes.base import Node

MAX_RANK = 4
# Operators that give a graph away that was not folded, in the words of the formats that we write.
FORBIDDEN = {
    "roll", "mod", "gathernd", "gather_nd", "gather", "scatter", "scatternd", "scatterelements", "where", "nonzero",
    "loop", "if", "range", "stridedslice_with_step",
}  # fmt: skip


def problems(nodes: Iterable[Node], *, edge: bool, dynamic: bool = False) -> list[str]:
    """What is wrong with a graph, in words; nothing where it is as it must be.

    Args:
        edge: hold it to the rules of the edge mode.
        dynamic: it takes any image size, so its windows and shifts are computed at run time.
    """
    found = []
    nodes = list(nodes)
    if not nodes:
        return ["the graph has no operators"]
    for operator in sorted({node.operator for node in nodes}):
        if not dynamic and operator.lower().replace("-", "") in FORBIDDEN:
            count = sum(node.operator == operator for node in nodes)
            found.append(f"{operator} occurs {count} times")
    deep = [node for node in nodes if node.rank > MAX_RANK]
    if edge and deep:
        found.append(
            f"{len(deep)} results have more than {MAX_RANK} dimensions, the first is of {deep[0].operator}"
        )
    return found
