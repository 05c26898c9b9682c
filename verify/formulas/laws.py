"""What the rules take for granted of the functions that they do not compute: one table of sympy identities, from the definitions.

A rule may use a law only if the true function has it. Each entry gives two sides; `proved_laws` tries them all. Functions that the rules
call odd are listed there, and looked up here: one without a definition is an error. A law about signs is tried for numbers above, below
and at zero, one about logarithms with both sides exponentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy

from verify.formulas.rational import remainder
from verify.formulas.symbols import DEFINED, choose
from verify.rules.elementwise import ODD

Sides = tuple[Any, Any]

x, y, z, c, k = sympy.symbols("x y z c k", real=True)
a, b, p = sympy.symbols("a b p", positive=True)
exp, log, sqrt, sign = sympy.exp, sympy.log, sympy.sqrt, sympy.sign


def trunc(e: Any) -> Any:
    """Rounded towards zero."""
    return sign(e) * sympy.floor(sympy.Abs(e))


def rounded(e: Any) -> Any:
    """Rounded to the nearest whole number, a half to the even one: by its size, whatever its sign."""
    return sign(e) * sympy.Function("nearest")(sympy.Abs(e))


def softmax(*row: Any) -> list[Any]:
    """exp x_i / sum_j exp x_j."""
    return [exp(e) / sympy.Add(*map(exp, row)) for e in row]


def total(*row: Any) -> Any:
    """The exponential of logsumexp."""
    return sympy.Add(*map(exp, row))


def tanh(e: Any) -> Any:
    """By exponentials."""
    return (exp(e) - exp(-e)) / (exp(e) + exp(-e))


def is_zero(e: Any) -> Any:
    """One at zero, else zero."""
    return choose(sympy.Eq(e, 0), sympy.Integer(1), sympy.Integer(0))


LAWS: dict[str, Callable[[], Sides]] = {
    "a product distributes over a sum": lambda: (x * (y + z), x * y + x * z),
    "the mean of a sum is the sum of the means": lambda: (((x + y) + (z + c)) / 2, (x + z) / 2 + (y + c) / 2),
    "rsqrt x sqrt x = 1": lambda: (1 / sqrt(a) * sqrt(a), 1),
    "sqrt x is one over rsqrt x": lambda: (sqrt(a), 1 / (1 / sqrt(a))),
    "a softmax row sums to one": lambda: (sympy.Add(*softmax(x, y, z)), 1),
    "softmax does not see a shift": lambda: (softmax(x + c, y + c, z + c)[0], softmax(x, y, z)[0]),
    "softmax treats the elements alike": lambda: (softmax(x, y, z)[0], softmax(z, x, y)[1]),
    "a shift of the row shifts logsumexp": lambda: (total(x + c, y + c), exp(c) * total(x, y)),
    "log softmax is x - logsumexp": lambda: (softmax(x, y)[0], exp(x) / total(x, y)),
    "exp (x + y) = exp x exp y": lambda: (exp(x + y), exp(x) * exp(y)),
    "log exp x = x": lambda: (log(exp(x)), x),
    "tanh x = 1 - 2 / (exp 2x + 1)": lambda: (tanh(x), 1 - 2 / (exp(2 * x) + 1)),
    "sigmoid 2x = (1 + tanh x) / 2": lambda: (DEFINED["sigmoid"](2 * x), (1 + tanh(x)) / 2),
    "silu x = x sigmoid x": lambda: (DEFINED["silu"](x), x * DEFINED["sigmoid"](x)),
    "gelu x = x (1 + erf(x / sqrt 2)) / 2": lambda: (DEFINED["gelu"](sqrt(2) * x), sqrt(2) * x * (sympy.erf(x) + 1) / 2),
    "ceil x = -floor(-x)": lambda: (sympy.ceiling(x).rewrite(sympy.floor), -sympy.floor(-x)),
}
SIGNS: dict[str, Callable[[Any], Sides]] = {
    "|x| = x sign x": lambda x: (sympy.Abs(x), x * sign(x)),
    "relu x = (x + |x|) / 2": lambda x: (sympy.Max(0, x), (x + sympy.Abs(x)) / 2),
    "max(y + x, y) = y + relu x": lambda x: (sympy.Max(y + x, y), y + sympy.Max(0, x)),
    "min(y + x, y) = -max(-y - x, -y)": lambda x: (sympy.Min(y + x, y), -sympy.Max(-y - x, -y)),
    "leaky relu x = k x + (1 - k) relu x": lambda x: (choose(sympy.Gt(x, 0), x, k * x), k * x + (1 - k) * sympy.Max(0, x)),
    "x > 0 is (1 + sign x - Z(x)) / 2": lambda x: (choose(sympy.Gt(x, 0), 1, 0), (1 + sign(x) - is_zero(x)) / 2),
    "x >= 0 is (1 + sign x + Z(x)) / 2": lambda x: (choose(sympy.Ge(x, 0), 1, 0), (1 + sign(x) + is_zero(x)) / 2),
    "sign is a character": lambda x: (sign(x * (y**2 + 1)), sign(x)),
}
NAMED: dict[str, Callable[[Any], Any]] = {"trunc": trunc, "round": rounded}


def stated() -> Iterator[tuple[str, Callable[[], Sides]]]:
    """Every law with what makes its two sides, those of signs once for each sign."""
    yield from LAWS.items()
    for name in ODD:
        f = NAMED.get(name) or getattr(sympy, name)
        yield f"{name} is odd", lambda f=f: (f(-x), -f(x))
    for name, sides in SIGNS.items():
        for place, value in (("above zero", p), ("below zero", -p), ("at zero", sympy.Integer(0))):
            yield f"{name}, {place}", lambda sides=sides, value=value: sides(value)


def left_over(sides: Sides) -> Any:
    """Zero if the two sides are the same, else their difference."""
    left, right = (sympy.sympify(side) for side in sides)
    return remainder(left - right)


def proved_laws() -> dict[str, bool]:
    """For every law whether the difference of its sides vanishes."""
    return {name: left_over(sides()) == 0 for name, sides in stated()}
