"""Matrices that are drawn when they are read: the same numbers however they are read, and uniform ones."""

from __future__ import annotations

import pytest
import torch

from tests.verify.programs import tiny
from verify import drawn, equivalence, field, scrutiny
from verify.drawn import Drawn
from verify.field import Modular, primes_below
from verify.world import World

PRIMES = primes_below(2)
KEY = bytes(range(16))


def matrix(rows: int, columns: int) -> Drawn:
    return Drawn((rows, columns), PRIMES[0], KEY, "w")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every matrix a large one, of many blocks."""
    monkeypatch.setattr(drawn, "BLOCK", 60)
    monkeypatch.setattr(drawn, "MOST", 4)
    monkeypatch.setattr(field, "LARGE", 100)


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (7, 5), (13, 20), (64, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_products_are_those_with_the_whole(small: None, rows: int, columns: int, turned: bool) -> None:
    w = matrix(rows, columns).t() if turned else matrix(rows, columns)
    math = Modular(PRIMES)
    math.longest = [9, 9]
    a = torch.randint(-(PRIMES[0] // 2), PRIMES[0] // 2, (2, 3, w.shape[0])).double()
    exact = (a.long().unsqueeze(-1) * w.whole().long()).remainder(PRIMES[0]).sum(-2).remainder(PRIMES[0])
    assert torch.equal(math.matmul(0, a, w).long().remainder(PRIMES[0]), exact)  # type: ignore[arg-type]


def test_reading_it_twice_gives_the_same_numbers(small: None) -> None:
    w = matrix(30, 7)
    assert torch.equal(w.whole(), w.t().whole().t())
    assert torch.equal(w.whole(), matrix(30, 7).whole())
    assert torch.equal(torch.cat([block.clone() for _, block in w.blocks()]), w.whole().double())


def test_blocks_are_not_alike(small: None) -> None:
    assert matrix(400, 5).whole().unique().numel() > 1990


def test_other_ops_read_it_whole() -> None:
    w = matrix(6, 4)
    whole = w.whole()
    assert torch.equal(torch.t(w), whole.t().contiguous()) if isinstance(torch.t(w), torch.Tensor) else torch.t(w).shape == (4, 6)  # type: ignore[arg-type]
    assert torch.equal(torch.reshape(w, (3, 8)), whole.reshape(3, 8))  # type: ignore[arg-type]
    assert torch.equal(w.double(), whole.double())
    assert torch.equal(torch.ops.aten.slice.Tensor(w, 0, 1, 3), whole[1:3])  # type: ignore[arg-type]
    assert isinstance(torch.ops.aten.transpose.int(w, 0, 1), Drawn)  # type: ignore[arg-type]


def test_residues_are_balanced_and_even() -> None:
    w = matrix(400, 500).whole()
    p = PRIMES[0]
    assert float(w.abs().max()) <= p // 2
    assert abs(float(w.double().mean())) < p / 100
    assert abs(float((w.double() / p).var()) - 1 / 12) < 1e-3


@pytest.mark.parametrize("dual", [False, True])
def test_a_model_of_large_matrices_is_proved_alike(small: None, dual: bool) -> None:
    assert isinstance(World(KEY).tensor("w", (40, 30)).parts[0], Drawn)
    assert equivalence(tiny("gpt2"), seed=0, gradients=dual).proved
    assert equivalence(tiny("llama"), seed=0, gradients=dual).proved


def test_what_is_too_large_to_be_compared_with_torch_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrutiny, "LARGEST", 1000)
    report = equivalence(tiny("gpt2"), seed=0)
    assert report.proved
    assert report.counts["too large for that"] > 0


def test_a_kept_product_is_given_again_for_the_same_rows_only(small: None) -> None:
    w, math = matrix(30, 7), Modular(PRIMES)
    a = torch.randint(-(PRIMES[0] // 2), PRIMES[0] // 2, (2, 30)).double()
    first = math.matmul(0, a, w)  # type: ignore[arg-type]
    w.key = bytes(16)  # whatever is drawn from now on is another matrix
    again = math.matmul(0, a, w)  # type: ignore[arg-type]
    assert torch.equal(again, first)
    again += 1  # a caller's own
    assert torch.equal(math.matmul(0, a, w), first)  # type: ignore[arg-type]
    other = a.clone()
    other[1, 3] += 1
    assert not torch.equal(math.matmul(0, other, w)[0], first[0])  # type: ignore[arg-type]


def test_a_kept_product_is_not_that_of_the_transpose(small: None) -> None:
    w, math = matrix(20, 20), Modular(PRIMES)
    a = torch.randint(-(PRIMES[0] // 2), PRIMES[0] // 2, (2, 20)).double()
    assert not torch.equal(math.matmul(0, a, w), math.matmul(0, a, w.t()))  # type: ignore[arg-type]
