"""Random functions on residues: functions, odd where said, of the joint tuple, and otherwise without pattern."""

from __future__ import annotations

import itertools

import pytest
import torch

from verify.degree import CONSTANT, FREE, Degree
from verify.oracle import Oracles, canonical_sign
from verify.value import Field
from verify.world import World

KEY = bytes(range(16))


def every_tuple(primes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    grid = list(itertools.product(*(range(-(p // 2), p // 2 + 1) for p in primes)))
    return tuple(torch.tensor(grid, dtype=torch.float64).unbind(1))


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_equal_arguments_give_equal_values_and_others_do_not(count: int) -> None:
    world = World(KEY, count)
    x = world.tensor("x", (500,))
    again = Field(tuple(part.clone().double() for part in x.parts))
    one, two = world.oracle("f", [x]), world.oracle("f", [again])
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(part.abs().max() <= p // 2 for part, p in zip(one, world.primes, strict=True))
    other = world.oracle("g", [x])
    assert all((a == b).double().mean() < 0.02 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [3, 5])
def test_every_residue_of_the_argument_counts_in_every_residue_of_the_value(count: int) -> None:
    world = World(KEY, count)
    x = world.tensor("x", (200,))
    before = world.oracle("f", [x])
    for i in range(count):
        changed = Field(tuple(part + 1 if j == i else part for j, part in enumerate(x.parts)))
        assert all((a == b).sum() <= 1 for a, b in zip(before, world.oracle("f", [changed]), strict=True))


def test_the_state_is_injective() -> None:
    primes = (7, 11, 13)
    (lane,) = Oracles(KEY, primes).state("f", every_tuple(primes))
    assert lane.unique().numel() == 7 * 11 * 13
    primes = (3, 5, 3, 7, 3)
    first, second = Oracles(KEY, primes).state("f", every_tuple(primes))
    assert torch.stack([first, second]).unique(dim=1).shape[1] == 3 * 5 * 3 * 7 * 3


def test_more_primes_than_the_state_holds_are_an_error() -> None:
    with pytest.raises(ValueError, match="at most 6 primes"):
        World(KEY, 7)


def test_odd_functions_are_odd_and_vanish_at_zero() -> None:
    world = World(KEY, primes=(7, 11, 13))
    x = every_tuple(world.primes)
    value = world.oracle("tanh", [Field(x)], odd=True)
    flipped = world.oracle("tanh", [Field(tuple(-part for part in x))], odd=True)
    zero = torch.stack([part == 0 for part in x]).all(0)
    for a, b in zip(value, flipped, strict=True):
        assert torch.equal(a, -b)
        assert (a[zero] == 0).all()
    assert (canonical_sign(x) == 0).sum() == 1


def test_unequal_arguments_meet_as_often_as_chance_says() -> None:
    """The rate at which two different functions agree is one over the prime: the soundness figure, measured."""
    world = World(KEY, primes=(101, 103, 2097143))
    x = world.tensor("x", (200000,))
    one, two = world.oracle("f", [x]), world.oracle("g", [x])
    for a, b, p in list(zip(one, two, world.primes, strict=True))[:2]:
        assert 0.9 < (a == b).double().mean().item() * p < 1.1
    assert 0.6 < ((one[0] == two[0]) & (one[1] == two[1])).double().mean().item() * 101 * 103 < 1.4


def test_a_row_hash_knows_the_multiset_and_not_the_order() -> None:
    world = World(KEY)
    x = world.tensor("x", (4, 6))
    one = world.softmax_row(x, None, 1)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    two = world.softmax_row(x.each(lambda t: t[:, order]), None, 1)
    assert all(torch.equal(a[:, order], b) for a, b in zip(one, two, strict=True))
    changed = x.each(lambda t: torch.cat([t[:, :5], t[:, :1]], 1))
    assert all((a[:, :5] == b[:, :5]).sum() <= 1 for a, b in zip(one, world.softmax_row(changed, None, 1), strict=True))


def test_soft_rows_sum_to_one() -> None:
    world = World(KEY)
    ids = world.ids(torch.tensor([3, 3, 5]), "ids")
    assert ids.atom is not None
    for part, p in zip(world.atom_weights(ids.atom, ids.data, 50), world.primes, strict=True):
        assert torch.remainder(part.sum(-1), p).tolist() == [1, 1, 1]
        assert not torch.equal(part[0], part[1])


def test_the_bound_falls_with_primes_and_fails_when_a_degree_reaches_a_prime() -> None:
    bounds = []
    for count in (3, 4, 5):
        world = World(KEY, count)
        world.tally.call("f", 300_000, 12)
        bounds.append(world.log2_bound())
    assert bounds[0] == pytest.approx(-16.9, abs=0.6)
    assert bounds[0] - 16.5 > bounds[1] > bounds[2] + 16.5
    world.tally.call("f", 1, 2**21)
    assert world.bound() == float("inf")


def test_two_lanes_are_needed_from_four_primes_on() -> None:
    """A 64-bit state alone caps the bound near 2^-29 at 3e5 calls."""
    world = World(KEY, 6)
    world.tally.call("f", 300_000, 12)
    assert world.oracles.lanes == 2
    assert world.log2_bound() < -60


def test_degrees_of_quotients_count_shared_denominators_once() -> None:
    inverse = Degree(2).inverted(1)
    assert (inverse.top, inverse.bottom) == (0, 2)
    term = inverse.times(FREE).times(FREE)
    assert term.plus(term).bottom == 2
    assert term.summed(768).bottom == 2
    rows = Degree(2).inverted(5)
    assert rows.summed(3).bottom == 6
    assert rows.summed(100).bottom == 10
    assert rows.plus(FREE).top == 3
    assert inverse.times(inverse).bottom == 4
    assert CONSTANT.inverted(1) == CONSTANT
