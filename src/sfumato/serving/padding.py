"""Sizes that a network cannot take: an ONNX graph pads its inputs and cuts its outputs itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_ir import Graph, Value
    from onnx_ir.tape import Tape


def pad_inside(graph: Graph, maps: Sequence[str], multiple: int, least: int, cut: bool) -> None:
    """Let a graph take maps of any height and width.

    The last row and column of each map are repeated up to the next multiple. Outputs are cut to the size of the input.

    Args:
        graph: A graph that takes sizes that are multiples. It is changed.
        maps: Names of its inputs (…, H, W), all of one size.
        multiple: What its heights and widths are multiples of.
        least: The smallest height and width that it takes, in multiples.
        cut: Whether its outputs are maps (…, H, W).
    """
    from onnx_ir.tape import Tape

    inputs = [value for value in graph.inputs if value.name in maps]
    if not inputs:
        return
    before, after = Tape(), Tape()
    size = before.op("Shape", [inputs[0]], {"start": -2})
    for value in inputs:
        _pad(before, value, size, multiple, least)
    graph.insert_before(graph[0], before.nodes)
    if cut:
        for place, value in enumerate(list(graph.outputs)):
            graph.outputs[place] = _cut(after, value, size)
        graph.extend(after.nodes)


def _pad(tape: Tape, value: Value, size: Value, multiple: int, least: int) -> None:
    import onnx_ir

    users = list(value.uses())
    whole = tape.op("Div", [tape.op("Add", [size, _numbers(tape, multiple - 1)]), _numbers(tape, multiple)])
    wanted = tape.op("Mul", [tape.op("Max", [whole, _numbers(tape, least)]), _numbers(tape, multiple)])
    pads = tape.op("Concat", [_numbers(tape, 0, 0), tape.op("Sub", [wanted, size])], {"axis": 0})
    padded = tape.op("Pad", [value, pads, None, _numbers(tape, -2, -1)], {"mode": "edge"})
    for node, place in users:
        if node.op_type != "Shape" or node.outputs[0] is not size:
            node.replace_input_with(place, padded)
    value.shape = onnx_ir.Shape(["batch", *list(value.shape or ())[1:-2], "height", "width"])


def _cut(tape: Tape, value: Value, size: Value) -> Value:
    import onnx_ir

    name, value.name = value.name, f"{value.name}_padded"
    found = tape.op("Slice", [value, _numbers(tape, 0, 0), size, _numbers(tape, -2, -1)])
    found.name, found.type = name, value.type
    found.shape = onnx_ir.Shape(["batch", *list(value.shape or ())[1:-2], "height", "width"])
    return found


def _numbers(tape: Tape, *values: int) -> Value:
    return tape.op("Constant", [], {"value_ints": list(values)})
