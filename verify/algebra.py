"""The words that rules are written in: arithmetic, functions known by their laws, gates, and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from verify.arithmetic import Arithmetic, nothing
from verify.degree import FREE
from verify.derivative import partials
from verify.entering import Refused
from verify.oracle import canonical_sign
from verify.value import Concrete, Edge, Field, Value, either, some

__all__ = ["Algebra", "Refused", "nothing"]


class Algebra(Arithmetic):
    """Arithmetic with functions, signs and choices."""

    # Functions

    def oracle(self, name: str, x: Value, *more: Value, odd: bool = False) -> Field:
        """The function `name` of x (and more), known only to be a function, and odd where said."""
        if self.world.theory == "exponents" and name in ("exp", "tanh"):
            return self._by_exp(name, self.plain(x))
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

    def _by_exp(self, name: str, x: Field) -> Field:
        """exp x, of which exp(-x) is the inverse, or tanh x = 1 - 2 / (exp(2x) + 1)."""
        if name == "tanh":
            return self.sub(1, self.scale(self.inverse(self.add(self._by_exp("exp", self.scale(x, 2)), 1)), 2))
        sign = canonical_sign(x.parts)
        drawn = self.world.oracle("exp", [replace(x, parts=tuple(part * sign for part in x.parts))])
        below, zero = self.math.inverse(drawn)
        parts = tuple(torch.where(sign > 0, u, torch.where(sign < 0, v, 1.0)) for u, v in zip(drawn, below, strict=True))
        degree = FREE.plus(FREE.inverted(zero.numel()))
        out = Field(parts, degree, None, None, either(x.undefined, some(zero & (sign < 0))), x.dtype)
        out = out if x.tangent is None else out.moving(self.mul(out, x.tangent))
        return out.formed("exp", x)

    def largest(self, *members: Field) -> Field:
        """The largest of several values, as a random function of the set of them."""
        shape = torch.broadcast_shapes(*(m.shape for m in members))
        wide = [m.each(lambda t: t.expand(shape)) for m in members]
        tangents = None if all(m.tangent is None for m in wide) else [m.tangent or nothing(m) for m in wide]
        stacked = _stacked(wide)
        out = Field(self.world.largest_row(stacked, None), FREE, None, None, either(*(m.undefined for m in wide)), wide[0].dtype)
        if tangents is not None:
            out = out.moving(self.sum(self.mul(self.first_weights(stacked, None), _stacked(tangents)), (len(shape),)))
        return out.formed("max", *wide) if len(wide) <= MOST_MEMBERS else out

    def first_weights(self, x: Field, present: Tensor | None) -> Field:
        """Random weights of a row's sum one over the distinct values along the last dim. Shapes: as `x`."""
        first, drawn = self.world.largest_weights(x, present)
        share = self.inverses(first.sum(-1, keepdim=True))
        drawn = self.masked(drawn, first)
        lacking = [self.math.tidy(i, 1 - part.sum(-1, keepdim=True)) for i, part in enumerate(drawn)]
        rest = [self.math.tidy(i, lack * s) for i, (lack, s) in enumerate(zip(lacking, share.parts, strict=True))]
        return Field(self.masked(tuple(self.math.tidy(i, d + r) for i, (d, r) in enumerate(zip(drawn, rest, strict=True))), first), FREE)

    def _as_set(self, x: Value, *others: Value) -> Field | None:
        """The largest of all in a theory of sets, None in another."""
        if self.world.theory != "maxima":
            return None
        found: list[Field] = []
        for value in map(self.plain, (x, *others)):
            form = value.made("max")
            found.extend(form.operands if form is not None else [value])
        return self.largest(*found)

    # Signs. What is continuous at zero is x times a sign, whatever the sign of zero; what jumps there has to tell where x is zero

    def positive(self, x: Value) -> Field:
        """max(x, 0) = x (1 + sign x) / 2."""
        if (found := self._as_set(x, 0)) is not None:
            return found
        x = self.plain(x)
        return self.scale(self.add(x, self.magnitude(x)), Fraction(1, 2))

    def magnitude(self, x: Value) -> Field:
        """|x| = x sign x."""
        if self.world.theory == "maxima":
            return self.larger(x, self.neg(x))
        x = self.plain(x)
        return self.mul(x, self._sign(x))

    def larger(self, x: Value, y: Value) -> Field:
        """max(x, y) = y + max(x - y, 0)."""
        if (found := self._as_set(x, y)) is not None:
            return found
        return self.add(y, self.positive(self.sub(x, y)))

    def smaller(self, x: Value, y: Value) -> Field:
        """min(x, y) = x - max(x - y, 0)."""
        if self.world.theory == "maxima":
            return self.neg(self.larger(self.neg(x), self.neg(y)))
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
            taken = self._taken(condition.data.bool(), x, y)
            return taken if condition.atom is None or not self.world.symbolic else self._open(taken, self.field(condition), x, y)
        c = self.field(condition)
        marks = [torch.zeros(()) if v.undefined is None else v.undefined for v in (x, y)]
        if x.undefined is not y.undefined and not bool((marks[0].bool() == marks[1].bool()).all()):
            self.refuse("a value decides whether the result is defined")
        return self.add(self.mul(c, self.sub(x, y)), y)

    def _open(self, taken: Field, c: Field, x: Field, y: Field) -> Field:
        """What ids took of x and y, as c x + (1 - c) y: what they mask here others may not, and the other way round.

        There, being masked is worth a large negative number added, any at all: what holds for all holds in the limit.
        """
        large = self.still(self.world.tensor("large", ()))
        bare = [self.kept(v, None) for v in (x, y)]
        absent = [torch.zeros(v.shape, dtype=torch.bool) if v.absent is None else v.absent for v in (x, y)]
        first, second = (
            self._taken(mask, self.add(other, large), own) for mask, own, other in zip(absent, bare, reversed(bare), strict=True)
        )
        both = (absent[0] & absent[1]).expand(taken.shape)
        decided = either(absent[0] | absent[1], x.decided, y.decided)
        assert decided is not None
        out = self._taken(both, self.kept(taken, None), self.add(self.mul(c, self.sub(first, second)), second))
        return replace(out, hard=taken.hard, soft=taken.soft, undefined=taken.undefined, decided=some(decided & ~both))

    def steer(self, *values: Value) -> None:
        """Note that the true bits of ids decide here: by what is known of them, the same of a condition and of its negation."""
        for v in values:
            if isinstance(v, Concrete) and v.atom is not None:
                s = v.shadow
                self.world.tally.steer(self.node, v.atom if s is None else self.mul(s, self.sub(1, s)).parts)

    @staticmethod
    def _taken(bits: Tensor, x: Field, y: Field) -> Field:
        shape = torch.broadcast_shapes(bits.shape, x.shape, y.shape)
        parts = tuple(torch.where(bits, a, b) for a, b in zip(x.parts, y.parts, strict=True))
        pick = lambda a, b: None if a is None and b is None else _pick(bits, a, b, shape)  # noqa: E731
        degree = x.degree.plus(y.degree)
        out = Field(parts, degree, pick(x.hard, y.hard), pick(x.soft, y.soft), pick(x.undefined, y.undefined), x.dtype)
        out.decided = pick(x.decided, y.decided)
        if x.tangent is None and y.tangent is None:
            return out
        return out.moving(Algebra._taken(bits, x.tangent or nothing(x), y.tangent or nothing(y)))


MOST_MEMBERS = 64  # of a set that is remembered


def _stacked(members: Sequence[Field]) -> Field:
    """The values side by side along a new last dim."""
    degree = members[0].degree
    for member in members[1:]:
        degree = degree.plus(member.degree)
    return Field(tuple(torch.stack([p.double() for p in parts], -1) for parts in zip(*(m.parts for m in members), strict=True)), degree)


def _pick(bits: Tensor, a: Tensor | None, b: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    nowhere = torch.zeros((), dtype=torch.bool)
    return some(torch.where(bits, nowhere if a is None else a, nowhere if b is None else b).expand(shape))
