"""Affine maps in a graph: from one value to another through ops that are affine in it, taken apart into linear part and constant.

site = L(x) + c        L without the constants that are added on the way, c what becomes of x = 0
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rewrite.paths import OPENERS
from rewrite.run import needed
from rewrite.terms import Skip
from rewrite.unedited import is_unedited

aten = torch.ops.aten
ADDITIVE = (aten.add.Tensor, aten.sub.Tensor)
BILINEAR = (aten.mul.Tensor, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.einsum.default)  # in each tensor that it takes
WITH_BIAS: dict[Any, tuple[int, int, Any]] = {
    aten.linear.default: (0, 2, aten.linear.default),
    aten.addmm.default: (1, 0, aten.mm.default),
}  # where x and the bias are
LINEAR = frozenset(  # in their first argument
    getattr(aten, name).default
    for name in "alias clone contiguous neg reshape view permute unsqueeze expand slice select index_select flip _to_copy roll t".split()
    if hasattr(getattr(aten, name), "default")
) | {
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.index.Tensor,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.div.Tensor,
    aten.mul.Scalar,
    aten.to.dtype,
}


@dataclass(frozen=True, eq=False)
class Affine:
    """The map from `start` to `end`: the nodes between, in order, and the `outside` nodes that they read."""

    start: fx.Node
    end: fx.Node
    nodes: tuple[fx.Node, ...]
    outside: tuple[fx.Node, ...]

    @property
    def homogeneous(self) -> bool:
        """True if nothing is added on the way: zero stays zero."""
        inside = {self.start, *self.nodes}
        added = any(n not in inside for node in self.nodes if node.target in ADDITIVE for n in node.all_input_nodes)
        return not added and all(_bias(node) is None for node in self.nodes)

    def __call__(self, x: Tensor, values: Mapping[fx.Node, Any]) -> Tensor:
        """The map at `x`; `values` are those of the outside nodes."""
        return self._replayed(x, values, added=True)

    def linear(self, x: Tensor, values: Mapping[fx.Node, Any]) -> Tensor:
        """The map's linear part at `x`."""
        return self._replayed(x, values, added=False)

    def _replayed(self, x: Tensor, values: Mapping[fx.Node, Any], *, added: bool) -> Tensor:
        images: dict[fx.Node, Tensor] = {self.start: x}
        for node in self.nodes:
            images[node] = _image(node, images, values, added)
        return images[self.end]


def affine(start: fx.Node, end: fx.Node) -> Affine | Skip:
    """The map from `start` to `end`, or the reason why it is not affine."""
    inside: dict[fx.Node, None] = {start: None}
    nodes = []
    for node in sorted(needed([end], {start}), key=lambda n: n._sort_key):
        if node is not start and not is_unedited(node) and is_tensor(node) and any(n in inside for n in node.all_input_nodes):
            if not is_affine(node, inside):
                return Skip(f"{_op(node)} ({node.name}) on the way is not affine. {_advice(node)}")
            inside[node] = None
            nodes.append(node)
    if end not in inside:
        return Skip(f"it does not depend on {start.name}")
    outside = {n: None for node in nodes for n in node.all_input_nodes if n not in inside}
    return Affine(start, end, tuple(nodes), tuple(outside))


def is_tensor(node: fx.Node) -> bool:
    """True if the node's value is a tensor, not a size."""
    return isinstance(node.meta.get("val"), Tensor)


def is_affine(node: fx.Node, inside: Collection[fx.Node]) -> bool:
    """True if `node` is affine in those of its arguments that are `inside`."""
    args: Any = node.args
    live = [arg for arg in pytree.arg_tree_leaves(*args, **node.kwargs) if isinstance(arg, fx.Node) and arg in inside and is_tensor(arg)]
    if node.target in ADDITIVE:
        return all(isinstance(arg, fx.Node) for arg in args)
    if node.target in WITH_BIAS:
        return len(live) == 1 and args[WITH_BIAS[node.target][0]] is live[0] and not node.kwargs
    if node.target in BILINEAR:
        return len(live) == 1
    return node.target in LINEAR and len(live) == 1 and args[0] is live[0]


def _op(node: fx.Node) -> str:
    return str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target))


def _advice(node: fx.Node) -> str:
    opener = OPENERS.get(_op(node))
    if opener == "norm":
        return "norm writes a norm out, freeze holds its scale fixed: apply them first."
    return "Freeze a value behind it, or name a site before it."


def _bias(node: fx.Node) -> Any:
    place = WITH_BIAS.get(node.target, (0, len(node.args), None))[1]
    return node.args[place] if place < len(node.args) else None


def _image(node: fx.Node, images: Mapping[fx.Node, Tensor], values: Mapping[fx.Node, Any], added: bool) -> Tensor:
    """What becomes of `node`, given what became of its arguments; without `added`, of its linear part."""
    given: list[Any] = list(fx.map_arg(node.args, lambda n: images[n] if n in images else values[n]))  # type: ignore[arg-type]
    kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
    if not added and node.target in WITH_BIAS:
        _, place, plain = WITH_BIAS[node.target]
        return plain(*(value for i, value in enumerate(given) if i != place))
    if not added and node.target in ADDITIVE and any(n not in images for n in node.args):
        return _part_of_sum(node, given[0] if node.args[0] in images else None, given[1])
    return node.target(*given, **kwargs)  # type: ignore[operator]


def _part_of_sum(node: fx.Node, first: Tensor | None, second: Tensor) -> Tensor:
    """The first summand of an add or subtraction if it is there, else what the second one adds."""
    if first is not None:
        return first
    factor: Any = node.kwargs.get("alpha", 1)
    factor = -factor if node.target is aten.sub.Tensor else factor
    return second if factor == 1 else -second if factor == -1 else second * factor
