"""What the lint of exported graphs lets pass and what it names."""

from __future__ import annotations

import pytest

from swinv2.lint import problems
from swinv2.runtimes.base import Node

GOOD = [Node("Conv", 4), Node("MatMul", 3), Node("Softmax", 4), Node("Concat", 4), Node("Slice", 4)]


def test_a_plain_graph_passes():
    assert problems(GOOD, edge=True) == []


@pytest.mark.parametrize(
    "operator", ["Roll", "roll", "GatherND", "GATHER_ND", "Gather", "Where", "Mod", "ScatterND"]
)
def test_what_computes_indices_is_named_and_counted(operator):
    assert problems([*GOOD, Node(operator, 2), Node(operator, 2)], edge=False) == [
        f"{operator} occurs 2 times"
    ]


def test_a_graph_for_any_size_may_compute_indices():
    assert problems([*GOOD, Node("Gather", 1)], edge=False, dynamic=True) == []


def test_five_dimensions_are_too_many_in_the_edge_mode_only():
    deep = [*GOOD, Node("Transpose", 6)]
    assert problems(deep, edge=False) == []
    assert problems(deep, edge=True) == ["1 results have more than 4 dimensions, the first is of Transpose"]


def test_a_graph_without_operators_is_no_graph():
    assert problems([], edge=True) == ["the graph has no operators"]
