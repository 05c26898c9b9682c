"""The formula of every op that has one: a table from ATen ops to what is computed over arrays of expressions."""

from __future__ import annotations

from typing import Any

import sympy
import torch

from verify.formulas import symbols
from verify.formulas.symbols import Rule, along, choose, each, lift, matmul, number, plus, real, truth

aten = torch.ops.aten


def _scaled(other: Any, alpha: Any) -> Any:
    return other if alpha == 1 else each(lambda e: real(e) * number(alpha), other)


def add(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """x + alpha y."""
    return each(plus, x, _scaled(y, alpha))


def sub(x: Any, y: Any, alpha: Any = 1) -> Any:
    """x - alpha y."""
    return each(plus, x, each(lambda e: -real(e), _scaled(y, alpha)))


def mul(x: Any, y: Any) -> Any:
    """x y."""
    return each(lambda a, b: real(a) * real(b), x, y)


def div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    """x / y, rounded where asked."""
    if rounding_mode == "trunc":
        raise symbols.Unwritten("a division that is rounded towards zero")
    return each(lambda a, b: real(a) / real(b) if rounding_mode is None else sympy.floor(real(a) / real(b)), x, y)


def power(x: Any, y: Any) -> Any:
    """x to the power y."""
    return each(lambda a, b: real(a) ** b, x, y)


def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    """min(max(x, low), high)."""
    x = lift(x) if low is None else each(sympy.Max, x, low)
    return x if high is None else each(sympy.Min, x, high)


def gelu(x: Any, *, approximate: str = "none") -> Any:
    """gelu, exact or by tanh."""
    return each(symbols.gelu if approximate == "none" else symbols.gelu_tanh, x)


def softplus(x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    """log(1 + exp(beta x)) / beta; beyond the threshold torch rounds it to x."""
    return each(lambda e: symbols.softplus(number(beta) * e) / number(beta), x)


def elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    """x above zero, alpha (exp x - 1) below."""
    below = lambda e: number(alpha) * (sympy.exp(number(input_scale) * e) - 1)  # noqa: E731
    return each(lambda e: number(scale) * choose(sympy.Gt(e, 0), e, below(e)), x)


def vector_norm(x: Any, ord: float = 2, dims: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """The Euclidean norm."""
    if ord != 2:
        raise symbols.Unwritten(f"a vector norm of order {ord}")
    return along(lambda row: sympy.sqrt(sympy.Add(*[e**2 for e in row])), x, dims, keepdim)


def cumsum(x: Any, dim: int, **_: Any) -> Any:
    """Sums of all elements so far along dim."""
    return symbols.lines(lambda row: [sympy.Add(*row[: i + 1]) for i in range(len(row))], x, dim)


def _function(f: Any) -> Rule:
    return lambda x: each(lambda e: f(real(e)), x)


def _comparison(f: Any) -> Rule:
    return lambda x, y: each(lambda a, b: f(real(a), real(b)), x, y)


def _bits(f: Any) -> Rule:
    return lambda x, y: each(lambda a, b: f(truth(a), truth(b)), x, y)


def _over(f: Any) -> Rule:
    return lambda x, dims=None, keepdim=False, **_: along(f, x, dims, keepdim)


SAME_NAME = "exp log asinh acosh atanh floor sqrt sign".split()
FUNCTIONS: dict[Any, Any] = {
    **{getattr(aten, name).default: getattr(sympy, name) for name in SAME_NAME},
    **{getattr(aten, name).default: f for name, f in symbols.PLAIN.items()},
    aten.ceil.default: sympy.ceiling,
    aten.abs.default: sympy.Abs,
    aten.neg.default: lambda e: -e,
    aten.reciprocal.default: lambda e: 1 / e,
    aten.square.default: lambda e: e**2,
    aten.rsqrt.default: lambda e: 1 / sympy.sqrt(e),
    aten.exp2.default: lambda e: 2**e,
    aten.expm1.default: lambda e: sympy.exp(e) - 1,
    aten.log1p.default: lambda e: sympy.log(1 + e),
    aten.log2.default: lambda e: sympy.log(e, 2),
    aten.relu.default: symbols.relu,
    aten.sigmoid.default: symbols.sigmoid,
    aten.log_sigmoid.default: lambda e: sympy.log(symbols.sigmoid(e)),
    aten.silu.default: symbols.silu,
    aten.mish.default: symbols.mish,
    aten.relu6.default: lambda e: sympy.Min(sympy.Max(0, e), 6),
    aten.hardsigmoid.default: lambda e: sympy.Min(sympy.Max(0, e + 3), 6) / 6,
    aten.hardswish.default: lambda e: e * sympy.Min(sympy.Max(0, e + 3), 6) / 6,
    aten.logical_not.default: lambda e: sympy.Not(truth(e)),
    aten.bitwise_not.default: lambda e: sympy.Not(truth(e)),
}
COMPARISONS = {"gt": sympy.Gt, "ge": sympy.Ge, "lt": sympy.Lt, "le": sympy.Le, "eq": sympy.Eq, "ne": sympy.Ne}
WRITTEN: dict[Any, Rule] = {
    **{op: _function(f) for op, f in FUNCTIONS.items()},
    **{getattr(getattr(aten, name), kind): _comparison(f) for name, f in COMPARISONS.items() for kind in ("Tensor", "Scalar")},
    aten.logical_and.default: _bits(sympy.And),
    aten.bitwise_and.Tensor: _bits(sympy.And),
    aten.logical_or.default: _bits(sympy.Or),
    aten.bitwise_or.Tensor: _bits(sympy.Or),
    aten.add.Tensor: add,
    aten.add.Scalar: add,
    aten.sub.Tensor: sub,
    aten.sub.Scalar: sub,
    aten.rsub.Scalar: lambda x, y, alpha=1: sub(y, x, alpha=alpha),
    aten.mul.Tensor: mul,
    aten.mul.Scalar: mul,
    aten.div.Tensor: div,
    aten.div.Scalar: div,
    aten.div.Tensor_mode: div,
    aten.true_divide.Tensor: div,
    aten.pow.Tensor_Scalar: power,
    aten.pow.Tensor_Tensor: power,
    aten.pow.Scalar: power,
    aten.addcmul.default: lambda x, y, z, *, value=1: add(x, mul(y, z), alpha=value),
    aten.where.self: lambda c, x, y: each(choose, c, x, y),
    aten.where.ScalarOther: lambda c, x, y: each(choose, c, x, y),
    aten.where.ScalarSelf: lambda c, x, y: each(choose, c, x, y),
    aten.masked_fill.Scalar: lambda x, mask, value: each(choose, mask, value, x),
    aten.masked_fill.Tensor: lambda x, mask, value: each(choose, mask, value, x),
    aten.fill.Scalar: lambda x, value: each(lambda _, e: e, x, value),
    aten.fill.Tensor: lambda x, value: each(lambda _, e: e, x, value),
    aten.maximum.default: lambda x, y: each(sympy.Max, x, y),
    aten.minimum.default: lambda x, y: each(sympy.Min, x, y),
    aten.clamp.default: clamp,
    aten.clamp_min.default: clamp,
    aten.clamp_max.default: lambda x, high: clamp(x, None, high),
    aten.hardtanh.default: lambda x, low=-1, high=1: clamp(x, low, high),
    aten.leaky_relu.default: lambda x, slope=0.01: each(lambda e: choose(sympy.Gt(e, 0), e, number(slope) * e), x),
    aten.gelu.default: gelu,
    aten.softplus.default: softplus,
    aten.elu.default: elu,
    aten.mm.default: matmul,
    aten.bmm.default: matmul,
    aten.mv.default: matmul,
    aten.dot.default: matmul,
    aten.matmul.default: matmul,
    aten.outer.default: lambda x, y: mul(lift(x)[:, None], y),
    aten.linear.default: symbols.linear,
    aten.addmm.default: lambda b, x, y, *, beta=1, alpha=1: add(_scaled(b, beta), matmul(x, y), alpha=alpha),
    aten.baddbmm.default: lambda b, x, y, *, beta=1, alpha=1: add(_scaled(b, beta), matmul(x, y), alpha=alpha),
    aten.einsum.default: symbols.einsum,
    aten.sum.default: _over(lambda row: sympy.Add(*row)),
    aten.sum.dim_IntList: _over(lambda row: sympy.Add(*row)),
    aten.mean.default: _over(symbols.mean_of),
    aten.mean.dim: _over(symbols.mean_of),
    aten.prod.dim_int: _over(lambda row: sympy.Mul(*row)),
    aten.amax.default: _over(lambda row: sympy.Max(*row)),
    aten.amin.default: _over(lambda row: sympy.Min(*row)),
    aten.cumsum.default: cumsum,
    aten.var.correction: lambda x, dims=None, *, correction=None, keepdim=False: symbols.variance(x, dims, correction, keepdim),
    aten.std.correction: lambda x, dims=None, *, correction=None, keepdim=False: each(
        sympy.sqrt, symbols.variance(x, dims, correction, keepdim)
    ),
    aten.linalg_vector_norm.default: vector_norm,
    aten.softmax.int: symbols.softmax,
    aten._softmax.default: symbols.softmax,
    aten.log_softmax.int: symbols.log_softmax,
    aten._log_softmax.default: symbols.log_softmax,
    aten.logsumexp.default: _over(symbols.log_sum),
    aten.layer_norm.default: symbols.layer_norm,
    aten.native_layer_norm.default: lambda *args: (symbols.layer_norm(*args), None, None),
    aten.rms_norm.default: symbols.rms_norm,
    aten.scaled_dot_product_attention.default: symbols.attention,
}
