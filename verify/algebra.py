"""The words that rules are written in: arithmetic, functions known by their laws, gates, and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from verify.arithmetic import Arithmetic, Refused, nothing
from verify.degree import FREE
from verify.derivative import partials
from verify.value import Concrete, Edge, Field, Value, either, some

__all__ = ["Algebra", "Refused", "nothing"]


class Algebra(Arithmetic):
    """Arithmetic with functions, signs and choices."""

    # Functions

    def oracle(self, name: str, x: Value, *more: Value, odd: bool = False) -> Field:
        """The function `name` of x (and more), known only to be a function, and odd where said."""
        arguments = [self.plain(x), *(self.plain(m) for m in more)]
        if more:
            shape = torch.broadcast_shapes(*(a.shape for a in arguments))
            arguments = [a.each(lambda t: t.expand(shape)) for a in arguments]
        parts = self.world.oracle(name, arguments, odd=odd)
        out = Field(parts, FREE, None, None, either(*(a.undefined for a in arguments)), arguments[0].dtype)
        return self._chained(name, arguments, out, odd)

    def _chained(self, name: str, arguments: Sequence[Field], out: Field, odd: bool) -> Field:
        if all(x.tangent is None for x in arguments):
            return out
        steady = [self.steady(x) for x in arguments]
        slopes = [None if x.tangent is None else partials(self, name, steady, i, out, odd) for i, x in enumerate(arguments)]
        terms = [
            self.mul(slope, x.tangent) for slope, x in zip(slopes, arguments, strict=True) if slope is not None and x.tangent is not None
        ]
        return self.following(out, *terms) if terms else self.still(out)

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
        return replace(x, parts=self.world.sign(x), degree=FREE, edge=None, along=None)

    def is_zero(self, x: Value) -> Field:
        """Whether x is zero: 1 where it is, elsewhere an even function of x."""
        x = self.steady(self.plain(x))
        zero = torch.stack([part == 0 for part in x.parts]).all(0)
        value = self.oracle("equal", self.mul(x, x))
        value = replace(value, parts=tuple(part.masked_fill(zero, 1.0) for part in value.parts), dtype=torch.bool)
        return self._edged(value, x, self.scale(value, 0))

    def sign(self, x: Value) -> Field:
        """-1, 0 or 1: the sign, less where x is zero."""
        x = self.plain(x)
        sign = self._sign(x)
        return self.still(self._edged(self.mul(sign, self.sub(1, self.is_zero(x))), x, sign))

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
        inner = self.sub(1, replace(x, parts=x.edge.inner, edge=None, along=None))
        return replace(out, edge=Edge(x.edge.gap, inner.parts, out.parts))

    def truth(self, x: Value) -> Field:
        """Whether a number is not zero; a truth value itself."""
        x = self.field(x)
        return x if x.dtype == torch.bool else self.negated(self.is_zero(x))

    @staticmethod
    def _edged(value: Field, gap: Field, inner: Field) -> Field:
        return replace(value, edge=Edge(gap.parts, inner.parts, value.parts))

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
        out = Field(parts, degree, pick(x.hard, y.hard), pick(x.soft, y.soft), pick(x.undefined, y.undefined), x.dtype)
        if x.tangent is None and y.tangent is None:
            return out
        return out.moving(Algebra._taken(bits, x.tangent or nothing(x), y.tangent or nothing(y)))


def _pick(bits: Tensor, a: Tensor | None, b: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    nowhere = torch.zeros((), dtype=torch.bool)
    return some(torch.where(bits, nowhere if a is None else a, nowhere if b is None else b).expand(shape))
