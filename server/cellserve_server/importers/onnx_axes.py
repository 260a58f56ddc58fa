"""Moving the axes of values that flow through an ONNX graph: what Transpose, Reshape or Slice do to their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_values import (
    DIRECTIONS,
    FEATURES,
    Axis,
    BothStage,
    CellStage,
    Dims,
    FinalState,
    Flow,
    Part,
    length_of,
    names,
)

HALVES = ("forward", "backward")
FAR = (1 << 31) - 1


def transposed(node: Node, flow: Flow, order: Sequence[int] | None) -> Flow:
    """Axes in another order; None: reversed."""
    count = len(flow.axes)
    order = list(range(count))[::-1] if order is None else [at(node, index, count) for index in order]
    if sorted(order) != list(range(count)):
        raise node.refuse(f"expected an order of {count} axes; got {order}")
    return flow.moved([flow.axes[index] for index in order])


def squeezed(node: Node, flow: Flow, axes: Sequence[int] | None) -> Flow:
    """Without axes of length 1; None: all of them."""
    count = len(flow.axes)
    if axes is None:
        gone = {index for index, axis in enumerate(flow.axes) if length_of(axis) == 1}
    else:
        gone = {at(node, index, count) for index in axes}
    for index in gone:
        if length_of(flow.axes[index]) != 1:
            raise node.refuse(f"expected axis {index} to be of length 1; it is {axis_text(flow.axes[index])}")
    return flow.moved([axis for index, axis in enumerate(flow.axes) if index not in gone])


def unsqueezed(node: Node, flow: Flow, axes: Sequence[int]) -> Flow:
    """With new axes of length 1 at these places of the result."""
    count = len(flow.axes) + len(axes)
    places = {at(node, index, count) for index in axes}
    rest = iter(flow.axes)
    return flow.moved([() if index in places else next(rest) for index in range(count)])


def reshaped(node: Node, flow: Flow, target: Dims, zero_copies: bool = True) -> Flow:
    """The same elements under other axes: products of whole parts of those that there are, in their order."""
    wanted: list[int | Axis | None] = list(target.lengths)
    for index, length in enumerate(wanted):
        if length == 0 and zero_copies:
            if index >= len(flow.axes):
                raise node.refuse(f"axis {index} is to be copied, and there are {len(flow.axes)}")
            wanted[index] = flow.axes[index]
    # A length that the graph computes and that was not followed can only be whatever is left over.
    free = [index for index, length in enumerate(wanted) if length in (-1, None)]
    if len(free) > 1:
        raise node.refuse("expected a shape in which at most one length is open")
    parts = [part for axis in flow.axes for part in axis]
    if not free:
        axes, left = _taken(node, wanted, parts)
    else:
        before, left = _taken(node, wanted[: free[0]], parts)
        after, left = _taken(node, wanted[free[0] + 1 :][::-1], left[::-1], backwards=True)
        axes, left = [*before, tuple(left[::-1]), *after[::-1]], []
    if any(part.length != 1 or part.meaning == FEATURES for part in left):
        raise node.refuse(f"the shape leaves out {axis_text(tuple(left))}")
    return flow.moved(axes)


def _taken(
    node: Node, wanted: Sequence[int | Axis | None], parts: Sequence[Part], backwards: bool = False
) -> tuple[list[Axis], list[Part]]:
    """The parts from the front that make up each length; with ``backwards`` lengths and parts come from the end."""
    left, axes = list(parts), []
    for length in wanted:
        assert length is not None, "open lengths are left to the caller"
        taken: list[Part] = []
        if isinstance(length, tuple):
            # Named by its parts, so these they are.
            taken, left = left[: len(length)], left[len(length) :]
            if names(tuple(taken)) != names(length[::-1] if backwards else length):
                raise node.refuse(f"expected {axis_text(length)} where {axis_text(tuple(taken))} is")
        else:
            taken, left = _product(node, length, left)
        axes.append(tuple(taken[::-1] if backwards else taken))
    return axes, left


def _product(node: Node, length: int, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """The parts from the front whose product is a length, and the rest."""
    left, product = list(parts), 1
    taken: list[Part] = []
    while product != length or (length == 1 and not taken and left and left[0].length == 1):
        if left and left[0].length is None and product == 1:
            # A length that is open elsewhere and fixed here is this one.
            return [left[0]], left[1:]
        if not left or left[0].length is None or product > length:
            raise node.refuse(f"expected a length of {length}; got {axis_text((*taken, *left[:1]))}")
        part = left.pop(0)
        product *= part.length or 0
        taken.append(part)
    # A batch of one that is joined to another axis is no part of that axis' meaning.
    return ([part for part in taken if part.length != 1] if length != 1 else taken), left


def picked(node: Node, flow: Flow, axis: int, index: int, keeps_axis: bool) -> Flow:
    """One element of an axis: of the directions one, of the time the last."""
    axis = at(node, axis, len(flow.axes))
    parts = flow.axes[axis]
    length = length_of(parts)
    left = [() if i == axis else each for i, each in enumerate(flow.axes)]
    if not keeps_axis:
        del left[axis]
    if names(parts) == [DIRECTIONS] and index in (-2, -1, 0, 1):
        return replace(flow.moved(left), half=HALVES[index])
    if length == 1 and index in (-1, 0) and not parts:
        return flow.moved(left)
    if len(parts) == 1 and (index == -1 or (length is not None and index == length - 1)):
        return _last_of(node, flow, left)
    raise node.refuse(f"takes element {index} of {axis_text(parts)}; the last step, or one direction, can be served")


def picked_state(node: Node, state: FinalState, axis: int, index: int, keeps_axis: bool) -> Flow | FinalState:
    """One of several layers' final states: ``h_n[-1]`` of PyTorch."""
    if axis != 0 or not state.layers or not -len(state.layers) <= index < len(state.layers):
        return FinalState(state.node)
    flow = state.layers[index]
    return flow if keeps_axis else flow.moved(flow.axes[1:])


def _last_of(node: Node, flow: Flow, left: Sequence[Axis]) -> Flow:
    if not flow.stages:
        raise node.refuse("takes one element of the graph's input")
    if flow.has_lengths:
        raise node.refuse("takes the last step, which is not each row's own last step where rows have lengths")
    return replace(flow.moved(left), only_last=True)


def sliced(node: Node, flow: Flow, axis: int, start: int, stop: int, step: int) -> Flow:
    """A piece of an axis: all of it, one direction, the last step."""
    axis = at(node, axis, len(flow.axes))
    parts, length = flow.axes[axis], length_of(flow.axes[axis])
    if step == 1 and start == 0 and stop >= (FAR if length is None else length):
        return flow
    if step == 1 and names(parts) == [DIRECTIONS]:
        chosen = range(2)[start:stop]
        if len(chosen) == 1:
            return picked(node, flow, axis, chosen[0], keeps_axis=True)
    if step == 1 and names(parts) == [DIRECTIONS, FEATURES] and length is not None:
        half = length // 2
        chosen = range(length)[start:stop]
        for name, begin in zip(HALVES, (0, half), strict=True):
            if chosen == range(begin, begin + half):
                axes = list(flow.axes)
                axes[axis] = (parts[1],)
                return replace(flow.moved(axes), half=name)
    if step == 1 and len(parts) == 1 and parts[0].meaning != FEATURES and _is_last(start, stop, length):
        return picked(node, flow, axis, -1, keeps_axis=True)
    raise node.refuse(
        f"takes {start}:{stop}:{step} of {axis_text(parts)}; the last step, or one direction, can be served"
    )


def _is_last(start: int, stop: int, length: int | None) -> bool:
    if length is None:
        return start == -1 and stop >= FAR
    return list(range(length)[start:stop]) == [length - 1]


def split(node: Node, flow: Flow, axis: int, count: int) -> list[Flow]:
    """Equal pieces of an axis: the directions."""
    axis = at(node, axis, len(flow.axes))
    length = length_of(flow.axes[axis])
    if count == 1:
        return [flow]
    if count != 2 or length is None or DIRECTIONS not in names(flow.axes[axis]):
        raise node.refuse(f"parts {axis_text(flow.axes[axis])} into {count}; only two directions can be parted")
    half = length // 2
    return [sliced(node, flow, axis, begin, begin + half, 1) for begin in (0, half)]


def joined(node: Node, flows: Sequence[Flow], axis: int) -> Flow:
    """The two directions side by side again, or those of two nodes that ran over the same sequence from both ends."""
    count = len(flows[0].axes)
    axis = at(node, axis, count)
    if len(flows) == 1:
        return flows[0]
    first, second = flows[0], flows[-1]
    both = both_directions(node, flows)
    if len(flows) != 2 or both is None:
        raise node.refuse("joins values that are not the two directions of one layer; this cannot be served")
    parts = first.axes[axis]
    if first.axes != second.axes or names(parts) not in ([], [FEATURES]):
        raise node.refuse("joins the two directions along an axis that is not their features")
    axes = list(first.axes)
    axes[axis] = (Part(DIRECTIONS, 2), *parts)
    return replace(first.moved(axes), half="", stages=(*first.stages[:-1], both))


def both_directions(node: Node, flows: Sequence[Flow]) -> BothStage | None:
    """The stage of which these are forward and backward, in this order; None: they are not."""
    if len(flows) != 2 or not flows[0].stages or not flows[1].stages:
        return None
    one, other = flows[0].stages[-1], flows[1].stages[-1]
    if isinstance(one, BothStage) and one is other and (flows[0].half, flows[1].half) == HALVES:
        found = one
    elif isinstance(one, CellStage) and isinstance(other, CellStage):
        same_below = flows[0].stages[:-1] == flows[1].stages[:-1] and flows[0].source == flows[1].source
        if not same_below or (one.backward, other.backward) != (False, True):
            return None
        found = BothStage(one.cell, other.cell, one.node)
    else:
        return None
    if flows[0].only_last or flows[1].only_last:
        raise node.refuse("joins the last step of both directions; the backward one's is the sequence's first step")
    return found


def at(node: Node, axis: int, count: int) -> int:
    """The number of an axis, counted from the front."""
    if not -count <= axis < count:
        raise node.refuse(f"expected an axis of {count}; got {axis}")
    return axis % count


def axis_text(axis: Axis) -> str:
    """An axis for messages."""
    parts = [f"{part.meaning}" + (f" ({part.length})" if part.length is not None else "") for part in axis]
    return " x ".join(parts) or "an axis of length 1"
