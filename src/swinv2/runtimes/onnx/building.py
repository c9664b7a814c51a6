"""An ONNX graph, node by node: names, constants and operators, without a tracer in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

INDEX = np.dtype(np.int64)


class Graph:
    """Grows by op(); every operator is named after the module that it belongs to.

    Args:
        opset: of the standard domain.
        dtype: of weights and activations, float32 or float16.
    """

    def __init__(self, opset: int, dtype: np.dtype | type = np.float32):
        self.opset, self.dtype = opset, np.dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._scope: list[str] = []
        self._taken: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Operators made inside are named "name/Operator"; scopes nest with dots."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def op(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append an operator; returns the name of its result, or a list of them for several outputs."""
        from onnx import helper

        name = self._name(operator)
        results = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), results, name=name, **attributes))
        return results[0] if outputs == 1 else results

    def constant(self, name: str, values: np.ndarray) -> str:
        """A constant of the current scope: floating values in the graph's dtype, whole ones as they are."""
        full = self._name(name, between=".")
        return self._store(full, values.astype(self.dtype) if values.dtype.kind == "f" else values)

    def exact(self, name: str, values: np.ndarray) -> str:
        """A constant of the current scope in its own dtype."""
        return self._store(self._name(name, between="."), values)

    def shared(self, name: str, values: np.ndarray) -> str:
        """A constant outside of all scopes, which is stored once under a name."""
        return name if name in self._constants else self._store(name, values)

    def numbers(self, *values: int) -> str:
        """A shape, axes or the ends of a slice; one constant for all that are equal."""
        return self.shared("whole." + "x".join(map(str, values)), np.array(values, INDEX))

    def number(self, value: float, dtype: np.dtype | type | None = None) -> str:
        """A scalar in the graph's dtype, or another."""
        kind = np.dtype(dtype or self.dtype)
        return self.shared(f"number.{value!r}.{kind.name}", np.array(value, kind))

    def model(
        self,
        inputs: Sequence[tuple[str, Sequence[int | str]]],
        outputs: Sequence[tuple[str, str, Sequence[int | str]]],
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
            inputs: name and shape, float32.
            outputs: name, the result it is, and its shape, float32.
        """
        import onnx
        from onnx import TensorProto, helper

        renamed = {result: name for name, result, _ in outputs}
        for node in self._nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name in renamed:
                        names[i] = renamed[name]
        graph = helper.make_graph(
            self._nodes,
            "swinv2",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
                for name, _, shape in outputs
            ],
            initializer=list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return onnx.helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="swinv2",
        )

    def _name(self, name: str, between: str = "/") -> str:
        scope = ".".join(self._scope)
        full = f"{scope}{between}{name}" if scope else name
        count = self._taken.get(full, 0)
        self._taken[full] = count + 1
        return f"{full}_{count + 1}" if count else full

    def _store(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        assert name not in self._constants, name
        self._constants[name] = numpy_helper.from_array(
            np.ascontiguousarray(values).reshape(values.shape), name
        )
        return name
