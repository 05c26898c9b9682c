"""Elementwise functions: each known by the laws listed here and otherwise a random function.

odd: tanh, erf, sin, atan, sign. sigmoid x = (1 + tanh(x/2)) / 2, so silu x = x sigmoid x. gelu by erf and by tanh are different
functions. sqrt x rsqrt x = 1. Everything with a corner is a gate S(x) = (1 + sign x) / 2 times something linear: relu x = x S(x),
max(x, y) = y + (x - y) S(x - y), and so are abs, clamp, min, where, leaky_relu and comparisons.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from verify.algebra import Algebra
from verify.rules.ring import product
from verify.rules.table import Rule, Table
from verify.value import SOFTEST, Concrete, Field, Value, either

aten = torch.ops.aten
HALF = Fraction(1, 2)
TANH_SCALE = math.sqrt(2 / math.pi)


def function(name: str, odd: bool = False) -> Rule:
    """The rule of a function known only to be one."""
    return lambda a, x: a.oracle(name, x, odd=odd)


def vanishing(a: Algebra, x: Value, f: Rule) -> Field:
    """f(x), zero where x is -inf or a smallest finite number."""
    x = a.field(x)
    gone = either(x.hard, x.soft)
    if gone is None:
        return f(a, x)
    out = f(a, Field(a.masked(x.parts, ~gone), x.degree, None, None, x.undefined, x.dtype))
    return Field(a.masked(out.parts, ~gone), out.degree, None, None, out.undefined, out.dtype)


def sigmoid(a: Algebra, x: Value) -> Field:
    """1 / (1 + exp(-x)) by tanh."""
    return vanishing(a, x, lambda a, x: a.scale(a.add(a.oracle("tanh", a.scale(x, HALF), odd=True), 1), HALF))


def exp(a: Algebra, x: Value) -> Field:
    """exp x, zero at -inf."""
    return vanishing(a, x, function("exp"))


def gelu(a: Algebra, x: Value, approximate: str = "none") -> Field:
    """x times the normal distribution function, exactly or by tanh."""
    x = a.plain(x)
    if approximate == "none":
        inner = a.oracle("erf", a.scale(x, math.sqrt(0.5)), odd=True)
    else:
        inner = a.oracle("tanh", a.scale(a.add(x, a.scale(a.power(x, 3), 0.044715)), TANH_SCALE), odd=True)
    return a.scale(a.mul(x, a.add(inner, 1)), HALF)


def softplus(a: Algebra, x: Value, beta: float = 1, threshold: float = 20) -> Field:
    """log(1 + exp(beta x)) / beta, and x itself beyond the threshold."""
    steep = a.scale(a.field(x), beta)
    smooth = a.scale(a.oracle("log", a.add(a.oracle("exp", steep), 1)), 1 / Fraction(beta))
    return a.where(a.step(a.sub(steep, threshold), 0), x, smooth)


def relu(a: Algebra, x: Value) -> Field:
    """x S(x)."""
    x = a.plain(x)
    return a.mul(x, a.step(x))


def clamp(a: Algebra, x: Value, low: Value = None, high: Value = None) -> Field:
    """min(max(x, low), high)."""
    x = raised(a, x, low) if low is not None else a.field(x)
    return x if high is None or (isinstance(high, float) and high == math.inf) else a.smaller(x, high)


def raised(a: Algebra, x: Value, low: Value) -> Field:
    """max(x, low); a smallest finite number is below everything but -inf, which it replaces."""
    x = a.field(x)
    if isinstance(low, Concrete) and low.atom is None and low.data.numel() == 1:
        low = low.data.item()
    if isinstance(low, float) and low == -math.inf:
        return x
    if isinstance(low, float) and low in SOFTEST:
        return Field(x.parts, x.degree, None, either(x.hard, x.soft), x.undefined, x.dtype)
    return a.larger(x, low)


def leaky(a: Algebra, x: Value, slope: float = 0.01) -> Field:
    """slope x + (1 - slope) relu x."""
    return a.add(a.scale(a.plain(x), slope), a.scale(relu(a, x), 1 - Fraction(slope)))


def elu(a: Algebra, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Field:
    """x above zero, alpha (exp x - 1) below, scaled."""
    below = a.scale(a.sub(a.oracle("exp", a.scale(a.plain(x), input_scale)), 1), alpha)
    return a.scale(a.where(a.step(x), x, below), scale)


def hard_sigmoid(a: Algebra, x: Value) -> Field:
    """min(max(x + 3, 0), 6) / 6."""
    return a.scale(clamp(a, a.add(x, 3), 0, 6), Fraction(1, 6))


def above(a: Algebra, x: Value, y: Value) -> Field:
    """x > y."""
    return a.step(a.sub(x, y), 0)


def from_(a: Algebra, x: Value, y: Value) -> Field:
    """x >= y."""
    return a.step(a.sub(x, y), 1)


def equal(a: Algebra, x: Value, y: Value) -> Value:
    """x == y: the tags themselves against -inf or a smallest finite number, else an even function of x - y."""
    x, y = a.field(x), a.field(y)
    if x.tagged or y.tagged:
        return _equal_tags(a, x, y)
    gap = a.sub(x, y)
    zero = torch.stack([part == 0 for part in gap.parts]).all(0)
    value = a.oracle("equal", a.mul(gap, gap))
    return Field(tuple(part.masked_fill(zero, 1.0) for part in value.parts), value.degree, None, None, value.undefined, value.dtype)


def _equal_tags(a: Algebra, x: Field, y: Field) -> Concrete:
    whole = lambda m, v: torch.zeros(v.shape, dtype=torch.bool) if m is None else m  # noqa: E731
    both = [whole(x.hard, x) & whole(y.hard, y), whole(x.soft, x) & whole(y.soft, y)]
    neither = ~(whole(x.hard, x) | whole(x.soft, x)) & ~(whole(y.hard, y) | whole(y.soft, y))
    if bool(neither.any()):
        a.refuse("ordinary numbers compared beside -inf")
    return Concrete(both[0] | both[1])


def negated(a: Algebra, x: Value) -> Value:
    """not x."""
    return Concrete(~x.data) if isinstance(x, Concrete) and x.atom is None else a.sub(1, x)


def whole_only(a: Algebra, x: Value, y: Value, f: Rule) -> Field:
    """A truth table on values: both must be truth values."""
    if any(not isinstance(v, (bool, int)) and v.dtype != torch.bool for v in (x, y)):
        a.refuse("bits of whole numbers")
    return f(a, x, y)


def both(a: Algebra, x: Value, y: Value) -> Field:
    """x and y."""
    return whole_only(a, x, y, lambda a, x, y: a.mul(x, y))


def one_of(a: Algebra, x: Value, y: Value) -> Field:
    """x or y."""
    return whole_only(a, x, y, lambda a, x, y: a.sub(a.add(x, y), a.mul(x, y)))


def unlike(a: Algebra, x: Value, y: Value) -> Field:
    """x exclusive-or y."""
    return whole_only(a, x, y, lambda a, x, y: a.sub(a.add(x, y), a.scale(a.mul(x, y), 2)))


def tag_of(name: str) -> Rule:
    """The rule of an op that asks for a tag."""

    def rule(a: Algebra, x: Value) -> Concrete:
        mask = getattr(a.field(x), name)
        return Concrete(torch.zeros(x.shape, dtype=torch.bool) if mask is None else mask)

    return rule


def masked_fill(a: Algebra, x: Value, mask: Value, value: Value) -> Field:
    """`value` where the mask holds, else x."""
    return a.where(mask, value, x)


def where(a: Algebra, condition: Value, x: Value, y: Value) -> Field:
    """x where the condition holds, else y."""
    return a.where(condition, x, y)


UNARY = dict.fromkeys(("exp2", "log", "log2", "log10", "cos", "cosh", "floor", "acos"), False)
ODD = dict.fromkeys(("tanh", "erf", "sin", "tan", "sinh", "asin", "atan", "asinh", "atanh", "trunc", "round"), True)


def _comparisons() -> Table:
    table: Table = {}
    pairs = {"gt": above, "ge": from_, "lt": lambda a, x, y: above(a, y, x), "le": lambda a, x, y: from_(a, y, x)}
    pairs |= {"eq": equal, "ne": lambda a, x, y: negated(a, equal(a, x, y))}
    for name, rule in pairs.items():
        table[getattr(aten, name).Tensor] = table[getattr(aten, name).Scalar] = rule
    for rule, names in ((both, ("logical_and", "bitwise_and", "__and__")), (one_of, ("logical_or", "bitwise_or", "__or__"))):
        for name in names:
            table[getattr(getattr(aten, name), "default" if name.startswith("logical") else "Tensor")] = rule
    return table


TABLE: Table = {
    **{getattr(aten, name).default: function(name, odd) for name, odd in (UNARY | ODD).items()},
    **_comparisons(),
    aten.logical_xor.default: unlike,
    aten.bitwise_xor.Tensor: unlike,
    aten.exp.default: exp,
    aten.expm1.default: lambda a, x: a.sub(exp(a, x), 1),
    aten.erfc.default: lambda a, x: a.sub(1, a.oracle("erf", x, odd=True)),
    aten.ceil.default: lambda a, x: a.neg(a.oracle("floor", a.neg(x))),
    aten.rsqrt.default: function("rsqrt"),
    aten.sqrt.default: lambda a, x: a.inverse(a.oracle("rsqrt", x)),
    aten.log1p.default: lambda a, x: a.oracle("log", a.add(x, 1)),
    aten.sigmoid.default: sigmoid,
    aten.log_sigmoid_forward.default: lambda a, x: (a.oracle("log", sigmoid(a, x)), None),
    aten.log_sigmoid.default: lambda a, x: a.oracle("log", sigmoid(a, x)),
    aten.silu.default: lambda a, x: a.mul(x, sigmoid(a, x)),
    aten.mish.default: lambda a, x: a.mul(x, a.oracle("tanh", softplus(a, x), odd=True)),
    aten.gelu.default: gelu,
    aten.softplus.default: softplus,
    aten.relu.default: relu,
    aten.relu6.default: lambda a, x: clamp(a, x, 0, 6),
    aten.hardtanh.default: lambda a, x, low=-1, high=1: clamp(a, x, low, high),
    aten.hardsigmoid.default: hard_sigmoid,
    aten.hardswish.default: lambda a, x: a.mul(x, hard_sigmoid(a, x)),
    aten.leaky_relu.default: leaky,
    aten.elu.default: elu,
    aten.threshold.default: lambda a, x, at, value: a.where(a.step(a.sub(x, at), 0), x, value),
    aten.abs.default: lambda a, x: a.mul(x, a.sign(x)),
    aten.sign.default: lambda a, x: a.sign(x),
    aten.sgn.default: lambda a, x: a.sign(x),
    aten.maximum.default: lambda a, x, y: raised(a, x, y),
    aten.max.other: lambda a, x, y: raised(a, x, y),
    aten.minimum.default: lambda a, x, y: a.smaller(x, y),
    aten.min.other: lambda a, x, y: a.smaller(x, y),
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.default: lambda a, x, low: clamp(a, x, low),
    aten.clamp_max.default: lambda a, x, high: clamp(a, x, None, high),
    aten.atan2.default: lambda a, y, x: a.oracle("atan2", y, x),
    aten.fmod.Scalar: lambda a, x, m: a.oracle(f"fmod {m!r}", x, odd=True),
    aten.remainder.Scalar: lambda a, x, m: a.oracle(f"remainder {m!r}", x),
    aten.any.dim: lambda a, x, dim, keepdim=False: a.sub(1, product(a, a.sub(1, x), dim, keepdim)),
    aten.all.dim: product,
    aten.logical_not.default: negated,
    aten.bitwise_not.default: negated,
    aten.isneginf.default: tag_of("hard"),
    aten.isinf.default: tag_of("hard"),
    aten.isnan.default: tag_of("undefined"),
    aten.where.self: where,
    aten.where.ScalarOther: where,
    aten.where.ScalarSelf: where,
    aten.where.Scalar: where,
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
    aten.nan_to_num.default: lambda a, x, *_: a.refuse("undefined values made numbers"),
}
