"""Degrees of exact values as quotients of polynomials, with the denominators told apart so that shared ones are counted once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

_numbers = count()


@dataclass(frozen=True, slots=True)
class Denominator:
    """Elements of one divisor tensor that may stand below the line: `power` each, at most `spread` of its `limit` elements."""

    degree: int
    limit: int
    power: int = 1
    spread: int = 1

    @property
    def total(self) -> int:
        return self.degree * self.power * self.spread


@dataclass(frozen=True, slots=True)
class Degree:
    """The degree of the numerator, and the denominators by the division that made them."""

    top: int
    below: tuple[tuple[int, Denominator], ...] = ()

    @property
    def bottom(self) -> int:
        """The degree of the common denominator."""
        return sum(d.total for _, d in self.below)

    @property
    def total(self) -> int:
        """The degree of the polynomial that decides whether two such values are equal: N1 D2 - N2 D1."""
        return self.top + self.bottom if not self.below else 2 * (self.top + self.bottom)

    def plus(self, other: Degree) -> Degree:
        """The degree of a sum."""
        if not self.below and not other.below:
            return self if self.top >= other.top else other
        merged = dict(self.below)
        for name, d in other.below:
            mine = merged.get(name)
            merged[name] = (
                d if mine is None else Denominator(d.degree, d.limit, max(mine.power, d.power), min(d.limit, mine.spread + d.spread))
            )
        return self._over(other, tuple(merged.items()))

    def _over(self, other: Degree, below: tuple[tuple[int, Denominator], ...]) -> Degree:
        bottom = sum(d.total for _, d in below)
        return Degree(max(self.top + bottom - self.bottom, other.top + bottom - other.bottom), below)

    def times(self, other: Degree) -> Degree:
        """The degree of a product."""
        if not self.below and not other.below:
            return Degree(self.top + other.top)
        merged = dict(self.below)
        for name, d in other.below:
            mine = merged.get(name)
            merged[name] = d if mine is None else Denominator(d.degree, d.limit, mine.power + d.power, min(d.limit, mine.spread + d.spread))
        return Degree(self.top + other.top, tuple(merged.items()))._padded(self.bottom + other.bottom)

    def _padded(self, bottom: int) -> Degree:
        """The same quotient with numerator and denominator multiplied by what the denominator counts beyond `bottom`."""
        return Degree(self.top + max(0, self.bottom - bottom), self.below)

    def summed(self, length: int) -> Degree:
        """The degree of a sum of `length` values like this one."""
        if not self.below or length <= 1:
            return self
        wide = tuple((n, Denominator(d.degree, d.limit, d.power, min(d.limit, d.spread * length))) for n, d in self.below)
        return self._over(self, wide)

    def inverted(self, elements: int) -> Degree:
        """The degree of the inverse, one divisor in each of `elements`."""
        if not self.top:
            return Degree(self.bottom)
        return Degree(self.bottom, ((next(_numbers), Denominator(self.top, elements)),))


CONSTANT, FREE = Degree(0), Degree(1)
