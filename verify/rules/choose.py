"""Choosing from a row by its order: topk, sorts, the largest and the smallest.

topk and argmax choose by weights that are random functions of (the row in its order, place, rank), since ties are told by position, and
by each op in a way of its own: only argmax and stable sorts agree on them. Values are the weighted sums, so a value equals what its
position gathers.
"""

from __future__ import annotations

from typing import Any

import torch

from verify.algebra import MOST_MEMBERS, Algebra
from verify.degree import FREE
from verify.rules.movement import moved
from verify.rules.rows import lines, normalised, presence
from verify.rules.table import Table, axes
from verify.value import Choice, Field, Value
from verify.world import Order

aten = torch.ops.aten


def in_order(descending: bool) -> Order:
    """The order in which equal elements stay as they were: that of stable sorts, and of argmax and argmin, which take the first."""
    return Order(f"stable {descending}", lambda t, dim: t.sort(stable=True, dim=dim, descending=descending)[1])


def rank_weights(a: Algebra, x: Field, dim: int, rank: int, order: Order) -> Field:
    """The weights that choose the element of one rank in an order along dim. Shapes: as `x`."""
    present, uniform, nothing = presence(x, dim)
    if uniform is not None or nothing is not None:
        a.refuse("a choice among masked elements only")
    clean = a.kept(a.steady(x), present)
    drawn = a.masked(a.world.rank_row(clean, present, dim, rank, order), present)
    count = torch.full((1,) * len(x.shape), x.shape[dim]) if present is None else present.sum(dim, keepdim=True)
    return Field(normalised(a, drawn, present, count, dim), FREE, None, None, x.undefined, x.dtype)


def topk(a: Algebra, x: Value, k: int, dim: int = -1, largest: bool = True, ordered: bool = True) -> tuple[Field, Choice]:
    """The k largest (or smallest) elements along dim and their positions. Which of equal ones depends on all that torch is told."""
    order = Order(f"topk {k} {largest} {ordered}", lambda t, dim: t.topk(k, dim, largest, ordered)[1])
    return ranked(a, x, k, dim, largest, order)


def ranked(a: Algebra, x: Value, k: int, dim: int, largest: bool, order: Order) -> tuple[Field, Choice]:
    """The first k elements along dim in an order, and their positions."""
    x = a.field(x)
    if not x.shape:
        values, at = ranked(a, x.each(lambda t: t.reshape(1)), k, 0, largest, order)
        return values.each(lambda t: t.reshape(())), Choice(at.weights.each(lambda t: t.reshape(1)))
    dim %= len(x.shape)
    present, _, _ = presence(x, dim)
    lasting = x.decided is not None and (not largest or 1 < k == x.shape[dim])  # masked elements are chosen whenever ids mask some
    if lasting or (present is not None and (not largest or int(present.sum(dim).min()) < k)):
        a.refuse("a choice that may fall on masked elements")
    stacked = moved(a, torch.stack, [rank_weights(a, x, dim, rank, order).each(lambda t: t.movedim(dim, -1)) for rank in range(k)], -2)
    finite = a.kept(x, None)  # masked elements have weight zero
    values = a.matmul(stacked, finite.each(lambda t: t.movedim(dim, -1).unsqueeze(-1))).each(lambda t: t.squeeze(-1).movedim(-1, dim))
    values.decided = None if x.decided is None else x.decided.any(dim, keepdim=True).expand(values.shape)
    return values, Choice(stacked.each(lambda t: t.movedim(-2, dim)), distinct=dim)


def sort(a: Algebra, x: Value, dim: int = -1, descending: bool = False, **_: Any) -> tuple[Field, Choice]:
    """All elements along dim in order, and their positions."""
    order = Order(f"sort {descending}", lambda t, dim: t.sort(dim=dim, descending=descending)[1])
    return ranked(a, x, x.shape[dim] if x.shape else 1, dim, descending, order)


def stable_sort(a: Algebra, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Field, Choice]:
    """aten.sort.stable, which need not be stable."""
    return ranked(a, x, x.shape[dim] if x.shape else 1, dim, descending, in_order(descending)) if stable else sort(a, x, dim, descending)


def extreme(a: Algebra, x: Value, dim: int, keepdim: bool, largest: bool) -> tuple[Field, Choice]:
    """The largest (or smallest) element along dim and its position."""
    x = a.field(x)
    values, at = ranked(a, x, 1, dim, largest, in_order(largest))
    if not x.shape:
        return values, at
    dim %= len(x.shape)
    if not x.tagged and (x.shape[dim] == 2 or a.world.theory == "maxima"):  # a gate, or a set: as for `amax`
        values = amax(a, x, dim, keepdim=True) if largest else a.neg(amax(a, a.neg(x), dim, keepdim=True))
    return (values, at) if keepdim else (values.each(lambda t: t.squeeze(dim)), Choice(at.weights.each(lambda t: t.squeeze(dim))))


def argmax(a: Algebra, x: Value, dim: int | None = None, keepdim: bool = False) -> Choice:
    """The position of the largest element."""
    return a.refuse("argmax over all dimensions") if dim is None else extreme(a, x, dim, keepdim, True)[1]


def argmin(a: Algebra, x: Value, dim: int | None = None, keepdim: bool = False) -> Choice:
    """The position of the smallest element."""
    return a.refuse("argmin over all dimensions") if dim is None else extreme(a, x, dim, keepdim, False)[1]


def amax(a: Algebra, x: Value, dims: Any = None, keepdim: bool = False) -> Field:
    """The largest element: of two a gate, of more a random function of the *set* of a row's values."""
    x = a.field(x)
    lined, shape = lines(x, axes(dims, len(x.shape)))
    out = _row_amax(a, lined)
    return out.each(lambda t: t.reshape(shape)) if keepdim else out


def _row_amax(a: Algebra, x: Field) -> Field:
    if x.shape[-1] == 1:
        return x.each(lambda t: t.squeeze(-1))
    if a.world.theory == "maxima" and x.shape[-1] <= MOST_MEMBERS and not x.tagged:
        return a.largest(*(member.each(lambda t, i=i: t[..., i]) for i in range(x.shape[-1]) for member in _members(x)))
    if x.shape[-1] == 2 and not x.tagged:
        return a.larger(x.each(lambda t: t[..., 0]), x.each(lambda t: t[..., 1]))
    present, uniform, nothing = presence(x, -1)
    if uniform is not None or nothing is not None:
        a.refuse("a maximum over masked elements only")
    if x.decided is not None:
        a.world.tally.note(a.world.tally.faint, a.node)
    undefined = None if x.undefined is None else x.undefined.any(-1)
    out = Field(a.world.largest_row(x, present), FREE, None, None, undefined, x.dtype)
    if x.tangent is None:
        return out
    return out.moving(a.sum(a.mul(a.first_weights(x, present), x.tangent), (len(x.shape) - 1,)))


def _members(x: Field) -> tuple[Field, ...]:
    form = x.made("max")
    return (x,) if form is None else form.operands


TABLE: Table = {
    aten.topk.default: topk,
    aten.sort.default: sort,
    aten.sort.stable: stable_sort,
    aten.max.dim: lambda a, x, dim, keepdim=False: extreme(a, x, dim, keepdim, True),
    aten.min.dim: lambda a, x, dim, keepdim=False: extreme(a, x, dim, keepdim, False),
    aten.argmax.default: argmax,
    aten.argmin.default: argmin,
    aten.amax.default: amax,
    aten.max.default: amax,
    aten.amin.default: lambda a, x, dims=None, keepdim=False: a.neg(amax(a, a.neg(x), dims, keepdim)),
    aten.min.default: lambda a, x: a.neg(amax(a, a.neg(x))),
}
