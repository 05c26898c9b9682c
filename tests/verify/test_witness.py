"""The witness search: what it must find, and that it never finds one between equal programs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rewrite import trace
from tests.verify.programs import normal, plain, toy, variant
from tests.verify.toy import CORRECT
from verify import Verdict, equivalence
from verify.cases import given_cases, redrawn, rows_read
from verify.harvest import harvest
from verify.ladder import Sides
from verify.match import match
from verify.roles import roles_of
from verify.witness import search


def look(a, b):
    pairs = tuple((name or "y", x.name, y.name) for name, x, y in zip(a.calling.outputs, a.outputs, b.outputs, strict=True))
    cases = given_cases(a, None)
    return search(Sides(a, b, match(a, b), pairs), cases, roles_of(a, cases[0]), seed=0)


@pytest.mark.parametrize("name", CORRECT)
def test_none_between_equal_programs(name: str) -> None:
    assert look(toy(), variant(name)) is None


def test_literals_and_table_rows_are_harvested() -> None:
    rare, moved = torch.arange(9) == 4, torch.tensor([0, 2, 1, 3])
    program = plain(lambda rare, moved, x: (x > 7.5) * rare[4] + moved.sum() + x.clamp(max=1e6), normal(3), tables=(rare, moved))
    found = harvest(program)
    assert 7.5 in found.numbers
    assert 1e6 in found.numbers
    assert {4, 1, 2} <= found.ids


def test_a_threshold_is_met() -> None:
    a, b = plain(lambda x: x, normal(2, 3)), plain(lambda x: x + (x > 12345.0) * 1.0, normal(2, 3))
    found = look(a, b)
    assert found is not None
    assert found.values["x"].max() > 12345
    assert found.reachable


def test_a_dropped_eps_shows_at_a_small_scale() -> None:
    eps = lambda e: lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + e)  # noqa: E731
    a, b = plain(eps(1e-12), normal(2, 3) * 1e3), plain(eps(0.0), normal(2, 3) * 1e3)
    found = look(a, b)
    assert found is not None
    assert found.how.startswith("random inputs of scale")


def test_an_overflow_is_no_witness() -> None:
    assert look(plain(lambda x: x.logsumexp(-1), normal(3, 4)), plain(lambda x: x.exp().sum(-1).log(), normal(3, 4))) is None


class Trigger(torch.nn.Module):
    """3 y, and 2 more where y is above 50, if `on`."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    def forward(self, y: Tensor) -> Tensor:
        return y * 3 + ((y > 50.0) * 2.0 if self.on else 0.0)


class Bounded(torch.nn.Module):
    """A trigger behind values that stay within [-1, 1]."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = torch.nn.Linear(3, 3), torch.nn.Tanh(), Trigger(on)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        return (y + y) + self.last(y)


def test_a_region_witness_says_that_it_may_be_out_of_reach() -> None:
    a, b = (trace(Bounded(on).eval(), normal(2, 3)) for on in (False, True))
    report = equivalence(a, b)
    assert report.verdict is Verdict.REFUTED
    assert report.witness is not None
    assert not report.witness.reachable
    assert "not shown to be reachable" in str(report)


def test_inputs_are_redrawn_by_role() -> None:
    program = toy()
    case = given_cases(program, None)[0]
    drawn = redrawn(program, case, {"ids": "ids"}, torch.Generator().manual_seed(0))["ids"]
    assert drawn.dtype == torch.int64
    assert int(drawn.max()) < 23
    assert not torch.equal(drawn, case["ids"])
    assert rows_read(program, "ids", case["ids"]) == 23
    assert torch.equal(redrawn(program, case, {"ids": "mask"}, torch.Generator())["ids"], case["ids"])
