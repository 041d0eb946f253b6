"""Sums over channels, inside an ONNX graph, that do not depend on the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx_ir import Graph, Node

CHANNELS = 1


def sums_by_convolution(graph: Graph) -> None:
    """Replace sums over the channels of maps (B, C, H, W) by convolutions with a kernel of ones.

    onnxruntime adds in another order if B is 1, so that an image alone and in a batch differ in the last bit. A
    convolution adds in one order.

    Args:
        graph: A graph. It is changed.
    """
    for node in list(graph):
        if node.op_type == "ReduceSum" and (channels := _summed_channels(node)):
            _replace(graph, node, channels)


def _summed_channels(node: Node) -> int:
    """C of a sum (B, C, H, W) to (B, H, W). 0 for other sums."""
    values, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    kept = node.attributes.get("keepdims")
    if (
        values is None
        or values.shape is None
        or len(values.shape) != 4
        or axes is None
        or kept is None
        or kept.as_int()
    ):
        return 0
    known = axes.const_value
    channels = values.shape[CHANNELS]
    alone = known is not None and known.numpy().flatten().tolist() == [CHANNELS]
    return channels if alone and isinstance(channels, int) else 0


def _replace(graph: Graph, node: Node, channels: int) -> None:
    import onnx_ir
    from onnx_ir.tape import Tape

    tape = Tape()
    ones = tape.op("Constant", [], {"value": onnx_ir.tensor(np.ones((1, channels, 1, 1), np.float32))})
    axes = tape.op("Constant", [], {"value_ints": [CHANNELS]})
    summed = tape.op("Squeeze", [tape.op("Conv", [node.inputs[0], ones], {"kernel_shape": [1, 1]}), axes])
    old = node.outputs[0]
    summed.name, summed.shape, summed.type = old.name, old.shape, old.type
    old.name = f"{old.name}_before"
    graph.insert_before(node, tape.nodes)
    old.replace_all_uses_with(summed, replace_graph_outputs=True)
    graph.remove(node, safe=True)
