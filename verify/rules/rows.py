"""Softmax and attention. A row's softmax is a random function with the laws of the true one: it sees x up to a shift, treats the
elements alike, and sums to one.

With n elements present, t = n x - sum x and R a random function of (t_i, the multiset of the row's t, n):
s_i = R_i + (1 - sum R) / n. Masked elements are absent; a row of smallest finite numbers alone is uniform, one of -inf alone undefined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verify.algebra import Algebra
from verify.degree import FREE
from verify.rules.movement import moved
from verify.rules.table import Table, axes
from verify.value import Concrete, Field, Value, either, some

aten = torch.ops.aten


def presence(x: Field, dim: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Which elements are present (None: all), in which rows only smallest numbers are, and in which nothing is.

    What ids mask is present, but in rows where they mask all.
    """
    masked, absent = x.masked, x.absent
    if masked is None:
        return None, None, None
    empty = masked.all(dim, keepdim=True)
    present = ~empty & (torch.ones_like(masked) if absent is None else ~absent)
    faint = torch.zeros_like(present) if x.soft is None else x.soft & empty
    uniform = faint.any(dim, keepdim=True)
    return present | faint, some(uniform), some(empty & ~uniform)


def row_shift(a: Algebra, x: Field, present: Tensor | None, dim: int) -> tuple[Field, Tensor]:
    """t = n x - sum x over those present, and n. Shapes: as `x`, and with size 1 at dim."""
    parts = a.masked(tuple(part.double() for part in x.parts), present)
    count = torch.full((1,) * len(x.shape), x.shape[dim]) if present is None else present.sum(dim, keepdim=True)
    shifted = tuple(a.math.tidy(i, part * count - a.world.row_total(part, count, dim)) for i, part in enumerate(parts))
    return replace(
        x, parts=a.masked(shifted, present), degree=x.degree.summed(x.shape[dim]), hard=None, soft=None, decided=None, along=None
    ), count


def softmax(a: Algebra, x: Value, dim: int, *_: Any, **__: Any) -> Field:
    """The softmax along dim."""
    x = a.field(x)
    if not x.shape:
        return softmax(a, x.each(lambda t: t.reshape(1)), 0).each(lambda t: t.reshape(()))
    dim %= len(x.shape)
    present, uniform, nothing = presence(x, dim)
    if uniform is not None or nothing is not None:
        flat_rows = either(uniform, nothing)
        x = replace(x, parts=tuple(part.masked_fill(flat_rows, 0.0) for part in x.parts), along=None).moving(x.tangent)
    shifted, count = row_shift(a, x, present, dim)
    drawn = a.masked(a.world.softmax_row(shifted, present, dim), present)
    parts = normalised(a, drawn, present, count, dim)
    if uniform is not None:
        share = a.inverses(count)
        kept = 1 if present is None else present
        parts = tuple(torch.where(uniform, s * kept, part) for s, part in zip(share.parts, parts, strict=True))
    undefined = None if x.undefined is None else x.undefined.any(dim, keepdim=True).expand(x.shape)
    nothing = None if nothing is None else nothing.expand(x.shape)
    out = Field(parts, FREE, None, None, either(undefined, nothing), x.dtype)
    out = out if x.tangent is None else out.moving(_softmax_slope(a, out, x.tangent, dim))
    return out if a.world.theory != "exponents" or x.tagged else out.formed("softmax", x, dim=dim)


def _softmax_slope(a: Algebra, s: Field, tangent: Field, dim: int) -> Field:
    """s (dx - sum s dx): of a sum of s that is one, and zero where s is."""
    s = replace(s, undefined=None)
    return a.mul(s, a.sub(tangent, a.sum(a.mul(s, tangent), (dim,), keepdim=True)))


def normalised(a: Algebra, drawn: tuple[Tensor, ...], present: Tensor | None, count: Tensor, dim: int) -> tuple[Tensor, ...]:
    """R_i + (1 - sum R) / n for those present, so that each row sums to one."""
    share = a.inverses(count)
    lacking = [a.math.tidy(i, 1 - part.sum(dim, keepdim=True)) for i, part in enumerate(drawn)]
    rest = [a.math.tidy(i, lack * s) for i, (lack, s) in enumerate(zip(lacking, share.parts, strict=True))]
    return a.masked(tuple(a.math.tidy(i, part + r) for i, (part, r) in enumerate(zip(drawn, rest, strict=True))), present)


def logsumexp(a: Algebra, x: Value, dims: Any, keepdim: bool = False) -> Field:
    """mean x + L(row): a shift of the row shifts it, the rest is a function of the multiset of t."""
    x = a.plain(x)
    lined, shape = lines(x, axes(dims, len(x.shape)))
    shifted, _ = row_shift(a, lined, None, -1 % len(lined.shape))
    row = Field(a.world.logsumexp_row(shifted, -1 % len(lined.shape)), FREE, None, None, None, x.dtype)
    last = -1 % len(lined.shape)
    out = a.add(a.mean(a.steady(lined), (last,), keepdim=True), row)
    if lined.tangent is not None:
        out = out.moving(a.sum(a.mul(softmax(a, a.steady(lined), -1), lined.tangent), (last,), keepdim=True))
    return out.each(lambda t: t.reshape(shape if keepdim else lined.shape[:-1]))


def lines(x: Field, dims: Sequence[int]) -> tuple[Field, list[int]]:
    """`x` with `dims` flattened into one last dim, and the shape that a result has which keeps them at size 1."""
    kept = [d for d in range(len(x.shape)) if d not in dims]
    length = math.prod(x.shape[d] for d in dims)
    lined = x.each(lambda t: t.permute([*kept, *dims]).reshape([*(t.shape[d] for d in kept), length]))
    return lined, [1 if d in dims else n for d, n in enumerate(x.shape)]


def log_softmax(a: Algebra, x: Value, dim: int, *_: Any, **__: Any) -> Field:
    """x - logsumexp x."""
    return a.sub(x, logsumexp(a, x, (dim,), keepdim=True))


def safe_softmax(a: Algebra, x: Value, dim: int, dtype: Any = None) -> Field:
    """The softmax, zero in rows of -inf alone."""
    x = a.field(x)
    out = softmax(a, x, dim)
    return out if x.hard is None else a.where(Concrete(x.hard.all(dim, keepdim=True)), 0.0, out)


def attention(
    a: Algebra, q: Value, k: Value, v: Value, attn_mask: Value = None, dropout_p: float = 0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Field:  # fmt: skip
    """softmax(q k^T scale + mask) v; rows with nothing to attend to are zero."""
    if dropout_p:
        a.refuse("attention dropout")
    q, k, v = a.field(q), a.field(k), a.field(v)
    if enable_gqa:
        k, v = (moved(a, lambda t: t.repeat_interleave(q.shape[-3] // t.shape[-3], -3), x) for x in (k, v))
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = a.scale(a.matmul(q, k.each(lambda t: t.transpose(-2, -1))), factor)
    if is_causal:
        bits = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = a.where(Concrete(bits), scores, -math.inf)
    return a.matmul(safe_softmax(a, masked(a, scores, attn_mask), -1), v)


def masked(a: Algebra, scores: Field, mask: Value) -> Field:
    """The scores with a bool mask's false ones at -inf, or with a float mask added."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return a.where(mask, scores, -math.inf)
    return a.add(scores, mask)


TABLE: Table = {
    aten.softmax.int: softmax,
    aten._softmax.default: softmax,
    aten._safe_softmax.default: safe_softmax,
    aten.log_softmax.int: log_softmax,
    aten._log_softmax.default: log_softmax,
    aten.logsumexp.default: logsumexp,
    aten.scaled_dot_product_attention.default: attention,
}
