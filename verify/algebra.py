"""The words that rules are written in: sums, products, oracles and gates of exact values, with degrees, tags and undefined points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NoReturn

import torch
from torch import Tensor

from rewrite.errors import TautomerError
from verify.degree import CONSTANT, FREE
from verify.field import Parts
from verify.value import Concrete, Edge, Field, Value, either, some
from verify.world import World


class Refused(TautomerError):
    """An op has no exact meaning here: `op`, `node` and `reason` say which, where and why."""

    def __init__(self, op: str, node: str, reason: str) -> None:
        super().__init__(
            f"exact tier at {node}: expected an op with an exact meaning, got {op}: {reason}. The verdict is at most CONSISTENT."
        )
        self.op, self.node, self.reason = op, node, reason


class Algebra:
    """Arithmetic on values of one world. `node` and `op` name what is being evaluated, for refusals and notes.

    `out` is the type of its result, `among` the float type that its numbers are read in.
    """

    def __init__(self, world: World) -> None:
        self.world, self.math = world, world.math
        self.node, self.op = "", ""
        self.out = self.among = torch.float32
        self.factors: set[tuple[float, ...]] = {self.math.number(1)}

    def refuse(self, reason: str) -> NoReturn:
        """Raises: Refused, always."""
        raise Refused(self.op, self.node, reason)

    # Entering the field

    def field(self, x: Value) -> Field:
        """`x` as residues: plain numbers exactly (-inf and the smallest finite numbers as tags), ids by their shadow or atom."""
        if isinstance(x, Field):
            return x
        if isinstance(x, (int, float)):
            odd = math.isnan(x) or math.isinf(x) or self.lowest(x)
            return self._tagged(torch.tensor(float(x), dtype=torch.float64), self.among) if odd else self.number(x)
        if not isinstance(x, Concrete):
            self.refuse(f"a {type(x).__name__} where a number is read")
        if x.lifted is None:
            x.lifted = replace(x.shadow or self._residues(x), dtype=x.data.dtype)
        return x.lifted

    def _residues(self, x: Concrete) -> Field:
        return self._tagged(x.data, x.data.dtype) if x.atom is None else self.world.atom_value("value of ids", x.atom, x.data)

    def lowest(self, x: Value, dtype: torch.dtype | None = None) -> bool:
        """True for the smallest finite number of a float type, by default of the one that numbers are read in."""
        return isinstance(x, float) and x in self.world.lowest(dtype or self.among)

    def _tagged(self, data: Tensor, dtype: torch.dtype) -> Field:
        if data.is_complex():
            self.refuse("complex numbers have no place in the field")
        if not data.dtype.is_floating_point:
            return Field(self.math.lift(data), degree=CONSTANT, dtype=data.dtype)
        if bool((data == torch.inf).any()):
            self.refuse("+inf has no place in the field")
        hard, undefined = some(data == -torch.inf), some(data.isnan())
        soft = some(sum((data == low for low in self.world.lowest(dtype)), torch.zeros_like(data, dtype=torch.bool)))
        odd = either(hard, soft, undefined)
        finite = data if odd is None else data.masked_fill(odd, 0)
        return Field(self.math.lift(finite), CONSTANT, hard, soft, undefined, dtype)

    def number(self, x: float | Fraction) -> Field:
        """One exact number, as a 0-d value."""
        return Field(tuple(torch.tensor(r, dtype=torch.float64) for r in self.math.number(x)), degree=CONSTANT)

    # Ring

    def add(self, x: Value, y: Value) -> Field:
        """x + y. A tag stays: -inf and the smallest number absorb what is added, and two smallest numbers overflow to -inf."""
        x, y = self.field(x), self.field(y)
        shape = torch.broadcast_shapes(x.shape, y.shape)
        hard = _spread(either(x.hard, y.hard), shape)
        soft = _spread(either(x.soft, y.soft), shape)
        if x.soft is not None and y.soft is not None:
            hard = some(either(hard, _spread(x.soft & y.soft, shape)))
        if hard is not None and soft is not None:
            soft = some(soft & ~hard)
        parts = tuple(self.math.tidy(i, a.double() + b.double()) for i, (a, b) in enumerate(zip(x.parts, y.parts, strict=True)))
        return Field(parts, x.degree.plus(y.degree), hard, soft, _spread(either(x.undefined, y.undefined), shape), x.dtype)

    def neg(self, x: Value) -> Field:
        """-x."""
        x = self.plain(x)
        return replace(x, parts=tuple(-part for part in x.parts))

    def sub(self, x: Value, y: Value) -> Field:
        """x - y."""
        return self.add(x, self.neg(y))

    def mul(self, x: Value, y: Value) -> Field:
        """x * y. A tag survives only a positive number."""
        x, y = self.field(x), self.field(y)
        if x.tagged or y.tagged:
            self.refuse("a product with -inf or with a smallest finite number")
        x, y = self._away(x, y), self._away(y, x)
        parts = tuple(self.math.tidy(i, a.double() * b.double()) for i, (a, b) in enumerate(zip(x.parts, y.parts, strict=True)))
        undefined = _spread(either(x.undefined, y.undefined), parts[0].shape)
        return Field(parts, x.degree.times(y.degree), None, None, undefined, x.dtype)

    def scale(self, x: Value, factor: float | Fraction) -> Field:
        """x times an exact number. -inf stays -inf under a positive one."""
        x = self.field(x)
        if x.tagged and (factor <= 0 or x.soft is not None):
            self.refuse("a smallest finite number, or -inf and a factor that is not positive")
        number = self.math.number(factor)
        self.factors.add(number)
        parts = tuple(self.math.tidy(i, part.double() * r) for i, (part, r) in enumerate(zip(x.parts, number, strict=True)))
        return replace(x, parts=parts)

    def sum(self, x: Value, dims: Sequence[int], keepdim: bool = False) -> Field:
        """The sum over `dims`, all of them if there are none."""
        x = self.plain(x)
        over = tuple(dims) or tuple(range(x.parts[0].dim()))
        if not over:
            return x
        parts = tuple(self.math.tidy(i, part.double().sum(over, keepdim=keepdim)) for i, part in enumerate(x.parts))
        length = x.parts[0].numel() // max(1, parts[0].numel())
        return replace(x, parts=parts, degree=x.degree.summed(length), undefined=_reduced(x.undefined, over, keepdim))

    def mean(self, x: Value, dims: Sequence[int], keepdim: bool = False) -> Field:
        """The mean over `dims`: the sum times the inverse of the number of elements."""
        x = self.field(x)
        over = tuple(dims) or tuple(range(x.parts[0].dim()))
        count = 1
        for d in over:
            count *= x.shape[d]
        return self.scale(self.sum(x, over, keepdim), Fraction(1, count))

    def matmul(self, x: Value, y: Value) -> Field:
        """x @ y, with torch's broadcasting."""
        x, y = self.plain(x), self.plain(y)
        parts = tuple(self.math.matmul(i, a, b) for i, (a, b) in enumerate(zip(x.parts, y.parts, strict=True)))
        degree = x.degree.times(y.degree).summed(x.shape[-1])
        return Field(parts, degree, None, None, self._reached(torch.matmul, x, y), x.dtype)

    def bilinear(self, op: Callable[[Tensor, Tensor], Tensor], x: Value, y: Value, length: int) -> Field:
        """`op(x, y)` for an op linear in both that sums `length` products an element."""
        x, y = self.plain(x), self.plain(y)
        if length > self.math.most:
            self.refuse(f"sums of {length} products, of which {self.math.most} are exact")
        parts = tuple(self.math.contract(i, op, a, b, length) for i, (a, b) in enumerate(zip(x.parts, y.parts, strict=True)))
        degree = x.degree.times(y.degree).summed(length)
        return Field(parts, degree, None, None, self._reached(op, x, y), x.dtype)

    @staticmethod
    def _reached(op: Callable[[Tensor, Tensor], Tensor], x: Field, y: Field) -> Tensor | None:
        """Where a bilinear op reads an undefined element."""
        marks = None
        for a, b in ((x.undefined, y), (y.undefined, x)):
            if a is not None:
                ones = torch.ones(b.shape, dtype=torch.float64)
                hit = (op(a.double(), ones) if b is y else op(ones, a.double())) > 0
                marks = either(marks, hit)
        return marks

    def power(self, x: Value, exponent: int) -> Field:
        """x to an integer power."""
        if exponent < 0:
            return self.inverse(self.power(x, -exponent))
        result, square = self.number(1), self.plain(x)
        if exponent == 0:
            return self.add(self.scale(square, 0), 1)
        while exponent:
            result = self.mul(square, result) if exponent & 1 else result
            exponent >>= 1
            square = self.mul(square, square) if exponent else square
        return result

    def inverse(self, x: Value) -> Field:
        """1 / x, undefined where x is zero; the division is noted unless x is a plain number."""
        x = self.plain(x)
        parts, zero = self.math.inverse(x.parts)
        if x.degree != CONSTANT:
            self.world.tally.note(self.world.tally.divisions, self.node)
            self.world.tally.zero_denominators += int(zero.sum())
        return replace(x, parts=parts, degree=x.degree.inverted(x.parts[0].numel()), undefined=either(x.undefined, some(zero)))

    # Functions

    def plain(self, x: Value) -> Field:
        """`x` in the field, refused if an element is -inf or a smallest finite number."""
        x = self.field(x)
        if x.tagged:
            self.refuse("it reads -inf or a smallest finite number as a number")
        return x

    def oracle(self, name: str, x: Value, *more: Value, odd: bool = False) -> Field:
        """The function `name` of x (and more), known only to be a function, and odd where said."""
        arguments = [self.plain(x), *(self.plain(m) for m in more)]
        if more:
            shape = torch.broadcast_shapes(*(a.shape for a in arguments))
            arguments = [a.each(lambda t: t.expand(shape)) for a in arguments]
        parts = self.world.oracle(name, arguments, odd=odd)
        return Field(parts, FREE, None, None, either(*(a.undefined for a in arguments)), arguments[0].dtype)

    # Signs. What is continuous at zero is x times a sign, whatever the sign of zero; what jumps there has to tell where x is zero

    def positive(self, x: Value) -> Field:
        """max(x, 0) = x (1 + sign x) / 2."""
        x = self.plain(x)
        return self.scale(self.add(x, self.magnitude(x)), Fraction(1, 2))

    def magnitude(self, x: Value) -> Field:
        """|x| = x sign x."""
        x = self.plain(x)
        return self.mul(x, self._sign(x))

    def larger(self, x: Value, y: Value) -> Field:
        """max(x, y) = y + max(x - y, 0)."""
        return self.add(y, self.positive(self.sub(x, y)))

    def smaller(self, x: Value, y: Value) -> Field:
        """min(x, y) = x - max(x - y, 0)."""
        return self.sub(x, self.positive(self.sub(x, y)))

    def _sign(self, x: Field) -> Field:
        return replace(x, parts=self.world.sign(x), degree=FREE, edge=None)

    def is_zero(self, x: Value) -> Field:
        """Whether x is zero: 1 where it is, elsewhere an even function of x."""
        x = self.plain(x)
        zero = torch.stack([part == 0 for part in x.parts]).all(0)
        value = self.oracle("equal", self.mul(x, x))
        value = replace(value, parts=tuple(part.masked_fill(zero, 1.0) for part in value.parts), dtype=torch.bool)
        return self._edged(value, x, self.scale(value, 0))

    def sign(self, x: Value) -> Field:
        """-1, 0 or 1: the sign, less where x is zero."""
        x = self.plain(x)
        sign = self._sign(x)
        return self._edged(self.mul(sign, self.sub(1, self.is_zero(x))), x, sign)

    def above(self, x: Value, y: Value, or_equal: bool = False) -> Field:
        """x > y, or x >= y: (1 + sign -/+ whether the gap is zero) / 2."""
        gap = self.sub(x, y)
        half = self.scale(self.add(self._sign(gap), 1), Fraction(1, 2))
        whole = self.add(half, self.scale(self.is_zero(gap), Fraction(1 if or_equal else -1, 2)))
        return self._edged(replace(whole, dtype=torch.bool), gap, half)

    def negated(self, x: Value) -> Field:
        """1 - x, for a truth value."""
        x = self.field(x)
        out = replace(self.sub(1, x), dtype=torch.bool)
        if x.edge is None or x.edge.of is not x.parts:
            return out
        inner = self.sub(1, replace(x, parts=x.edge.inner, edge=None))
        return replace(out, edge=Edge(x.edge.gap, inner.parts, out.parts))

    def truth(self, x: Value) -> Field:
        """Whether a number is not zero; a truth value itself."""
        x = self.field(x)
        return x if x.dtype == torch.bool else self.negated(self.is_zero(x))

    @staticmethod
    def _edged(value: Field, gap: Field, inner: Field) -> Field:
        return replace(value, edge=Edge(gap.parts, inner.parts, value.parts))

    def _away(self, x: Field, y: Field) -> Field:
        """A factor `x` of `y`: a truth value as it is away from its gap's zeros, where y is zero whenever the gap is."""
        edge = x.edge
        if edge is None or edge.of is not x.parts or not self._multiple(y, edge.gap):
            return x
        return replace(x, parts=edge.inner, edge=None)

    def _multiple(self, y: Field, gap: Parts) -> bool:
        """True if y is plus or minus a number of the program (or what it lacks of one) times the gap."""
        if y.shape != gap[0].shape or not y.parts[0].numel():
            return False
        self.world.tally.call("multiple", 2, y.degree.total + 1)
        rest = lambda i, number, cut: self.math.tidy(i, cut(y.parts[i]) - self.math.tidy(i, cut(gap[i]) * number[i]))  # noqa: E731
        first, whole = (lambda t: t.flatten()[:1].double()), (lambda t: t.double())
        for factor in self.factors:
            lacking = tuple(1 - r for r in factor)
            for number in (factor, lacking, tuple(-r for r in factor), tuple(-r for r in lacking)):
                if not bool(rest(0, number, first).any()) and not any(bool(rest(i, number, whole).any()) for i in range(self.math.count)):
                    return True
        return False

    # Choosing

    def where(self, condition: Value, x: Value, y: Value) -> Field:
        """x where the condition holds, else y: taken apart by plain bits, c x + (1 - c) y for a condition with a value."""
        x, y = self.field(x), self.field(y)
        if isinstance(condition, Concrete) and (condition.atom is None or x.tagged or y.tagged):
            self.steer(condition)
            return self._taken(condition.data.bool(), x, y)
        c = self.field(condition)
        marks = [torch.zeros(()) if v.undefined is None else v.undefined for v in (x, y)]
        if x.undefined is not y.undefined and not bool((marks[0].bool() == marks[1].bool()).all()):
            self.refuse("a value decides whether the result is defined")
        return self.add(self.mul(c, self.sub(x, y)), y)

    def steer(self, *values: Value) -> None:
        """Note that the true bits of ids decide here."""
        if any(isinstance(v, Concrete) and v.atom is not None for v in values):
            self.world.tally.note(self.world.tally.steering, self.node)

    @staticmethod
    def _taken(bits: Tensor, x: Field, y: Field) -> Field:
        shape = torch.broadcast_shapes(bits.shape, x.shape, y.shape)
        parts = tuple(torch.where(bits, a, b) for a, b in zip(x.parts, y.parts, strict=True))
        pick = lambda a, b: None if a is None and b is None else _pick(bits, a, b, shape)  # noqa: E731
        degree = x.degree.plus(y.degree)
        return Field(parts, degree, pick(x.hard, y.hard), pick(x.soft, y.soft), pick(x.undefined, y.undefined), x.dtype)

    def inverses(self, counts: Tensor) -> Field:
        """1 / n for plain positive integers n (0 for 0). Shapes: as `counts`."""
        distinct, place = counts.unique(return_inverse=True)
        rows = [self.math.number(Fraction(1, int(n))) if n else (0.0,) * self.math.count for n in distinct]
        table = torch.tensor(rows, dtype=torch.float64)
        return Field(tuple(table[:, i][place] for i in range(self.math.count)), CONSTANT)

    def masked(self, parts: Parts, keep: Tensor | None) -> Parts:
        """The parts, zero where `keep` is false."""
        return parts if keep is None else tuple(part * keep for part in parts)


def _spread(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    return None if mask is None else mask.expand(shape)


def _pick(bits: Tensor, a: Tensor | None, b: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    nowhere = torch.zeros((), dtype=torch.bool)
    return some(torch.where(bits, nowhere if a is None else a, nowhere if b is None else b).expand(shape))


def _reduced(mask: Tensor | None, dims: Sequence[int], keepdim: bool) -> Tensor | None:
    return None if mask is None else mask.double().sum(tuple(dims), keepdim=keepdim) > 0
