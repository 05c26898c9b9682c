"""Pairs made to fool the verifier: wrong ones that floats hardly show, right ones that look different."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, nan, prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewrite import Program, trace
from tests.verify.programs import normal
from verify import equivalence
from verify.field import primes_below

RIGHT = frozenset({"proved"})
UNSEEN = frozenset({"proved", "consistent", "differs"})  # right, and need not be derived
WRONG = frozenset({"refuted", "differs", "unknown", "consistent"})
REFUTED = frozenset({"refuted"})

Function = Callable[..., Any]


class Holder(nn.Module):
    """A function as a module: it is called with the parameters, the buffers, then the inputs."""

    def __init__(self, function: Function, weights: tuple[Tensor, ...], buffers: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.function = function
        self.w = nn.ParameterList(nn.Parameter(w.clone()) for w in weights)
        self.held = len(buffers)
        for i, buffer in enumerate(buffers):
            self.register_buffer(f"table{i}", buffer.clone())

    def call(self, *inputs: Tensor) -> Any:
        """The function of all that is held, and of the inputs."""
        return self.function(*self.w, *(getattr(self, f"table{i}") for i in range(self.held)), *inputs)


class One(Holder):
    """With one input."""

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


class Two(Holder):
    """With two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.call(x, y)


@dataclass(frozen=True)
class Case:
    """Two functions of weights, buffers and inputs, and the verdicts that may be given; `hole` says why another one is."""

    name: str
    a: Function
    b: Function
    allowed: frozenset[str]
    inputs: tuple[Tensor, ...] = (normal(3, 4),)
    weights: tuple[Tensor, ...] = ()
    buffers: tuple[Tensor, ...] = ()
    hole: str = ""

    def program(self, function: Function) -> Program:
        """One of the two, traced."""
        module = (One if len(self.inputs) == 1 else Two)(function, self.weights, self.buffers)
        return trace(module.eval(), *self.inputs, dynamic=False)


X, Y = normal(3, 4), normal(3, 4, seed=1)
PAIR = (X, Y)
IDS = torch.tensor([[1, 2, 3]])
EYE = torch.eye(3, 4) > 0


def times_primes(x: Tensor) -> Tensor:
    """x times the primes that residues are taken by."""
    for p in primes_below(6):
        x = x * float(p)
    return x


def rare(x: Tensor) -> Tensor:
    """Zero on every example, and not for all inputs."""
    return torch.relu(x - 30)


def chosen(x: Tensor, scores: Tensor) -> Tensor:
    """The element of x where the scores are largest."""
    return x.gather(-1, scores.argmax(-1, keepdim=True))


HOLES = (
    Case("known primes", lambda x: x + 0, lambda x: x + times_primes(rare(x)), WRONG, hole="primes are known before the graphs are fixed"),
    Case(
        "a threshold off by the product of the primes",
        lambda x: (x > 30).float(),
        lambda x: (x > 30 + prod(primes_below(3))).float(),
        WRONG,
        hole="primes are known before the graphs are fixed",
    ),
    Case("clamped at the smallest half", lambda x: x + 0, lambda x: x.clamp(min=-65504.0), WRONG, hole="smallest number of another type"),
    Case(
        "masked by the smallest half",
        lambda x: torch.where(EYE, x, -inf).softmax(-1),
        lambda x: torch.where(EYE, x, -65504.0).softmax(-1),
        WRONG,
        hole="smallest number of another type",
    ),
    Case("above, or from", lambda x: (x > 0).float(), lambda x: (x >= 0).float(), WRONG, hole="> is taken for >="),
    Case(
        "above, or from, on a plateau",
        lambda x: (torch.relu(x + 30) > 0).float(),
        lambda x: (torch.relu(x + 30) >= 0).float(),
        WRONG,
        hole="> is taken for >=",
    ),
    Case(
        "above, or from, for counts",
        lambda x: ((x > 30).long().sum(-1) > 2).float(),
        lambda x: ((x > 30).long().sum(-1) >= 2).float(),
        WRONG,
        hole="> is taken for >=",
    ),
    Case(
        "asking for NaN",
        lambda x: x + 0,
        lambda x: torch.where(torch.isnan(torch.log(x + 30)), 5.0, x),
        WRONG,
        hole="isnan is plain data",
    ),
    Case(
        "asking for infinity",
        lambda x: x + 0,
        lambda x: torch.where(torch.isinf(torch.log(torch.relu(x + 30))), 5.0, x),
        WRONG,
        hole="isinf is plain data",
    ),
    Case(
        "bool plus bool",
        lambda x, y: (x > 30).float() + (y > 30).float(),
        lambda x, y: ((x > 30) + (y > 30)).float(),
        WRONG,
        PAIR,
        hole="True + True is 2",
    ),
    Case("bytes", lambda x: x.trunc(), lambda x: x.to(torch.int8).float(), WRONG, hole="integers of all widths are alike"),
    Case(
        "sums of bytes",
        lambda x, y: x.trunc() + y.trunc(),
        lambda x, y: (x.to(torch.int8) + y.to(torch.int8)).float(),
        WRONG,
        PAIR,
        hole="integers of all widths are alike",
    ),
    Case(
        "ids as bytes",
        lambda w, ids: F.embedding(ids, w),
        lambda w, ids: F.embedding(ids.to(torch.uint8).long(), w),
        WRONG,
        (IDS,),
        (normal(258, 4),),
        hole="integers of all widths are alike",
    ),
    Case(
        "a sum of whole numbers",
        lambda x: rare(x).sum(-1),
        lambda x: rare(x).sum(-1, dtype=torch.int64).float(),
        WRONG,
        hole="dtype= of a sum is not read",
    ),
    Case(
        "copied into whole numbers",
        rare,
        lambda x: torch.zeros(3, 4, dtype=torch.long).copy_(rare(x)).float(),
        WRONG,
        hole="copy keeps the type of its source",
    ),
    Case(
        "not of a number",
        lambda x: 1 - 2 * (x > 30).float(),
        lambda x: torch.logical_not((x > 30).long() * 2).float(),
        WRONG,
        hole="not n is 1 - n for numbers too",
    ),
    Case(
        "any of numbers",
        lambda x: 1 - (1 - 2 * (x > 30).float()).prod(-1),
        lambda x: ((x > 30).long() * 2).any(-1).float(),
        WRONG,
        hole="any n is 1 - (1 - n) for numbers too",
    ),
    Case(
        "the first of two equal ones",
        lambda x: chosen(x, torch.relu(x + 30)),
        lambda x: chosen(x.flip(-1), torch.relu(x.flip(-1) + 30)),
        WRONG,
        hole="ties do not look at positions",
    ),
    Case(
        "the first of two equal ones, of two",
        lambda x: chosen(x, torch.relu(x + 30)),
        lambda x: chosen(x.flip(-1), torch.relu(x.flip(-1) + 30)),
        WRONG,
        (normal(3, 2),),
        hole="ties do not look at positions",
    ),
    Case(
        "beside the undefined",
        lambda x, y: torch.cat([torch.where(x > 30, x, nan), y]),
        lambda x, y: torch.cat([torch.where(x > 30, x + 1, nan), y]),
        WRONG,
        PAIR,
        hole="NaN on one side of a gate taints both",
    ),
    Case(
        "signed zeros",
        lambda x: torch.atan2(torch.full((4,), 0.0), x + 30),
        lambda x: torch.atan2(torch.full((4,), -0.0), x + 30),
        WRONG,
        hole="-0.0 is 0.0",
    ),
    Case(
        "a position as a truth value",
        lambda x: F.one_hot((x + torch.tensor([30.0, 30, 0, 0])).argmax(-1), 4).float(),
        lambda x: F.one_hot((x + torch.tensor([30.0, 30, 0, 0])).argmax(-1).to(torch.bool).long(), 4).float(),
        WRONG,
        hole="casts of positions are not read",
    ),
    Case(
        "keys swapped",
        lambda x, y: {"sum": x + y, "product": x * y},
        lambda x, y: {"product": x + y, "sum": x * y},
        WRONG,
        PAIR,
        hole="outputs are compared by position",
    ),
    Case("truth values as numbers", lambda x: x > 0, lambda x: (x > 0).float(), WRONG, hole="types of outputs are not compared"),
)


CASES = (
    Case("relu6", lambda x: F.relu6(x), lambda x: x.clamp(0, 6), RIGHT),
    Case("other bounds", lambda x: F.relu6(x), lambda x: x.clamp(0, 6.5), REFUTED),
)


def parameters() -> Iterator[Any]:
    """The table as pytest has it: what the verifier is known to get wrong is expected to fail."""
    for case in CASES:
        yield pytest.param(case, id=case.name)
    for case in HOLES:
        yield pytest.param(case, id=case.name, marks=pytest.mark.xfail(strict=True, reason=case.hole))


@pytest.mark.parametrize("case", parameters())
def test_the_verdict_is_one_of_those_allowed(case: Case) -> None:
    report = equivalence(case.program(case.a), case.program(case.b), seed=0)
    assert report.verdict.value.lower() in case.allowed, str(report)
