"""Literals as roots: a double within one ulp of (m/k)^(1/2) or (m/k)^(1/4), m and k up to 4096, read as that root.

Modulo a prime p = 3 mod 4 a square has exactly one root that is a square itself. Taking that one is multiplicative, and may be done
again, so whatever sums and products of such positive roots are equal as real numbers are equal here.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from verify.field import Modular, Vanishing

MOST = 4096


class Lacking(Vanishing):
    """A number is no square modulo a prime: primes in which it is one have to be drawn."""

    def __init__(self, number: Fraction) -> None:
        super().__init__(f"{number} has no root modulo a prime")
        self.number = number


@lru_cache(maxsize=4096)
def radical(value: float) -> tuple[Fraction, int] | None:
    """The fraction, and 2 or 4, of whose square or fourth root `value` (positive) is within one ulp; None for any other number."""
    if not 0 < value < math.inf:
        return None
    low, high = Fraction(math.nextafter(value, 0)), Fraction(math.nextafter(value, math.inf))
    for order in (2, 4):
        near = (Fraction(value) ** order).limit_denominator(MOST)
        rational = all(math.isqrt(n) ** 2 == n for n in (near.numerator, near.denominator))
        if 0 < near.numerator <= MOST and not rational and low**order <= near <= high**order:
            return near, order
    return None


def is_square(number: Fraction, p: int) -> bool:
    """True if a number is a square other than zero modulo p."""
    return pow(number.numerator * number.denominator, (p - 1) // 2, p) == 1


@lru_cache(maxsize=64)
def primes_with(squares: frozenset[Fraction], primes: tuple[int, ...]) -> tuple[int, ...]:
    """The primes modulo which all these numbers are squares."""
    return tuple(p for p in primes if all(is_square(number, p) for number in squares))


class Radicals(Modular):
    """Arithmetic modulo primes p = 3 mod 4 in which literals near roots are those roots. `used` is told which."""

    def __init__(self, primes: tuple[int, ...], used: list[str]) -> None:
        super().__init__(primes)
        self.used = used

    def residues(self, value: float | Fraction) -> tuple[int, ...]:
        found = radical(abs(value)) if isinstance(value, float) else None
        if found is None:
            return super().residues(value)
        text = f"{abs(value)!r} as ({found[0]})^(1/{found[1]})"
        self.used += [] if text in self.used else [text]
        sign = 1 if value > 0 else -1
        return tuple(sign * self._root(*found, p) % p for p in self.primes)

    @staticmethod
    def _root(number: Fraction, order: int, p: int) -> int:
        if not is_square(number, p):
            raise Lacking(number)
        value = number.numerator * pow(number.denominator, -1, p) % p
        for _ in range(order // 2):
            value = pow(value, (p + 1) // 4, p)
        return value
