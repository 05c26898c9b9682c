"""Elementwise functions: each known by the laws listed here and otherwise a random function.

odd: tanh, erf, sin, atan, sign. sigmoid x = (1 + tanh(x/2)) / 2, so silu x = x sigmoid x. gelu by erf and by tanh are different
functions. sqrt x rsqrt x = 1. What has a corner is |x| = x sign x and what is linear: relu x = (x + |x|) / 2,
max(x, y) = y + relu(x - y), and so are clamp, min, leaky_relu. What jumps tells where its argument is zero, by an even function Z:
x > y is (1 + sign(x - y) - Z(x - y)) / 2, x >= y has + Z, x == y is Z, and `where` is a sum that a truth value weighs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import torch

from verify.algebra import Algebra
from verify.rules.exponents import log, remembered
from verify.rules.movement import moved
from verify.rules.ring import product
from verify.rules.table import Rule, Table
from verify.value import Concrete, Field, Value, either

aten = torch.ops.aten
HALF = Fraction(1, 2)
TANH_SCALE = math.sqrt(2 / math.pi)


def function(name: str, odd: bool = False) -> Rule:
    """The rule of a function known only to be one."""
    return lambda a, x: a.oracle(name, x, odd=odd)


def vanishing(a: Algebra, x: Value, f: Rule) -> Field:
    """f(x), zero where x is -inf or a smallest finite number."""
    x = a.field(x)
    gone = x.absent
    if gone is None:
        return f(a, a.kept(x, None))
    return a.kept(f(a, a.kept(x, ~gone)), ~gone)


def sigmoid(a: Algebra, x: Value) -> Field:
    """1 / (1 + exp(-x)) by tanh."""
    return vanishing(a, x, lambda a, x: a.scale(a.add(a.oracle("tanh", a.scale(x, HALF), odd=True), 1), HALF))


def exp(a: Algebra, x: Value) -> Field:
    """exp x, zero at -inf."""
    out = vanishing(a, x, function("exp"))
    return remembered(a, out, "exp", a.field(x))


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
    return a.where(a.above(steep, threshold), x, smooth)


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
    if a.lowest(low):
        bottom = a.number(float(low))  # type: ignore[arg-type]
        hard = x.hard if x.hard is None or x.decided is None else x.hard & ~x.decided
        parts = x.parts if hard is None else tuple(torch.where(hard, n, t.double()) for n, t in zip(bottom.parts, x.parts, strict=True))
        return replace(x, parts=parts, hard=None, soft=either(x.hard, x.soft), along=None).moving(x.tangent)
    return a.larger(x, low)


def leaky(a: Algebra, x: Value, slope: float = 0.01) -> Field:
    """slope x + (1 - slope) relu x."""
    return a.add(a.scale(a.plain(x), slope), a.scale(a.positive(x), 1 - Fraction(slope)))


def elu(a: Algebra, x: Value, alpha: float = 1, scale: float = 1, input_scale: float | Fraction = 1) -> Field:
    """x above zero, alpha (exp x - 1) below, scaled."""
    below = a.scale(a.sub(a.oracle("exp", a.scale(a.plain(x), input_scale)), 1), alpha)
    return a.scale(a.where(a.above(x, 0), x, below), scale)


def glu(a: Algebra, x: Value, dim: int = -1) -> Field:
    """The first half along a dim times the sigmoid of the second."""
    first, second = (moved(a, lambda t, i=i: t.chunk(2, dim)[i], x) for i in range(2))
    return a.mul(first, sigmoid(a, second))


SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as torch has them


def hard_sigmoid(a: Algebra, x: Value) -> Field:
    """min(max(x + 3, 0), 6) / 6."""
    return a.scale(clamp(a, a.add(x, 3), 0, 6), Fraction(1, 6))


def above(a: Algebra, x: Value, y: Value) -> Field:
    """x > y."""
    return a.above(*_compared(a, x, y))


def from_(a: Algebra, x: Value, y: Value) -> Field:
    """x >= y."""
    return a.above(*_compared(a, x, y), or_equal=True)


def equal(a: Algebra, x: Value, y: Value) -> Value:
    """x == y: the tags themselves against -inf or a smallest finite number, else whether the gap is zero."""
    x, y = a.field(x), a.field(y)
    if x.tagged or y.tagged:
        return _equal_tags(a, x, y)
    return a.is_zero(a.sub(*_compared(a, x, y)))


def _compared(a: Algebra, x: Value, y: Value) -> tuple[Value, Value]:
    """Both, refused where one value is compared with itself: only NaN can make a difference."""
    alike = isinstance(x, Field) and isinstance(y, Field) and x.shape == y.shape and x.parts[0].numel() > 0
    if alike and all(bool((s == t).all()) for s, t in zip(x.parts, y.parts, strict=True)):
        a.refuse("a value compared with itself, which asks whether it is NaN")
    return x, y


def _equal_tags(a: Algebra, x: Field, y: Field) -> Concrete:
    if x.decided is not None or y.decided is not None:
        a.refuse("numbers that ids mask, compared")
    whole = lambda m, v: torch.zeros(v.shape, dtype=torch.bool) if m is None else m  # noqa: E731
    alike = torch.stack([s == t for s, t in zip(x.parts, y.parts, strict=True)]).all(0)  # smallest numbers of several types are several
    both = [whole(x.hard, x) & whole(y.hard, y), whole(x.soft, x) & whole(y.soft, y) & alike]
    if not bool((whole(x.hard, x) | whole(y.hard, y) | (whole(x.soft, x) & whole(y.soft, y))).all()):
        a.refuse("ordinary numbers compared beside -inf, or with a smallest finite number, which they may be")
    return Concrete(both[0] | both[1])


def negated(a: Algebra, x: Value) -> Field:
    """not x."""
    return a.negated(a.truth(x))


def bitwise(f: Rule) -> Rule:
    """The rule of an op on bits, which is one on truth values if its result is one."""
    return lambda a, *x: f(a, *x) if a.out == torch.bool else a.refuse("bits of whole numbers")


def both(a: Algebra, x: Value, y: Value) -> Field:
    """x and y."""
    return a.mul(a.truth(x), a.truth(y))


def one_of(a: Algebra, x: Value, y: Value) -> Field:
    """x or y."""
    x, y = a.truth(x), a.truth(y)
    return a.sub(a.add(x, y), a.mul(x, y))


def unlike(a: Algebra, x: Value, y: Value) -> Field:
    """x exclusive-or y."""
    x, y = a.truth(x), a.truth(y)
    return a.sub(a.add(x, y), a.scale(a.mul(x, y), 2))


def some_of(a: Algebra, x: Value, dim: int, keepdim: bool = False) -> Field:
    """Whether one along dim is not zero."""
    return a.negated(product(a, negated(a, x), dim, keepdim))


def all_of(a: Algebra, x: Value, dim: int, keepdim: bool = False) -> Field:
    """Whether none along dim is zero."""
    return product(a, a.truth(x), dim, keepdim)


def infinite(a: Algebra, x: Value) -> Concrete:
    """Where -inf is among masked numbers. Asked of others, an exact value has no answer."""
    x = a.field(x)
    return a.refuse("it asks whether a value is infinite") if x.hard is None or x.decided is not None else Concrete(x.hard)


def angle(a: Algebra, y: Value, x: Value) -> Field:
    """The angle of (x, y), which at y = 0 depends on the sign of zero."""
    y = a.plain(y)
    if any(bool((part == 0).any()) for part in y.parts):
        a.refuse("zero has a sign here")
    return a.oracle("atan2", y, x)


def masked_fill(a: Algebra, x: Value, mask: Value, value: Value) -> Field:
    """`value` where the mask holds, else x."""
    return a.where(mask, a.truth(value) if a.out == torch.bool else value, x)


def where(a: Algebra, condition: Value, x: Value, y: Value) -> Field:
    """x where the condition holds, else y."""
    return a.where(condition, x, y)


UNARY = dict.fromkeys(("exp2", "log2", "log10", "cos", "cosh", "floor", "acos"), False)
ODD = dict.fromkeys(("tanh", "erf", "sin", "tan", "sinh", "asin", "atan", "asinh", "atanh", "trunc", "round"), True)


def _comparisons() -> Table:
    table: Table = {}
    pairs = {"gt": above, "ge": from_, "lt": lambda a, x, y: above(a, y, x), "le": lambda a, x, y: from_(a, y, x)}
    pairs |= {"eq": equal, "ne": lambda a, x, y: negated(a, equal(a, x, y))}
    for name, rule in pairs.items():
        table[getattr(aten, name).Tensor] = table[getattr(aten, name).Scalar] = rule
    for rule, names in ((both, ("and", "__and__")), (one_of, ("or", "__or__")), (unlike, ("xor", "__xor__"))):
        table[getattr(aten, f"logical_{names[0]}").default] = rule
        for name in (f"bitwise_{names[0]}", names[1]):
            table[getattr(aten, name).Tensor] = bitwise(rule)
    return table


CHOOSING: Table = {
    aten.where.self: where,
    aten.where.ScalarOther: where,
    aten.where.ScalarSelf: where,
    aten.where.Scalar: where,
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
}
TRUTH: Table = {  # results are truth values, or one of the operands
    **_comparisons(),
    **CHOOSING,
    aten.any.dim: some_of,
    aten.all.dim: all_of,
    aten.logical_not.default: negated,
    aten.bitwise_not.default: bitwise(negated),
    aten.isneginf.default: infinite,
    aten.isinf.default: infinite,
    aten.isnan.default: lambda a, x: a.refuse("it asks whether a value is NaN"),
}
TABLE: Table = {
    **TRUTH,
    **{getattr(aten, name).default: function(name, odd) for name, odd in (UNARY | ODD).items()},
    aten.exp.default: exp,
    aten.log.default: log,
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
    aten.relu.default: lambda a, x: a.positive(x),
    aten.relu6.default: lambda a, x: clamp(a, x, 0, 6),
    aten.hardtanh.default: lambda a, x, low=-1, high=1: clamp(a, x, low, high),
    aten.hardsigmoid.default: hard_sigmoid,
    aten.hardswish.default: lambda a, x: a.mul(x, hard_sigmoid(a, x)),
    aten.leaky_relu.default: leaky,
    aten.elu.default: elu,
    aten.celu.default: lambda a, x, alpha=1: elu(a, x, alpha, 1, Fraction(1) / Fraction(alpha)),
    aten.glu.default: glu,
    aten.selu.default: lambda a, x: elu(a, x, *SELU),
    aten.threshold.default: lambda a, x, at, value: a.where(a.above(x, at), x, value),
    aten.abs.default: lambda a, x: a.magnitude(x),
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
    aten.atan2.default: angle,
    aten.fmod.Scalar: lambda a, x, m: a.oracle(f"fmod {m!r}", x, odd=True),
    aten.remainder.Scalar: lambda a, x, m: a.oracle(f"remainder {m!r}", x),
    aten.nan_to_num.default: lambda a, x, *_: a.refuse("undefined values made numbers"),
}
