"""Ring ops: sums, products, contractions, and quotients by field inverse. Exact, so every way of writing one is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from verify.algebra import Algebra
from verify.rules import exponents
from verify.rules.movement import cast, moved
from verify.rules.table import Table, axes
from verify.value import Concrete, Field, Value

aten = torch.ops.aten


def scaled(a: Algebra, x: Value, alpha: float) -> Value:
    """alpha x."""
    return x if alpha == 1 else a.scale(a.field(x), alpha)


def add(a: Algebra, x: Value, y: Value, *, alpha: float = 1) -> Field:
    """x + alpha y; of truth values, one of both."""
    if a.out == torch.bool:
        return a.sub(a.add(x, y), a.mul(x, y))
    return a.add(x, scaled(a, y, alpha))


def sub(a: Algebra, x: Value, y: Value, *, alpha: float = 1) -> Field:
    """x - alpha y."""
    return a.sub(x, scaled(a, y, alpha))


def rsub(a: Algebra, x: Value, y: Value, alpha: float = 1) -> Field:
    """y - alpha x."""
    return a.sub(y, scaled(a, x, alpha))


def mul(a: Algebra, x: Value, y: Value) -> Field:
    """x y."""
    for value, factor in ((x, y), (y, x)):
        if isinstance(factor, (int, float)) and math.isfinite(factor):
            return a.scale(a.field(value), factor)
    return exponents.product(a, x, y) or a.mul(x, y)


def div(a: Algebra, x: Value, y: Value, *, rounding_mode: str | None = None) -> Field:
    """x / y: by the exact inverse of a number, by the field inverse of a value. Rounded quotients are functions of the quotient."""
    if isinstance(y, Concrete) and y.atom is None and not y.shape:
        y = y.data.item()
    if isinstance(y, (int, float)) and y != 0 and math.isfinite(y):
        quotient = a.scale(a.field(x), 1, over=y)
    else:
        below = inverse(a, y)
        quotient = exponents.product(a, x, below) or a.mul(x, below)
    return quotient if rounding_mode is None else a.oracle(rounding_mode, quotient, odd=rounding_mode == "trunc")


def inverse(a: Algebra, x: Value) -> Field:
    """1 / x."""
    form = a.field(x).made("exp")
    return a.inverse(x) if form is None or form.operands[0].tagged else a.oracle("exp", a.neg(form.operands[0]))


def power(a: Algebra, x: Value, exponent: Value) -> Field:
    """x to a power: a product for a whole number, roots by rsqrt, any other a function of x."""
    if not isinstance(exponent, (int, float)):
        return a.oracle("pow", x, exponent)
    if float(exponent).is_integer() and abs(exponent) <= 64:
        return a.power(x, int(exponent))
    if exponent in (0.5, -0.5):
        return root(a, x) if exponent > 0 else a.oracle("rsqrt", x)
    return a.oracle(f"pow {float(exponent)!r}", x)


def addmm(a: Algebra, bias: Value, x: Value, y: Value, *, beta: float = 1, alpha: float = 1) -> Field:
    """beta bias + alpha x @ y."""
    return a.add(scaled(a, bias, beta), scaled(a, a.matmul(x, y), alpha))


def linear(a: Algebra, x: Value, weight: Value, bias: Value = None) -> Field:
    """x @ weight^T + bias."""
    product = a.matmul(x, a.field(weight).each(torch.t))
    return product if bias is None else a.add(product, bias)


def einsum(a: Algebra, equation: str, operands: Sequence[Value], path: Any = None) -> Field:
    """The einsum of its operands, taken together two at a time from the left."""
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not _:
        right = "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
    done, letters = a.field(operands[0]), terms[0]
    if len(operands) == 1:
        return _reduced(a, done, f"{left}->{right}")
    for i, (term, operand) in enumerate(zip(terms[1:], operands[1:], strict=True), start=1):
        rest = right + "".join(terms[i + 1 :])
        kept = right if i == len(terms) - 1 else "".join(dict.fromkeys(c for c in letters + term if c in rest and c != "."))
        if "." in equation and len(terms) > 2:
            a.refuse("an einsum of more than two operands with an ellipsis")
        done, letters = _pair(a, f"{letters},{term}->{kept}", done, a.field(operand)), kept
    return done


def _pair(a: Algebra, equation: str, x: Field, y: Field) -> Field:
    left, kept = equation.split("->")
    length = 1
    for term, value in zip(left.split(","), (x, y), strict=True):
        names = term.replace("...", "." * (len(value.shape) - len(term.replace("...", ""))))
        for name, size in zip(names, value.shape, strict=True):
            if name not in kept and name != "." and (value is x or name not in left.split(",")[0]):
                length *= size
    return a.bilinear(lambda s, t: torch.einsum(equation, s, t), x, y, length)


def _reduced(a: Algebra, x: Field, equation: str) -> Field:
    one = Field(tuple(torch.ones((), dtype=torch.float64) for _ in x.parts), a.number(1).degree)
    return _pair(a, equation.replace("->", ",->"), x, one)


def total(a: Algebra, x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Field:
    """The sum over dims."""
    x = cast(a, x, dtype)
    over = axes(dims, len(x.shape))
    return exponents.summed(a, a.sum(x, over, keepdim), x, over)


def mean(a: Algebra, x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Field:
    """The mean over dims; of none, undefined."""
    x = cast(a, x, dtype)
    return a.mean(x, axes(dims, len(x.shape)), keepdim)


def product(a: Algebra, x: Value, dim: int, keepdim: bool = False, *, dtype: Any = None) -> Field:
    """The product along dim, of halves until one is left."""
    x = a.plain(cast(a, x, dtype))
    if not x.shape:
        return x
    dim %= len(x.shape)
    if not x.shape[dim]:
        a.refuse("the product of nothing")
    while (size := x.shape[dim]) > 1:
        half = size // 2
        pair = a.mul(x.each(lambda t: t.narrow(dim, 0, half)), x.each(lambda t: t.narrow(dim, half, half)))  # noqa: B023
        x = pair if size % 2 == 0 else moved(a, torch.cat, [pair, x.each(lambda t: t.narrow(dim, size - 1, 1))], dim)
    return x if keepdim else x.each(lambda t: t.squeeze(dim))


def cumsum(a: Algebra, x: Value, dim: int, *, dtype: Any = None) -> Field:
    """Running sums along dim."""
    return a.linear(a.plain(cast(a, x, dtype)), lambda v: _running(a, v, dim))


def _running(a: Algebra, x: Field, dim: int) -> Field:
    parts = tuple(a.math.tidy(i, part.double().cumsum(dim)) for i, part in enumerate(x.parts))
    undefined = None if x.undefined is None else x.undefined.double().cumsum(dim) > 0
    length = x.shape[dim] if x.shape else 1
    return Field(parts, x.degree.summed(length), None, None, undefined, x.dtype)


def difference(a: Algebra, x: Value, n: int = 1, dim: int = -1, prepend: Value = None, append: Value = None) -> Field:
    """Differences of neighbours along dim."""
    if n != 1 or a.out == torch.bool:
        a.refuse("diff of a higher order, or of truth values")
    joined = moved(a, torch.cat, [p for p in (prepend, x, append) if p is not None], dim)
    size = joined.shape[dim]
    return a.sub(joined.each(lambda t: t.narrow(dim, 1, size - 1)), joined.each(lambda t: t.narrow(dim, 0, size - 1)))


def variance(a: Algebra, x: Value, dims: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Field:
    """The mean square distance from the mean, with Bessel's correction unless told otherwise."""
    x = a.field(x)
    over = axes(dims, len(x.shape))
    count = math.prod(x.shape[d] for d in over)
    if count == (1 if correction is None else correction):
        a.refuse("the variance of too few")
    centred = a.sub(x, a.mean(x, over, keepdim=True))
    return a.scale(a.sum(a.mul(centred, centred), over, keepdim), 1 / (Fraction(count) - Fraction(1 if correction is None else correction)))


def root(a: Algebra, x: Value) -> Field:
    """The square root: one over rsqrt, so that their product is one."""
    return a.inverse(a.oracle("rsqrt", x))


def weight_norm(a: Algebra, v: Value, g: Value, dim: int = 0) -> Field:
    """g v / |v|, the norm over all axes but one."""
    v = a.field(v)
    others = tuple(d for d in range(len(v.shape)) if d != dim % len(v.shape))
    return a.mul(a.mul(v, a.oracle("rsqrt", a.sum(a.mul(v, v), others, keepdim=True))), g)


def matmul(a: Algebra, x: Value, y: Value) -> Field:
    """x @ y."""
    return a.matmul(x, y)


TABLE: Table = {
    aten.add.Tensor: add,
    aten.add.Scalar: add,
    aten.sub.Tensor: sub,
    aten.sub.Scalar: sub,
    aten.rsub.Scalar: rsub,
    aten.rsub.Tensor: rsub,
    aten.mul.Tensor: mul,
    aten.mul.Scalar: mul,
    aten.div.Tensor: div,
    aten.div.Scalar: div,
    aten.div.Tensor_mode: div,
    aten.div.Scalar_mode: div,
    aten.true_divide.Tensor: div,
    aten.floor_divide.default: lambda a, x, y: div(a, x, y, rounding_mode="floor"),
    aten.reciprocal.default: inverse,
    aten.neg.default: lambda a, x: a.neg(x),
    aten.square.default: lambda a, x: a.mul(x, x),
    aten.pow.Tensor_Scalar: power,
    aten.pow.Tensor_Tensor: power,
    aten.pow.Scalar: lambda a, base, x: a.oracle(f"power of {float(base)!r}", x),
    aten.addcmul.default: lambda a, x, y, z, value=1: a.add(x, scaled(a, a.mul(y, z), value)),
    aten.addcdiv.default: lambda a, x, y, z, value=1: a.add(x, scaled(a, div(a, y, z), value)),
    aten.lerp.Tensor: lambda a, x, y, w: a.add(x, a.mul(w, a.sub(y, x))),
    aten.lerp.Scalar: lambda a, x, y, w: a.add(x, a.scale(a.sub(y, x), w)),
    aten.mm.default: matmul,
    aten.bmm.default: matmul,
    aten.mv.default: matmul,
    aten.dot.default: matmul,
    aten.matmul.default: matmul,
    aten.outer.default: lambda a, x, y: a.mul(a.field(x).each(lambda t: t.unsqueeze(-1)), y),
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.baddbmm.default: addmm,
    aten.addmv.default: addmm,
    aten.einsum.default: einsum,
    aten.sum.default: total,
    aten.sum.dim_IntList: total,
    aten.mean.default: mean,
    aten.mean.dim: mean,
    aten.prod.dim_int: product,
    aten.cumsum.default: cumsum,
    aten.diff.default: difference,
    aten.var.correction: variance,
    aten.var.default: lambda a, x, unbiased=True: variance(a, x, correction=int(unbiased)),
    aten.var.dim: lambda a, x, dims, unbiased=True, keepdim=False: variance(a, x, dims, correction=int(unbiased), keepdim=keepdim),
    aten.std.correction: lambda a, x, dims=None, **kwargs: root(a, variance(a, x, dims, **kwargs)),
    aten.std.dim: lambda a, x, dims, unbiased=True, keepdim=False: root(a, variance(a, x, dims, correction=int(unbiased), keepdim=keepdim)),
    aten.var_mean.correction: lambda a, x, dims=None, correction=None, keepdim=False: (
        variance(a, x, dims, correction=correction, keepdim=keepdim),
        mean(a, x, dims, keepdim),
    ),
    aten._weight_norm.default: weight_norm,
}
