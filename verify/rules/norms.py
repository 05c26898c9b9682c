"""Normalisations, written out: centre, divide by the root mean square (an rsqrt oracle), scale and shift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from verify.algebra import Algebra
from verify.rules.choose import amax
from verify.rules.movement import cast
from verify.rules.table import Table
from verify.value import Field, Value

aten = torch.ops.aten


def affine(a: Algebra, x: Field, weight: Value, bias: Value) -> Field:
    """x weight + bias, each of them optional."""
    x = x if weight is None else a.mul(x, weight)
    return x if bias is None else a.add(x, bias)


def standard(a: Algebra, x: Field, dims: Sequence[int], eps: float) -> tuple[Field, Field, Field]:
    """x centred and divided by its root mean square over dims, the mean, and one over that root."""
    middle = a.mean(x, dims, keepdim=True)
    centred = a.sub(x, middle)
    root = a.oracle("rsqrt", a.add(a.mean(a.mul(centred, centred), dims, keepdim=True), eps))
    return a.mul(centred, root), middle, root


def native_layer_norm(a: Algebra, x: Value, shape: Sequence[int], weight: Value, bias: Value, eps: float) -> tuple[Field, Field, Field]:
    """Layer norm over the last dims, the mean, and one over the root."""
    x = a.field(x)
    rank = len(x.shape)
    out, middle, root = standard(a, x, tuple(range(rank - len(shape), rank)), eps)
    return affine(a, out, weight, bias), middle, root


def layer_norm(
    a: Algebra, x: Value, shape: Sequence[int], weight: Value = None, bias: Value = None, eps: float = 1e-5, _: bool = True
) -> Field:
    """Layer norm over the last dims."""
    return native_layer_norm(a, x, shape, weight, bias, eps)[0]


def rms_norm(a: Algebra, x: Value, shape: Sequence[int], weight: Value = None, eps: float | None = None) -> Field:
    """x divided by its root mean square over the last dims, scaled."""
    x = a.field(x)
    rank = len(x.shape)
    dims = tuple(range(rank - len(shape), rank))
    small = torch.finfo(x.dtype).eps if eps is None else eps
    return affine(a, a.mul(x, a.oracle("rsqrt", a.add(a.mean(a.mul(x, x), dims, keepdim=True), small))), weight, None)


def group_norm(a: Algebra, x: Value, groups: int, weight: Value = None, bias: Value = None, eps: float = 1e-5, _: bool = True) -> Field:
    """Each group of channels standardised by itself."""
    x = a.field(x)
    shape = x.shape
    split = x.each(lambda t: t.reshape(shape[0], groups, shape[1:].numel() // groups))
    out = standard(a, split, (2,), eps)[0].each(lambda t: t.reshape(shape))
    return affine(a, out, *(_channels(a, v, len(shape)) for v in (weight, bias)))


def batch_norm(a: Algebra, x: Value, weight: Value, bias: Value, mean: Value, var: Value, eps: float) -> Field:
    """Batch norm by the stored mean and variance."""
    x = a.field(x)
    middle, spread, gain, shift = (_channels(a, v, len(x.shape)) for v in (mean, var, weight, bias))
    return affine(a, a.mul(a.sub(x, middle), a.oracle("rsqrt", a.add(spread, eps))), gain, shift)


def _channels(a: Algebra, v: Value, rank: int) -> Value:
    return None if v is None else a.field(v).each(lambda t: t.view((-1,) + (1,) * (rank - 2)))


def inference_batch_norm(
    a: Algebra, x: Value, w: Value, b: Value, m: Value, v: Value, training: bool, momentum: float, eps: float, _: bool
) -> Field:
    """aten.batch_norm in eval mode."""
    return a.refuse("batch norm in training mode") if training else batch_norm(a, x, w, b, m, v, eps)


def native_group_norm(
    a: Algebra, x: Value, w: Value, b: Value, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Field, None, None]:
    """aten.native_group_norm; its saved statistics are left out."""
    return group_norm(a, x, groups, w, b, eps), None, None


def vector_norm(
    a: Algebra, x: Value, ord: float = 2, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Field:
    """The square root of the sum of squares; of order one the sum of sizes, of order infinity the largest of them."""
    x, over = cast(a, x, dtype), tuple(dims or ())
    if ord == 1:
        return a.sum(a.magnitude(x), over, keepdim)
    if ord == math.inf:
        return amax(a, a.magnitude(x), over, keepdim)
    if ord != 2:
        a.refuse(f"a vector norm of order {ord}")
    return a.inverse(a.oracle("rsqrt", a.sum(a.mul(x, x), over, keepdim)))


def frobenius(a: Algebra, x: Value, p: float | None, dims: Sequence[int] = (), keepdim: bool = False) -> Field:
    """aten.norm, of order two unless told otherwise."""
    return vector_norm(a, x, 2 if p is None else p, dims, keepdim)


TABLE: Table = {
    aten.layer_norm.default: layer_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: native_group_norm,
    aten.batch_norm.default: inference_batch_norm,
    aten._native_batch_norm_legit_no_training.default: lambda a, x, w, b, m, v, momentum, eps: (
        batch_norm(a, x, w, b, m, v, eps),
        None,
        None,
    ),
    aten.linalg_vector_norm.default: vector_norm,
    aten.norm.ScalarOpt_dim: frobenius,
}
