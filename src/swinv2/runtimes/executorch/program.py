"""What a .pte file holds: the operators that XNNPACK computes, and those left to ExecuTorch's own kernels."""

from __future__ import annotations

import json
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from swinv2.runtimes.base import Node


def shares(path: Path) -> dict[str, int]:
    """How many graphs XNNPACK gets, how many operators these have, and how many are left to others."""
    graphs = [graph for _, graph in operators(path)]
    inside = [graph for graph in graphs if graph is not None]
    return {"graphs": len(set(inside)), "operators": len(inside), "others": len(graphs) - len(inside)}


def operators(path: Path) -> list[tuple[Node, int | None]]:
    """Every operator, and the number of the graph of XNNPACK that it is in; None where it is in none."""
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DelegateCall, KernelCall, Tensor

    program = deserialize_pte_binary(path.read_bytes()).program
    found: list[tuple[Node, int | None]] = []
    for plan in program.execution_plan:
        for instruction in (i.instr_args for chain in plan.chains for i in chain.instructions):
            if isinstance(instruction, DelegateCall):
                delegate = plan.delegates[instruction.delegate_index]
                payload = program.backend_delegate_data[delegate.processed.index].data
                found += [(node, instruction.delegate_index) for node in _xnnpack(bytes(payload))]
            elif isinstance(instruction, KernelCall):
                values = [plan.values[i].val for i in instruction.args]
                rank = max((len(v.sizes) for v in values if isinstance(v, Tensor)), default=0)
                name = plan.operators[instruction.op_index].name.removeprefix("aten::")
                found.append((Node(name, rank), None))
    return found


def _xnnpack(payload: bytes) -> list[Node]:
    """The operators of one graph of XNNPACK."""
    graph = _as_json(payload)
    ranks = {}
    for value in (v["xvalue_union"] for v in graph["xvalues"]):
        tensor = value.get("tensor_value", value)  # quantised ones hold the tensor inside
        ranks[tensor["id_out"]] = tensor["num_dims"]
    return [
        Node(
            node["xnode_union_type"].removeprefix("_").removeprefix("XNN"),
            ranks[node["xnode_union"]["output_id"]],
        )
        for node in graph["xnodes"]
    ]


def _as_json(payload: bytes) -> dict[str, Any]:
    """By flatc and the schema that ExecuTorch brings; the weights stand outside of what is read."""
    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    graph = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    with tempfile.TemporaryDirectory(prefix="swinv2-") as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(resources.files(serialization).joinpath("schema.fbs").read_bytes())
        binary.write_bytes(graph)
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        return json.loads(Path(folder, "graph.json").read_text())
