"""The witness search: what it must find, and that it never finds one between equal programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rewrite import trace
from tests.verify.programs import normal, plain, toy, variant
from tests.verify.toy import CORRECT
from verify import Verdict, equivalence
from verify.cases import given_cases, redrawn, rows_read
from verify.job import Job
from verify.ladder import Sides
from verify.match import match
from verify.roles import roles_of
from verify.runs import Setting
from verify.witnesses.harvest import harvest
from verify.witnesses.witness import search


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


# Ties: rounding decides on which side of a jump a number falls, so what differs there need not be another function


def both_ways(v: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One product in two ways."""
    return (x @ v) @ w, x @ (v @ w)


def twice(v: Tensor, w: Tensor, x: Tensor) -> Tensor:
    return torch.cat([both_ways(v, w, x)[0]] * 2, -1)


def once_each(v: Tensor, w: Tensor, x: Tensor) -> Tensor:
    return torch.cat(both_ways(v, w, x), -1)


TIES = {
    "argmax": (lambda v, w, x: twice(v, w, x).argmax(-1), lambda v, w, x: once_each(v, w, x).argmax(-1)),
    "chosen": (lambda v, w, x: x.gather(-1, twice(v, w, x).argmax(-1, True) // 4), lambda v, w, x: x.gather(-1, once_each(v, w, x).argmax(-1, True) // 4)),
    "above": (lambda v, w, x: (both_ways(v, w, x)[0] > both_ways(v, w, x)[0]) * 1.0, lambda v, w, x: (both_ways(v, w, x)[0] > both_ways(v, w, x)[1]) * 1.0),
    "floor": (lambda v, w, x: (both_ways(v, w, x)[0] - both_ways(v, w, x)[0]).floor(), lambda v, w, x: (both_ways(v, w, x)[0] - both_ways(v, w, x)[1]).floor()),
}  # fmt: skip


@pytest.mark.parametrize("name", TIES)
def test_a_tie_that_rounding_breaks_is_no_witness(name: str) -> None:
    one, other = (plain(f, normal(5, 4), normal(4, 8), normal(8, 4, seed=2)) for f in TIES[name])
    assert not torch.equal(one(normal(5, 4)), other(normal(5, 4)))  # floats do differ
    assert look(one, other) is None


def test_a_choice_that_is_another_one_is_a_witness() -> None:
    a, b = (plain(lambda v, w, x, s=s: ((x @ v) @ w * s).argmax(-1), normal(5, 4), normal(4, 8), normal(8, 4, seed=2)) for s in (1, -1))
    assert look(a, b) is not None
    assert look(plain(lambda x: (x > 0.25) * 1.0, normal(5, 4)), plain(lambda x: (x > 0.5) * 1.0, normal(5, 4))) is not None


def lost_beside(k: float) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.nn.functional.layer_norm(k + (y - k), (8,), eps=1e-12)


@pytest.mark.parametrize(("other", "parts"), [(lost_beside(1.7), False), (lambda y: lost_beside(0.3)(2 * y), True)])
def test_what_float32_loses_and_float64_rounds_is_no_difference(other: Callable[[Tensor], Tensor], parts: bool) -> None:
    y = 1e-12 * normal(3, 8)
    a = plain(lost_beside(0.3), y)
    case = given_cases(a, None)[0]
    setting = Setting(Job.of(a, plain(other, y), [case], False, {}, {}).sides, case)
    values = {name: value.double() for name, value in setting.values(setting.case).items()}
    assert setting.differs(values) is not None  # float32 sees 0, so that its errors explain nothing of what float64 rounds
    assert (setting.parts(values) is not None) == parts


def test_what_float32_loses_whole_and_float64_in_part_is_no_witness() -> None:
    """Of x + 1 at 1e-12 float32 keeps nothing, so that its error says little of float64's."""

    class Shifted(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.out, self.by = nn.LayerNorm(32, eps=1e-12), nn.Linear(32, 8), by

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x + self.by))

    a, b = (trace(Shifted(by).eval(), normal(2, 32)) for by in (0.0, 1.0))
    assert equivalence(a, b, seed=0).proved
    setting = Setting(Job.of(a, b, given_cases(a, None), False, {}, {}).sides, given_cases(a, None)[0])
    tiny = {"x": 1e-12 * normal(2, 32, seed=1)}
    assert setting.differs(tiny) is not None
    assert setting.parts(tiny) is None
