"""The laws that rules take for granted: each proved in sympy, and near misses of each kind that are not."""

from collections.abc import Callable
from typing import Any

import pytest
import sympy

from verify.formulas.laws import DEFINED, SIGNS, Sides, a, c, choose, exp, left_over, p, proved_laws, softmax, stated, tanh, total, x, y, z
from verify.rules.elementwise import ODD, UNARY


def test_every_law_is_proved() -> None:
    assert [name for name, holds in proved_laws().items() if not holds] == []
    assert {f"{name} is odd" for name in ODD} <= {name for name, _ in stated()}


WRONG: dict[str, Callable[[], Sides]] = {
    "a product distributes over a product": lambda: (x * (y * z), x * y * x * z),
    "rsqrt without the root": lambda: (1 / a * sympy.sqrt(a), 1),
    "part of a softmax row sums to one": lambda: (sympy.Add(*softmax(x, y, z)[:2]), 1),
    "softmax does not see a factor": lambda: (softmax(2 * x, 2 * y)[0], softmax(x, y)[0]),
    "softmax does not see a shift of one": lambda: (softmax(x + c, y)[0], softmax(x, y)[0]),
    "softmax of another element": lambda: (softmax(x, y, z)[0], softmax(z, x, y)[0]),
    "logsumexp does not see a shift": lambda: (total(x + c, y + c), total(x, y)),
    "exp is additive": lambda: (exp(x + y), exp(x) + exp(y)),
    "tanh by half the exponent": lambda: (tanh(x), 1 - 2 / (exp(x) + 1)),
    "sigmoid x = (1 + tanh x) / 2": lambda: (DEFINED["sigmoid"](x), (1 + tanh(x)) / 2),
    "gelu is silu": lambda: (DEFINED["gelu"](x), DEFINED["silu"](x)),
    "the two gelus are one": lambda: (DEFINED["gelu"](x), DEFINED["gelu_tanh"](x)),
    "ceil is floor": lambda: (sympy.ceiling(x).rewrite(sympy.floor), sympy.floor(x)),
    "relu is |x|": lambda: (sympy.Max(0, -p), sympy.Abs(-p)),
    "relu without the half": lambda: (sympy.Max(0, p), p + sympy.Abs(p)),
    "max by the other relu": lambda: (sympy.Max(y + p, y), y + sympy.Max(0, -p)),
    "x >= 0 is x > 0": lambda: (choose(sympy.Ge(sympy.Integer(0), 0), 1, 0), choose(sympy.Gt(sympy.Integer(0), 0), 1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_near_misses_do_not_vanish(name: str) -> None:
    assert left_over(WRONG[name]()) != 0


def functions(names: Any) -> list[str]:
    """Those of them that sympy has."""
    return [name for name in names if hasattr(sympy, name) and name not in ("floor", "sign", "exp2")]


@pytest.mark.parametrize("name", functions(UNARY))
def test_what_is_not_odd_would_be_noticed(name: str) -> None:
    f = getattr(sympy, name)
    assert left_over((f(-x), -f(x))) != 0


@pytest.mark.parametrize("name", SIGNS)
def test_laws_about_signs_need_the_number_that_they_are_about(name: str) -> None:
    left, _ = SIGNS[name](p)
    _, right = SIGNS[name](-2 * p)
    assert left_over((left, right)) != 0
