"""Operators on where numbers go: heads, slices, masks, positions, axes."""

from __future__ import annotations

import operator as python
from typing import Any

import torch
from torch import fx

from benchmarks.mutants.draft import Draft, alike, is_float, operator, val

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
COMPARISONS = (aten.le.Tensor, aten.lt.Tensor, aten.ge.Tensor, aten.gt.Tensor)
TRIANGLES = (aten.tril.default, aten.triu.default)
WITH_AXIS = (aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten.cumsum.default, aten.flip.default)
ENDLESS = 2**62


@operator
def wrong_head_slice(draft: Draft) -> bool:
    """Values, or a family's coordinates, are those of the next head."""
    heads = [(n, i) for n in draft.ops(SDPA) for i in (1, 2)]
    heads += [(n, 1) for n in draft.ops(aten.matmul.default) if is_float(n.args[1], 4)]
    heads += [(n, 1) for n in draft.ops(aten.bmm.default)]
    heads = [(n, i) for n, i in heads if is_float(n.args[i], 3) and val(n.args[i]).shape[-3] > 1]
    if heads:
        node, place = draft.choice.choice(heads)
        draft.arg(node, place, draft.before(node, aten.roll.default, node.args[place], [1], [val(node.args[place]).dim() - 3]))
    return bool(heads)


@operator
def off_by_one_slice(draft: Draft) -> bool:
    """A slice, or a piece of a split, begins and ends one too early or late."""
    slices = [n for n in draft.ops(aten.slice.Tensor) if is_float(n) and _room(*_bounds(n))]
    pieces = [n for n in draft.ops(python.getitem) if n.args[0].target in (aten.split.Tensor, aten.split_with_sizes.default)]  # type: ignore[union-attr]
    node = draft.pick([*slices, *[n for n in pieces if is_float(n) and _room(*_piece(n)[1:])]])
    if node is None:
        return False
    source, axis = (_piece(node)[0], _piece(node)[0].args[2] if len(_piece(node)[0].args) > 2 else 0) if node in pieces else (node, None)
    start, end, size = _piece(node)[1:] if node in pieces else _bounds(node)
    by = 1 if end < size else -1
    if node in pieces:
        whole = source.args[0]
        made = draft.before(node.next, aten.slice.Tensor, whole, axis, start + by, end + by)
        draft.instead(node, made)
    else:
        draft.call(node, aten.slice.Tensor, node.args[0], node.args[1] if len(node.args) > 1 else 0, start + by, end + by)
    return True


def _bounds(node: fx.Node) -> tuple[int, int, int]:
    args = [*node.args, *(0, None, None)[len(node.args) - 1 :]] if len(node.args) < 4 else list(node.args)
    size = int(val(node.args[0]).shape[args[1]])  # type: ignore[index]
    ends = [size if x is None or (isinstance(x, int) and x > ENDLESS) else x for x in (args[2] or 0, args[3])]
    if len(node.args) > 4 or not all(isinstance(x, int) for x in ends):
        return 0, size, size
    start, end = (x + size if x < 0 else min(x, size) for x in ends)  # type: ignore[operator, type-var]
    return int(start), int(end), size


def _room(start: int, end: int, size: int) -> bool:
    return 0 <= start < end <= size and end - start < size


def _piece(node: fx.Node) -> tuple[fx.Node, int, int, int]:
    """The split that a piece is of, where it begins and ends, and the size of the axis."""
    source: Any = node.args[0]
    sizes = [int(piece.shape[source.args[2] if len(source.args) > 2 else 0]) for piece in val(source)]
    number: Any = node.args[1]
    return source, sum(sizes[:number]), sum(sizes[: number + 1]), sum(sizes)


@operator
def off_by_one_mask(draft: Draft) -> bool:
    """A position sees one more, or one fewer."""
    causal = [n for n in draft.ops(SDPA) if n.kwargs.get("is_causal") or (len(n.args) > 5 and n.args[5])]
    compared = [n for n in draft.ops(*COMPARISONS) if not is_float(n.args[0]) and not is_float(n.args[1])]
    node = draft.pick([*causal, *compared, *draft.ops(*TRIANGLES)])
    if node is None:
        return False
    if node in causal:
        scores = draft.before(node, aten.matmul.default, node.args[0], draft.before(node, aten.transpose.int, node.args[1], -2, -1))
        ones = draft.before(node, aten.ones_like.default, scores, dtype=torch.bool)
        rest = {k: v for k, v in node.kwargs.items() if k not in ("is_causal", "attn_mask")}
        draft.call(node, SDPA, *node.args[:3], draft.before(node, aten.tril.default, ones, 1), **rest)
    elif node.target in TRIANGLES:
        diagonal: Any = node.args[1] if len(node.args) > 1 else 0
        draft.call(node, node.target, node.args[0], diagonal + 1)
    else:
        draft.arg(node, 1, draft.before(node, aten.add.Tensor, node.args[1], 1))
    return True


@operator
def shift_positions(draft: Draft) -> bool:
    """A value rolled by one position along its second axis."""
    node = draft.pick(
        draft.ops(aten.linear.default, aten.add.Tensor, aten.layer_norm.default), lambda n: is_float(n, 3) and val(n).shape[1] > 1
    )
    if node is not None:
        draft.after(node, aten.roll.default, [1], [1])
    return node is not None


@operator
def positions_from_one(draft: Draft) -> bool:
    """Positions are counted from one."""
    node = draft.pick(draft.ops(aten.arange.default, aten.arange.start, aten.arange.start_step), lambda n: not is_float(n))
    if node is not None:
        draft.after(node, aten.add.Tensor, 1)
    return node is not None


@operator
def another_row_of_positions(draft: Draft) -> bool:
    """A table of positions, numbers of a graph alone, is read one row further on: the last row twice."""
    inputs = {n for n in draft.nodes if n.name in draft.leaves and draft.leaves[n.name].kind == "input"}
    tables = [n for n in draft.ops(aten.embedding.default) if n.args[1] not in inputs and val(n.args[0]).shape[0] > val(n.args[1]).numel()]
    node = draft.pick(tables)
    if node is not None:
        draft.arg(node, 1, draft.before(node, aten.add.Tensor, node.args[1], 1))
    return node is not None


@operator
def wrong_axis(draft: Draft) -> bool:
    """A softmax, sum or mean over another axis."""
    node = draft.pick([*draft.ops(*WITH_AXIS), *draft.ops(aten.mean.dim, aten.var.correction, aten.sum.dim_IntList)], _has_other_axis)
    if node is None:
        return False
    given: Any = node.args[1]
    axis = given[0] if isinstance(given, (list, tuple)) else given
    size = val(node.args[0]).dim()
    other = draft.choice.choice([a for a in range(size) if a != axis % size and val(node.args[0]).shape[a] > 1])
    draft.arg(node, 1, [other] if isinstance(node.args[1], (list, tuple)) else other)
    return True


def _has_other_axis(node: fx.Node) -> bool:
    kept = node.target in WITH_AXIS or (len(node.args) > 2 and node.args[2] is True) or node.kwargs.get("keepdim") is True
    axes = node.args[1] if len(node.args) > 1 else None
    one = isinstance(axes, int) or (isinstance(axes, (list, tuple)) and len(axes) == 1)
    return kept and one and is_float(node, 2) and sum(s > 1 for s in val(node.args[0]).shape) > 1


@operator
def wrong_broadcast(draft: Draft) -> bool:
    """One row, or the first position, of an operand stands for all."""
    node = draft.pick(draft.ops(aten.add.Tensor, aten.mul.Tensor), lambda n: any(_wide(n, i) for i in range(2)))
    if node is None:
        return False
    place = draft.choice.choice([i for i in range(2) if _wide(node, i)])
    axis = draft.choice.choice([a for a, size in enumerate(val(node.args[place]).shape) if size > 1])
    draft.arg(node, place, draft.before(node, aten.slice.Tensor, node.args[place], axis, 0, 1))
    return True


def _wide(node: fx.Node, place: int) -> bool:
    """True if the other operand alone makes the shape of the result."""
    return is_float(node.args[place], 2) and alike(node.args[1 - place], node) and any(s > 1 for s in val(node.args[place]).shape)


@operator
def queries_for_keys(draft: Draft) -> bool:
    """Attention with queries and keys exchanged."""
    node = draft.pick(draft.ops(SDPA), lambda n: alike(n.args[0], n.args[1]))
    if node is not None:
        draft.call(node, SDPA, node.args[1], node.args[0], *node.args[2:], **node.kwargs)
    return node is not None


@operator
def other_values(draft: Draft) -> bool:
    """Attention reads its keys where it should read values."""
    node = draft.pick(draft.ops(SDPA), lambda n: alike(n.args[1], n.args[2]))
    if node is not None:
        draft.arg(node, 2, node.args[1])
    return node is not None
