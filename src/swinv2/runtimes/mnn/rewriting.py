"""The ONNX graph in the operators from which MNN makes exact and fast ones.

Its converter turns a product of tokens and weights into a convolution between computed reshapes: here they are written
out, with numbers. It takes every known spelling of GELU for the tanh approximation, which parts from the exact one by
5e-4, and the error function itself runs value by value: here GELU is a logistic of a polynomial, 3e-6 from exact.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

# gelu(x) = x * sigmoid(x * p(x * x)), lowest power first: fitted over [-12, 12] for the smallest largest error.
GELU = (1.59565627, 0.0729375814, -0.000249722878, -6.11620961e-05, 2.23816945e-06)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network; linear layers are 1 x 1 convolutions of [tokens, C, 1, 1], GELU is spelled out."""
    return _Rewriter(model).rewrite()


class _Rewriter:
    """Walks a graph once; self.maps knows which tokens [..., C] also exist as [M, C, 1, 1]."""

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        self.shapes = {value.name: shape(value) for value in (*inferred.value_info, *inferred.output)}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.nodes: list[NodeProto] = []
        self.maps: dict[str, str] = {}
        self.new: dict[str, TensorProto] = {}

    def rewrite(self) -> onnx.ModelProto:
        done: set[str] = set()
        for node in self.model.graph.node:
            if node.name in done:
                continue
            if self.is_linear(node):
                done |= self.linear(node)
            elif node.op_type == "Gelu":
                self.gelu(node)
            else:
                self.nodes.append(node)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for name, tensor in self.weights.items() if name in used]
        old, constants = self.model.graph, [*kept, *self.new.values()]
        graph = helper.make_graph(self.nodes, old.name, old.input, old.output, constants)
        opsets = self.model.opset_import
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.model.ir_version)

    def is_linear(self, node: NodeProto) -> bool:
        return node.op_type == "MatMul" and node.input[1] in self.weights

    def linear(self, node: NodeProto) -> set[str]:
        """A product and the addition of its bias; returns the names of the nodes that it stands for."""
        weight = numpy_helper.to_array(self.weights[node.input[1]])  # K N
        inputs, result, done = [], node.output[0], {node.name}
        readers = self.readers[result]
        if len(readers) == 1 and readers[0].op_type == "Add" and readers[0].input[1] in self.weights:
            inputs, result = [readers[0].input[1]], readers[0].output[0]
            done.add(readers[0].name)
        kernel = self.constant(f"{node.name}.kernel", weight.T[:, :, None, None])  # N K 1 1
        x = self.maps.get(node.input[0]) or self.reshape(
            node.input[0], f"{node.name}.map", -1, len(weight), 1, 1
        )
        self.maps[result] = self.add("Conv", f"{node.name}.conv", x, kernel, *inputs)
        self.tokens(result)
        return done

    def gelu(self, node: NodeProto) -> None:
        """In the layout in which the values are."""
        x = self.maps.get(node.input[0], node.input[0])
        t = self.add("Mul", f"{node.name}.square", x, x)
        p = self.constant(f"gelu.{len(GELU) - 1}", np.float32(GELU[-1]))
        for power in range(len(GELU) - 2, -1, -1):
            p = self.add("Mul", f"{node.name}.times{power}", t, p)
            p = self.add(
                "Add", f"{node.name}.plus{power}", p, self.constant(f"gelu.{power}", np.float32(GELU[power]))
            )
        share = self.add("Sigmoid", f"{node.name}.share", self.add("Mul", f"{node.name}.bent", p, x))
        y = self.add("Mul", f"{node.name}.result", x, share)
        assert node.input[0] in self.maps, "GELU follows a linear layer"
        self.maps[node.output[0]] = y
        self.tokens(node.output[0])

    def tokens(self, name: str) -> None:
        """The map of this name in its own shape, where anything reads it so; what nothing reads is the answer."""
        readers = self.readers[name]
        if not readers or any(not self.is_linear(node) and node.op_type != "Gelu" for node in readers):
            self.reshape(self.maps[name], name, *self.shapes[name])

    def reshape(self, x: str, result: str, *shape: int) -> str:
        sizes = self.constant("shape." + "x".join(map(str, shape)), np.array(shape, np.int64))
        return self.add("Reshape", result, x, sizes)

    def add(self, operator: str, result: str, *inputs: str) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [result], name=f"{result}/{operator}"))
        return result

    def constant(self, name: str, values: np.ndarray | np.float32) -> str:
        self.new[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name


def shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes; -1 for the one that the batch decides."""
    sizes = [
        size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim
    ]
    assert sizes.count(-1) <= 1, value
    return sizes
