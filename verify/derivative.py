"""Derivatives of the functions that are only known by their laws.

What is a function of x has a derivative that is one too: a random one, even where the function is odd. These are tied, because the
true ones are and rewrites use it: tanh' = 1 - tanh^2, exp' = exp, rsqrt' = -rsqrt^3 / 2. What jumps (floor, casts to whole numbers,
comparisons) has derivative zero between its jumps, a remainder that of its argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from verify.value import Field

if TYPE_CHECKING:
    from verify.algebra import Algebra

TIED: dict[str, Callable[[Algebra, Field, Field], Field]] = {  # of the argument and the value
    "tanh": lambda a, x, y: a.sub(1, a.mul(y, y)),
    "exp": lambda a, x, y: y,
    "rsqrt": lambda a, x, y: a.scale(a.power(y, 3), Fraction(-1, 2)),
}
STEPS = frozenset(("floor", "trunc", "round", "equal"))
REMAINDERS = frozenset(("fmod", "remainder"))
SLOPE = "slope of"


def partials(a: Algebra, name: str, arguments: Sequence[Field], i: int, value: Field, odd: bool) -> Field | None:
    """The derivative of the function `name` by its argument number i, None where it is zero. Shapes: as `value`."""
    value = a.steady(value)
    if name in STEPS:
        return None
    if name in TIED:
        return TIED[name](a, arguments[0], value)
    if name.split()[0] in REMAINDERS:
        return a.add(a.scale(arguments[0], 0), 1)
    if odd:
        return a.oracle(f"{SLOPE} even {name}", a.mul(arguments[0], arguments[0]))
    return a.oracle(f"{SLOPE} {i} {name}", *arguments)
