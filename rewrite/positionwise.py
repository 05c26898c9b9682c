"""Which ops treat positions apart: selecting positions before such an op is selecting them after it.

Only what a metric reads has to be computed from the last place on at which positions mix. The free size of positions has a name, so
the axis that it is in is known; it may be merged with the axes in front of it, as [batch * position, d_model].
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten
SAME = {aten.alias.default, aten.clone.default, aten.contiguous.default, aten._to_copy.default, aten.detach.default}
MOVING = {aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.expand.default}
OVER_AXES = {aten.mean.dim, aten.sum.dim_IntList, aten.var.correction, aten.amax.default, aten.softmax.int, aten._softmax.default,
             aten.log_softmax.int, aten._log_softmax.default, aten.squeeze.dim, aten.select.int}  # fmt: skip


def carrier(node: Any, size: sympy.Symbol) -> int | None:
    """The one axis of a node's value that is `size`, or merged of it and other free sizes; None if there is none or more."""
    axis = holder(node, size)
    if axis is None:
        return None
    found = node.meta["val"].shape[axis].node.expr
    return axis if found.is_Symbol or (found.is_Mul and all(one.is_Symbol for one in found.args)) else None


def holder(node: Any, size: sympy.Symbol) -> int | None:
    """The one axis of a node's value whose size depends on `size`; None if there is none or more."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor):
        return None
    found = [axis for axis, one in enumerate(value.shape) if _holds(one, size)]
    return found[0] if len(found) == 1 else None


def _holds(one: Any, size: sympy.Symbol) -> bool:
    return isinstance(one, torch.SymInt) and size in one.node.expr.free_symbols


def region(wanted: Iterable[Any], nodes: Iterable[fx.Node], positions: sympy.Symbol, whole: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes that can run at some positions only when `wanted` are read at these alone; `whole` are read at all positions.

    `nodes` are all that are needed, in order. Readers that are sizes do not count: they are numbers known from the inputs.
    """
    order = list(nodes)
    among, ends = set(order), {node for node in wanted if isinstance(node, fx.Node)}
    found: set[fx.Node] = set()
    for node in reversed(order):
        users = [user for user in node.users if user in among and not is_size(user)]
        read_so = all(user in found for user in users) and (users or node in ends)
        if read_so and node not in whole and commutes(node, positions):
            found.add(node)
    return found


def is_size(node: fx.Node) -> bool:
    """True if the node's value is a size."""
    return isinstance(node.meta.get("val"), torch.SymInt | int) and not isinstance(node.meta.get("val"), bool)


def commutes(node: fx.Node, size: sympy.Symbol) -> bool:
    """True if selecting entries of the axis of `size` before the op and after it are the same."""
    axis = carrier(node, size)
    if node.op != "call_function" or axis is None:
        return False
    among = [arg for arg in node.all_input_nodes if isinstance(arg.meta.get("val"), Tensor)]
    if any(_held(arg, size) and carrier(arg, size) is None for arg in among):
        return False  # twice in one value: positions against positions
    rule = _RULES.get(node.target)
    if rule is not None:
        return rule(node, axis, size)
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags and _aligned(node, axis, among, size)


def _held(node: fx.Node, size: sympy.Symbol) -> bool:
    return any(_holds(one, size) for one in node.meta["val"].shape)


def _shape(node: Any) -> Any:
    return node.meta["val"].shape


def _aligned(node: fx.Node, axis: int, among: list[fx.Node], size: sympy.Symbol) -> bool:
    """True if the axis is the same one of every argument that has it, counted from the back, and not merged in one and free in another."""
    behind = len(_shape(node)) - axis
    for arg in among:
        own = carrier(arg, size)
        if own is not None and (len(_shape(arg)) - own != behind or not statically_known_true(_shape(arg)[own] == _shape(node)[axis])):
            return False
    return True


def _only_first(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    """Only the first argument has positions."""
    return all(not isinstance(arg, fx.Node) or not isinstance(arg.meta.get("val"), Tensor) or not _held(arg, size) for arg in node.args[1:])


def _rows(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    own = carrier(node.args[0], size)
    return own is not None and own != len(_shape(node.args[0])) - 1 and _only_first(node, axis, size) and len(_shape(node.args[1])) == 2


def _addmm(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    bias, x, weight = node.args[:3]
    return carrier(x, size) == 0 and not any(_held(arg, size) for arg in (bias, weight) if isinstance(arg, fx.Node)) and axis == 0


def _norm(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    args: Any = node.args
    own = carrier(args[0], size)
    return own is not None and own < len(_shape(args[0])) - len(args[1]) and _only_first(node, axis, size)


def _over_axes(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    args: Any = node.args
    own, count = carrier(args[0], size), len(_shape(args[0]))
    axes = args[1] if len(args) > 1 else None
    listed = [axes] if isinstance(axes, int) else axes
    return own is not None and bool(listed) and all(isinstance(one, int) and one % count != own for one in listed)


def _moved(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    return not _held(node.args[0], size) or carrier(node.args[0], size) is not None  # type: ignore[arg-type]


def _reshaped(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    """What lies behind a position in memory stays behind it."""
    own = carrier(node.args[0], size)
    return own is not None and statically_known_true(_product(_shape(node.args[0])[own + 1 :]) == _product(_shape(node)[axis + 1 :]))


def _product(sizes: Any) -> Any:
    result: Any = 1
    for one in sizes:
        result = result * one
    return result


def _sliced(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    args: Any = node.args
    own, count = carrier(args[0], size), len(_shape(args[0]))
    dim, start, end, step = [*args[1:5], *(0, None, None, 1)[len(args[1:5]) :]]
    everything = start in (0, None) and (end is None or (isinstance(end, int) and end >= 2**62)) and step == 1
    return own is not None and (dim % count != own or everything)


def _joined(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    args: Any = node.args
    dim = args[1] if len(args) > 1 else 0
    return all(carrier(arg, size) == axis for arg in args[0]) and dim % len(_shape(node)) != axis


def _looked_up(node: fx.Node, axis: int, size: sympy.Symbol) -> bool:
    return not _held(node.args[0], size) and carrier(node.args[1], size) is not None  # type: ignore[arg-type]


_RULES: dict[Any, Any] = {
    **dict.fromkeys((*SAME, *MOVING), _moved),
    **dict.fromkeys(OVER_AXES, _over_axes),
    **dict.fromkeys((aten.linear.default, aten.mm.default, aten.matmul.default), _rows),
    **dict.fromkeys((aten.layer_norm.default, aten.rms_norm.default), _norm),
    aten.addmm.default: _addmm,
    aten.reshape.default: _reshaped,
    aten.slice.Tensor: _sliced,
    aten.cat.default: _joined,
    aten.embedding.default: _looked_up,
}
