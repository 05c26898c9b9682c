"""Residues against exact rational arithmetic, and the random streams they are drawn from."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.field import Modular, primes_below, stream, uniform

MATH = Modular(primes_below(3))
KEY = bytes(range(16))
doubles = st.floats(allow_nan=False, allow_infinity=False)


def residue(value: Fraction, p: int) -> int:
    rest = value.numerator * pow(value.denominator, -1, p) % p
    return rest - p if rest > p // 2 else rest


def balanced(i: int, exact: torch.Tensor) -> torch.Tensor:
    p = MATH.primes[i]
    rest = torch.remainder(exact, p)
    return torch.where(rest > p // 2, rest - p, rest).double()


def test_primes_are_the_largest_below_two_to_the_21() -> None:
    assert primes_below(3) == (2097143, 2097133, 2097131)
    assert all(p % 8 == 7 for p in primes_below(3, 8, 7))


@settings(max_examples=200, deadline=None)
@given(doubles)
def test_a_double_is_the_fraction_it_is(x: float) -> None:
    lifted = MATH.lift(torch.tensor([x], dtype=torch.float64))
    for i, p in enumerate(MATH.primes):
        assert lifted[i].item() == MATH.number(x)[i] == residue(Fraction(x), p)


@settings(max_examples=50, deadline=None)
@given(doubles, doubles)
def test_products_and_sums_respect_the_map(x: float, y: float) -> None:
    a, b = (MATH.lift(torch.tensor(v, dtype=torch.float64)) for v in (x, y))
    for i, p in enumerate(MATH.primes):
        assert MATH.tidy(i, a[i] * b[i]).item() == residue(Fraction(x) * Fraction(y), p)
        assert MATH.tidy(i, a[i] + b[i]).item() == residue(Fraction(x) + Fraction(y), p)


def test_whole_numbers_and_half_precision_are_exact() -> None:
    data = torch.tensor([0, 1, -1, 2**62, -(2**63), 2**63 - 1])
    for i, p in enumerate(MATH.primes):
        assert MATH.lift(data)[i].tolist() == [residue(Fraction(n), p) for n in data.tolist()]
    low = torch.tensor([0.1, -3.5, 6e-8], dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(MATH.lift(low), MATH.lift(low.double()), strict=True))


def test_matmul_is_exact_at_any_length() -> None:
    for length in (7, 8000, 20000):
        a, b = uniform(MATH, KEY, "a", (3, length)), uniform(MATH, KEY, "b", (length, 5))
        for i in range(3):
            exact = balanced(i, a[i].long() @ b[i].long())
            assert torch.equal(MATH.matmul(i, a[i].double(), b[i]), exact)
            assert torch.equal(MATH.matmul(i, a[i], b[i].double()), exact)
            assert torch.equal(MATH.matmul(i, a[i][None], b[i].double()[None])[0], exact)
            assert torch.equal(MATH.matmul(i, a[i], b[i].T.contiguous().T), exact)


def test_extreme_residues_do_not_overflow() -> None:
    p = MATH.primes[0]
    top = torch.full((2, 20000), float(p // 2), dtype=torch.float64)
    exact = balanced(0, torch.tensor(20000 * (p // 2) ** 2))
    assert (MATH.matmul(0, top, top.T) == exact).all()


def test_a_contraction_too_long_to_be_exact_is_an_error() -> None:
    a = torch.ones(9000, dtype=torch.float64)
    with pytest.raises(ValueError, match="at most"):
        MATH.contract(0, torch.dot, a, a, 9000)


def test_inverses_and_where_there_are_none() -> None:
    x = uniform(MATH, KEY, "x", (50,))
    x[1][3] = 0
    inverse, zero = MATH.inverse(x)
    assert zero.nonzero().tolist() == [[3]]
    for i in range(3):
        product = MATH.tidy(i, inverse[i] * x[i])
        assert bool(((product == 1) | (x[i] == 0)).all())


def test_signs_are_multiplicative_and_odd() -> None:
    math = Modular(primes_below(2, 8, 7))
    x, y = uniform(math, KEY, "x", (200,)), uniform(math, KEY, "y", (200,))
    of = lambda v: math.signs(v)  # noqa: E731
    for i in range(2):
        product = tuple(math.tidy(j, a.double() * b) for j, (a, b) in enumerate(zip(x, y, strict=True)))
        assert torch.equal(of(product)[i], of(x)[i] * of(y)[i])
        assert torch.equal(of(tuple(-a for a in x))[i], -of(x)[i])
        assert of(tuple(2.0 * torch.ones(1) for _ in x))[i].item() == 1


def test_streams_depend_on_every_bit_of_key_and_label() -> None:
    draws = {tuple(torch.randint(2**31, (4,), generator=stream(key, label)).tolist()) for key in (KEY, KEY[::-1]) for label in "ab"}
    assert len(draws) == 4
    other = bytes([KEY[0] ^ 1]) + KEY[1:]
    assert not torch.equal(uniform(MATH, KEY, "w", (9,))[0], uniform(MATH, other, "w", (9,))[0])
    assert torch.equal(uniform(MATH, KEY, "w", (9,))[0], uniform(MATH, KEY, "w", (9,))[0])


def test_draws_are_uniform_residues() -> None:
    math = Modular((7, 11))
    for part, p in zip(uniform(math, KEY, "w", (70000,)), math.primes, strict=True):
        counts = torch.bincount((part + p // 2).long(), minlength=p).double()
        assert counts.numel() == p
        assert (counts / 70000 * p - 1).abs().max() < 0.06
