"""Reading and writing by position: plain positions move elements, positions that depend on ids or on values choose softly.

A table W read by an id is sum_k w_k(id) W_k with random weights of sum one: linear in the one-hot vector, so what holds for all
weights holds for every id, and every row is exercised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from verify.algebra import Algebra
from verify.degree import FREE
from verify.rules.movement import moved
from verify.rules.table import Table
from verify.value import Choice, Concrete, Field, Value, is_value

aten = torch.ops.aten


def soft(index: Value) -> bool:
    """True if positions depend on ids or on values."""
    return isinstance(index, Choice) or (isinstance(index, Concrete) and index.atom is not None)


def weights(a: Algebra, index: Value, size: int) -> Field:
    """The weights of soft positions over `size` places. Shapes: [*index, size]."""
    if index.dtype == torch.bool:
        a.refuse("a shape that depends on ids")
    if isinstance(index, Choice):
        return index.weights if index.size == size else a.refuse(f"positions among {index.size} used among {size}")
    if index.data.numel() and (int(index.data.min()) < -size or int(index.data.max()) >= size):
        a.refuse(f"positions outside a table of {size}")
    return Field(a.world.atom_weights(index.atom, index.data, size), FREE)


def rows_at(a: Algebra, table: Field, index: Value, dim: int) -> Field:
    """`table` read at soft positions along dim, which the positions' own dims replace."""
    w = weights(a, index, table.shape[dim])
    if len(table.shape) == 2 and dim == 0:
        flat = a.matmul(w.each(lambda t: t.reshape(-1, t.shape[-1])), table)
        return flat.each(lambda t: t.reshape(*w.shape[:-1], table.shape[1]))
    front = table.each(lambda t: t.movedim(dim, 0))
    rest, lead = front.shape[1:], tuple(w.shape[:-1])
    flat = front.each(lambda t: t.reshape(t.shape[0], -1))
    out = a.matmul(w.each(lambda t: t.reshape(-1, t.shape[-1])), flat)
    n = len(lead)
    return out.each(lambda t: t.reshape(*lead, *rest)).each(lambda t: t.movedim(tuple(range(n)), tuple(range(dim, dim + n))) if n else t)


def plain(a: Algebra, index: Value) -> Any:
    """Positions as plain data."""
    if isinstance(index, Field) or soft(index):
        a.refuse("positions that depend on ids or on values, used other than to read or to add")
    return index.data if is_value(index) else index


def embedding(a: Algebra, table: Value, ids: Value, padding: int = -1, by_frequency: bool = False, *_: Any) -> Field:
    """Rows of a table, of which the one of padding does not move."""
    table = a.field(table)
    if table.tangent is not None and by_frequency:
        a.refuse("a derivative divided by how often an id occurs")
    if table.tangent is not None and padding >= 0:
        moving = torch.arange(table.shape[0]) != padding
        table = table.moving(a.kept(table.tangent, moving.unsqueeze(-1)))
    return rows_at(a, table, ids, 0) if soft(ids) else table.each(lambda t: t[plain(a, ids)])


def index(a: Algebra, x: Value, indices: Sequence[Value]) -> Value:
    """x[indices]."""
    x = a.field(x)
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if any(soft(i) for _, i in given):
        return rows_at(a, x, given[0][1], given[0][0]) if len(given) == 1 else _rows_beside(a, x, given)
    data = [None if i is None else plain(a, i) for i in indices]
    return x.each(lambda t: aten.index.Tensor(t, data))


def _rows_beside(a: Algebra, x: Field, given: Sequence[tuple[int, Value]]) -> Field:
    """x read at soft positions along some dims and, beside them, at plain ones along others."""
    loose, fixed = [(d, i) for d, i in given if soft(i)], [(d, plain(a, i)) for d, i in given if not soft(i)]
    dims = [d for d, _ in (*fixed, *loose)]
    rest = [d for d in range(len(x.shape)) if d not in dims]
    n, size = len(fixed), math.prod(x.shape[d] for d, _ in loose)
    front = x.each(lambda t: t.permute(*dims, *rest).reshape(*(t.shape[d] for d, _ in fixed), size, -1))
    read = front.each(lambda t: aten.index.Tensor(t, [i for _, i in fixed])) if n else front
    w = weights(a, _joint(a, [i for _, i in loose], [x.shape[d] for d, _ in loose]), size)
    out = a.matmul(w.each(lambda t: t.unsqueeze(-2)), read).each(lambda t: t.squeeze(-2))
    lead = len(out.shape) - 1
    to = min(dims) if max(dims) - min(dims) + 1 == len(dims) else 0
    out = out.each(lambda t: t.reshape(*t.shape[:-1], *(x.shape[d] for d in rest)))
    return out.each(lambda t: t.movedim(tuple(range(lead)), tuple(range(to, to + lead))))


def _joint(a: Algebra, indices: Sequence[Value], sizes: Sequence[int]) -> Value:
    """Positions along several dims as one along all of them."""
    if len(indices) == 1:
        return indices[0]
    if any(isinstance(i, Choice) or i.dtype == torch.bool for i in indices):
        a.refuse("positions that depend on values, along several dims")
    data = torch.zeros((), dtype=torch.int64)
    for i, size in zip(indices, sizes, strict=True):
        data = data * size + torch.where(i.data < 0, i.data + size, i.data)
    joined = a.world.oracles.absorb("joint", *(i.atom for i in indices))
    return Concrete(data, tuple(lane.expand(data.shape) for lane in joined))


def index_select(a: Algebra, x: Value, dim: int, at: Value) -> Value:
    """Slices of x along dim."""
    x = a.field(x)
    dim %= len(x.shape)
    at = at if at.shape else _in_a_row(a, at)
    return rows_at(a, x, at, dim) if soft(at) else x.each(lambda t: t.index_select(dim, plain(a, at)))


def _in_a_row(a: Algebra, at: Concrete | Choice) -> Value:
    """One position as a row of one."""
    return moved(a, lambda t: t.reshape(1), at) if isinstance(at, Choice) else _reshaped(at, (1,))


def _reshaped(x: Concrete, shape: Sequence[int]) -> Concrete:
    as_shape = lambda t: t.reshape(shape)  # noqa: E731
    return Concrete(as_shape(x.data), x.atom and tuple(map(as_shape, x.atom)), x.shadow and x.shadow.each(as_shape))


def gather(a: Algebra, x: Value, dim: int, at: Value, **_: Any) -> Field:
    """x read along dim, each result at a position of its own."""
    x = a.field(x)
    if not soft(at):
        return x.each(lambda t: t.gather(dim, plain(a, at)))
    dim %= len(x.shape)
    w = weights(a, at, x.shape[dim])
    cut = x.each(lambda t: t[tuple(slice(n) if d != dim else slice(None) for d, n in enumerate(at.shape))])
    ends = cut.each(lambda t: t.movedim(dim, -1).unsqueeze(-1))
    out = a.matmul(w.each(lambda t: t.movedim(dim, -2)), ends)
    return out.each(lambda t: t.squeeze(-1).movedim(-1, dim))


def one_hot(a: Algebra, at: Value, classes: int = -1) -> Field:
    """The weights themselves."""
    return weights(a, at, classes) if soft(at) else a.refuse("one_hot of a value")


def scatter(a: Algebra, x: Value, dim: int, at: Value, source: Value, **_: Any) -> Field:
    """x with `source` written at positions along dim; soft positions must be those of one topk, which are distinct."""
    x = a.field(x)
    source = a.field(source)
    if not soft(at):
        filled = source.each(lambda t: t.expand(at.shape))
        return moved(a, lambda t, s: t.scatter(dim, plain(a, at), s.to(t.dtype)), x, filled)
    dim %= len(x.shape)
    if not isinstance(at, Choice) or at.distinct != dim:
        a.refuse("it writes at positions that may be the same")
    w = weights(a, at, x.shape[dim]).each(lambda t: t.movedim(dim, -2))
    written = a.sum(a.mul(w, source.each(lambda t: t.expand(at.shape).movedim(dim, -1).unsqueeze(-1))), (-2 % len(w.shape),))
    kept = a.sub(1, a.sum(w, (-2 % len(w.shape),)))
    out = a.add(written, a.mul(kept, x.each(lambda t: t.movedim(dim, -1))))
    return out.each(lambda t: t.movedim(-1, dim))


def index_put(a: Algebra, x: Value, indices: Sequence[Value], values: Value, accumulate: bool = False) -> Field:
    """x with values written at plain positions, or one number where a mask is true."""
    first, *others = indices
    if not others and first is not None and soft(first) and first.dtype == torch.bool and not accumulate and math.prod(values.shape) == 1:
        more = (1,) * (len(x.shape) - len(first.shape))
        return a.where(_reshaped(first, (*first.shape, *more)), moved(a, lambda t: t.reshape(()), values), x)
    data = [None if i is None else plain(a, i) for i in indices]
    if accumulate:
        a.exact_sums()
        x, values = a.plain(x), a.plain(values)
        put = moved(a, lambda t, v: aten.index_put(t.double(), data, v.double(), True), x, values)
        return summed(a, put, values.parts[0].numel() + 1, x.dtype)
    return moved(a, lambda t, v: aten.index_put(t, data, v.to(t.dtype)), a.field(x), a.field(values))


def index_add(a: Algebra, x: Value, dim: int, at: Value, source: Value, *, alpha: float = 1) -> Field:
    """x with slices of source added along dim."""
    a.exact_sums()
    x, source = a.plain(x), a.scale(a.plain(source), alpha)
    if soft(at):
        w = weights(a, at if at.shape else _in_a_row(a, at), x.shape[dim]).each(lambda t: t.transpose(0, 1))
        rest = [n for d, n in enumerate(x.shape) if d != dim % len(x.shape)]
        ends = source.each(lambda t: t.movedim(dim, 0).reshape(w.shape[1], -1))
        added = a.matmul(w, ends).each(lambda t: t.reshape(-1, *rest).movedim(0, dim))
        return a.add(x, added)
    put = moved(a, lambda t, s: t.double().index_add(dim, plain(a, at), s.double()), x, source)
    return summed(a, put, source.shape[dim] + 1, x.dtype)


def summed(a: Algebra, x: Field, length: int, dtype: torch.dtype) -> Field:
    """Sums of up to `length` residues, reduced."""
    tidy = lambda v: tuple(a.math.tidy(i, part) for i, part in enumerate(v.parts))  # noqa: E731
    return a.linear(x, lambda v: Field(tidy(v), v.degree.summed(length), None, None, v.undefined, dtype))


TABLE: Table = {
    aten.embedding.default: embedding,
    aten.index.Tensor: index,
    aten.index_select.default: index_select,
    aten.gather.default: gather,
    aten.one_hot.default: one_hot,
    aten.scatter.src: scatter,
    aten.scatter.value: scatter,
    aten.index_put.default: index_put,
    aten.index_add.default: index_add,
}
