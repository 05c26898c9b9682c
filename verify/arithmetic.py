"""Arithmetic of exact values: sums, products and inverses, with degrees, tags, undefined points and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from verify.degree import CONSTANT
from verify.entering import Entering
from verify.field import Parts
from verify.value import Field, Value, either, some


class Arithmetic(Entering):
    """Arithmetic on values of one world."""

    # Ring

    def add(self, x: Value, y: Value) -> Field:
        """x + y. A tag stays: -inf and the smallest number absorb what is added, and two smallest numbers overflow to -inf.

        So a smallest number remains the number that it is, which its residues say.
        """
        x, y = self.field(x), self.field(y)
        shape = torch.broadcast_shapes(x.shape, y.shape)
        hard = _spread(either(x.hard, y.hard), shape)
        soft = _spread(either(x.soft, y.soft), shape)
        if x.soft is not None and y.soft is not None:
            hard = some(either(hard, _spread(x.soft & y.soft, shape)))
        if hard is not None and soft is not None:
            soft = some(soft & ~hard)
        pairs = zip(self._lent(x, y), self._lent(y, x), strict=True)
        parts = tuple(self.math.tidy(i, a.double() + b.double()) for i, (a, b) in enumerate(pairs))
        out = Field(parts, x.degree.plus(y.degree), hard, soft, _spread(either(x.undefined, y.undefined), shape), x.dtype)
        if (decided := either(x.decided, y.decided)) is not None:
            absent = either(x.absent, y.absent)
            out.decided = _spread(decided if absent is None else decided & ~absent, shape)
        return self.following(out, x.tangent, y.tangent)

    @staticmethod
    def _lent(x: Field, y: Field) -> Parts:
        """What x adds to y: nothing where y is a smallest number."""
        soft = y.soft if y.soft is None or y.decided is None else y.soft & ~y.decided
        return x.parts if soft is None else tuple(torch.where(soft, 0.0, part.double()) for part in x.parts)

    def neg(self, x: Value) -> Field:
        """-x."""
        x = self.plain(x)
        out = self.linear(x, lambda v: replace(v, parts=tuple(-part for part in v.parts)))
        for kind, turned in (("max", "min"), ("min", "max")):
            if (form := x.made(kind)) is not None:
                return out.formed(turned, *form.operands)  # type: ignore[arg-type]
        return out

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
        return self.by_parts(self.mul, x, y, Field(parts, x.degree.times(y.degree), None, None, undefined, x.dtype))

    def _away(self, x: Field, y: Field) -> Field:
        """A factor `x` of `y`: a truth value as it is away from its gap's zeros, where y is zero whenever the gap is."""
        edge = x.edge
        if edge is None or edge.of is not x.parts or not self._multiple(y, edge.gap):
            return x
        return replace(x, parts=edge.inner, edge=None, along=None)

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

    def scale(self, x: Value, factor: float | Fraction, over: float | Fraction = 1) -> Field:
        """x times an exact number, over another. -inf stays -inf under a positive one; a part of a smallest number is an ordinary one."""
        x = self.field(x)
        if x.tagged and (factor * over <= 0 or (x.soft is not None and abs(factor) > abs(over))):
            self.refuse("-inf and a factor that is not positive, or a smallest finite number and one that is not between 0 and 1")
        if factor != over:
            x = replace(x, soft=None)
        number = self.math.number(factor, over)
        self.factors.add(number)
        times = lambda v: tuple(self.math.tidy(i, part.double() * r) for i, (part, r) in enumerate(zip(v.parts, number, strict=True)))  # noqa: E731
        return self.linear(x, lambda v: replace(v, parts=times(v)))

    def sum(self, x: Value, dims: Sequence[int], keepdim: bool = False) -> Field:
        """The sum over `dims`, all of them if there are none."""
        x = self.plain(x)
        over = tuple(dims) or tuple(range(x.parts[0].dim()))
        return self.linear(x, lambda v: self._summed(v, over, keepdim)) if over else x

    def _summed(self, x: Field, over: tuple[int, ...], keepdim: bool) -> Field:
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
        if not count:
            self.refuse("the mean of nothing")
        return self.scale(self.sum(x, over, keepdim), Fraction(1, count))

    def matmul(self, x: Value, y: Value) -> Field:
        """x @ y, with torch's broadcasting."""
        x, y = self.plain(x), self.plain(y)
        parts = tuple(self.math.matmul(i, a, b) for i, (a, b) in enumerate(zip(x.parts, y.parts, strict=True)))
        degree = x.degree.times(y.degree).summed(x.shape[-1])
        return self.by_parts(self.matmul, x, y, Field(parts, degree, None, None, self._reached(torch.matmul, x, y), x.dtype))

    def bilinear(self, op: Callable[[Tensor, Tensor], Tensor], x: Value, y: Value, length: int) -> Field:
        """`op(x, y)` for an op linear in both that sums `length` products an element."""
        x, y = self.plain(x), self.plain(y)
        if length > self.math.most:
            self.refuse(f"sums of {length} products, of which {self.math.most} are exact")
        parts = tuple(self.math.contract(i, op, a, b, length) for i, (a, b) in enumerate(zip(x.parts, y.parts, strict=True)))
        degree = x.degree.times(y.degree).summed(length)
        out = Field(parts, degree, None, None, self._reached(op, x, y), x.dtype)
        return self.by_parts(lambda s, t: self.bilinear(op, s, t, length), x, y, out)

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
        undefined = either(x.undefined, some(zero))
        out = replace(x, parts=parts, degree=x.degree.inverted(x.parts[0].numel()), undefined=undefined, along=None)
        return out if x.tangent is None else out.moving(self.neg(self.mul(self.mul(out, out), x.tangent)))

    def inverses(self, counts: Tensor) -> Field:
        """1 / n for plain positive integers n (0 for 0). Shapes: as `counts`."""
        distinct, place = counts.unique(return_inverse=True)
        rows = [self.math.number(Fraction(1, int(n))) if n else (0.0,) * self.math.count for n in distinct]
        table = torch.tensor(rows, dtype=torch.float64)
        return Field(tuple(table[:, i][place] for i in range(self.math.count)), CONSTANT)

    def masked(self, parts: Parts, keep: Tensor | None) -> Parts:
        """The parts, zero where `keep` is false."""
        return parts if keep is None else tuple(part * keep for part in parts)

    def kept(self, x: Field, keep: Tensor | None) -> Field:
        """`x` without its tags, zero where `keep` is false."""
        return self.linear(x, lambda v: replace(v, parts=self.masked(v.parts, keep), hard=None, soft=None, decided=None))

    # Derivatives, in worlds that have them: the product rule and the chain rule, once

    def following(self, out: Field, *tangents: Field | None) -> Field:
        """`out` with the sum of these derivatives."""
        moving = [t for t in tangents if t is not None]
        if not moving:
            return out
        total = moving[0]
        for tangent in moving[1:]:
            total = self.add(total, tangent)
        return out.moving(total if total.shape == out.shape else total.each(lambda t: t.expand(out.shape)))

    def linear(self, x: Field, op: Callable[[Field], Field]) -> Field:
        """`op(x)` for an op linear in x, which is its own derivative."""
        out = op(replace(x, along=None))
        return out if x.tangent is None else out.moving(op(x.tangent))

    def by_parts(self, op: Callable[[Field, Field], Field], x: Field, y: Field, out: Field) -> Field:
        """`out`, which is `op(x, y)` for an op linear in both, with the derivative by the product rule."""
        if x.tangent is None and y.tangent is None:
            return out
        left = None if x.tangent is None else op(x.tangent, self.steady(y))
        right = None if y.tangent is None else op(self.steady(x), y.tangent)
        return self.following(out, left, right)

    @staticmethod
    def steady(x: Field) -> Field:
        """`x` as a number that does not move: a factor in a derivative."""
        return replace(x, along=None)

    @staticmethod
    def still(x: Field) -> Field:
        """`x` as a value of derivative zero: of what jumps, and of what is detached."""
        return x.moving(None)


def nothing(x: Field) -> Field:
    """Zero. Shapes: as `x`."""
    return Field(tuple(torch.zeros_like(part, dtype=torch.float64) for part in x.parts), CONSTANT)


def _spread(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    return None if mask is None else mask.expand(shape)


def _reduced(mask: Tensor | None, dims: Sequence[int], keepdim: bool) -> Tensor | None:
    return None if mask is None else mask.double().sum(tuple(dims), keepdim=keepdim) > 0
