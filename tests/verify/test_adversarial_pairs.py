"""More pairs made to fool the verifier: each wrong one is shown to be wrong by the input that comes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rewrite import InputError, Program, trace
from tests.verify.programs import normal
from tests.verify.test_adversarial import RIGHT, UNSEEN, Case, One, attend, rare
from verify import equivalence

Function = Callable[..., Any]
LOW = torch.finfo(torch.float32).min
IDS = torch.tensor([[1, 2, 4]])
MANY, FEW = normal(3, 100), normal(3, 4)
LARGE = torch.full((3, 4), 40.0)  # beyond what `rare` starts at
TWICE = torch.tensor([1, 1])
MASK = torch.eye(3, 4) > 0


@dataclass(frozen=True)
class Wrong:
    """Two functions that agree on `x`, and not on `shown`; `hole` says why the verifier calls them equal all the same."""

    name: str
    a: Function
    b: Function
    shown: Tensor
    x: Tensor = FEW
    weights: tuple[Tensor, ...] = ()
    hole: str = ""
    gradients: bool = False

    def programs(self) -> tuple[Program, Program]:
        """Both, traced on `x`."""
        return tuple(trace(One(f, self.weights, ()).eval(), self.x, dynamic=False) for f in (self.a, self.b))  # type: ignore[return-value]


def plateau(x: Tensor) -> Tensor:
    """All different on the example, with ties elsewhere."""
    return torch.relu(x + 30)


def at(x: Tensor, places: Tensor) -> Tensor:
    """The elements of x at places along the last dim."""
    return x.gather(-1, places)


def in_order(x: Tensor, descending: bool = False) -> Tensor:
    """Positions by a stable sort."""
    return torch.sort(x, stable=True, dim=-1, descending=descending)[1]


def is_rare(x: Tensor) -> Tensor:
    """False on every example."""
    return x > 30


def bytes_of(condition: Tensor, number: int) -> Tensor:
    """A number of eight bits where the condition holds, else zero."""
    return torch.where(condition, torch.tensor(number, dtype=torch.int8), torch.tensor(0, dtype=torch.int8))


TIED = torch.cat([normal(3, 50) - 100, torch.full((3, 50), -50.0) - torch.arange(50.0)], -1)

WRONG = (
    # which of equal elements is chosen
    Wrong("the smallest, and the last of a falling sort", lambda x: at(x, plateau(x).argmin(-1, True)),
          lambda x: at(x, in_order(plateau(x), True)[..., -1:]), TIED[:, :4]),
    Wrong("the smallest by dim, and the last of a falling sort", lambda x: at(x, plateau(x).min(-1, True)[1]),
          lambda x: at(x, in_order(plateau(x), True)[..., -1:]), TIED[:, :4]),
    Wrong("a falling sort turned round", lambda x: at(x, in_order(plateau(x))),
          lambda x: at(x, in_order(plateau(x), True).flip(-1)), TIED[:, :4]),
    Wrong("a sort that need not be stable", lambda x: at(x, plateau(x).sort(-1)[1]), lambda x: at(x, in_order(plateau(x))), TIED, MANY),
    Wrong("topk of one, and argmax", lambda x: at(x, plateau(x).topk(1, -1)[1]),
          lambda x: at(x, plateau(x).argmax(-1, True)), torch.arange(-45.0, -60, -1).view(3, 5), normal(3, 5)),
    Wrong("topk, and a stable sort", lambda x: at(x, plateau(x).topk(3, -1)[1]), lambda x: at(x, in_order(plateau(x), True)[..., :3]), TIED, MANY),
    Wrong("topk in no order", lambda x: x.topk(3, -1)[0], lambda x: x.topk(3, -1, sorted=False)[0], normal(1, 6, seed=4), normal(1, 6)),
    # numbers that become whole on the way
    Wrong("whole numbers filled with a fraction", lambda x: torch.where(is_rare(x), 2.5, (x > 60).float()),
          lambda x: (x > 60).long().masked_fill(is_rare(x), 2.5).float(), LARGE),
    Wrong("a fraction for whole numbers below a threshold", lambda x: torch.where(-rare(x).trunc() > -5, -rare(x).trunc(), 2.5),
          lambda x: F.threshold(-rare(x).long(), -5, 2.5).float(), LARGE),
    Wrong("whole numbers between fractions", lambda x: (-rare(x).trunc()).clamp(-2.5, 2.5),
          lambda x: F.hardtanh(-rare(x).long(), -2.5, 2.5).float(), LARGE),
    Wrong("a mean of whole numbers", lambda x: F.avg_pool1d(rare(x).trunc()[None], 2),
          lambda x: F.avg_pool1d(rare(x).long()[None], 2).float(), torch.tensor([[41.0, 40, 40, 40]] * 3)),
    Wrong("a mean of whole numbers, in two dims", lambda x: F.avg_pool2d(rare(x).trunc()[None], 2),
          lambda x: F.avg_pool2d(rare(x).long()[None], 2).float(), torch.tensor([[41.0, 40, 40, 40]] * 3)),
    # sums that wrap
    Wrong("truth values put on top of each other", lambda x: torch.zeros(4).index_put((TWICE,), is_rare(x[0, :2]).float(), accumulate=True),
          lambda x: torch.zeros(4, dtype=torch.bool).index_put((TWICE,), is_rare(x[0, :2]), accumulate=True).float(), LARGE),
    Wrong("truth values added", lambda x: torch.zeros(4).index_add(0, TWICE, is_rare(x[0, :2]).float()),
          lambda x: torch.zeros(4, dtype=torch.bool).index_add(0, TWICE, is_rare(x[0, :2])).float(), LARGE),
    Wrong("bytes put on top of each other", lambda x: torch.zeros(4).index_put((TWICE,), is_rare(x[0, :2]) * 100.0, accumulate=True),
          lambda x: torch.zeros(4, dtype=torch.int8).index_put((TWICE,), bytes_of(is_rare(x[0, :2]), 100), accumulate=True).float(), LARGE),
    Wrong("bytes added", lambda x: torch.zeros(4).index_add(0, TWICE, is_rare(x[0, :2]) * 100.0),
          lambda x: torch.zeros(4, dtype=torch.int8).index_add(0, TWICE, bytes_of(is_rare(x[0, :2]), 100)).float(), LARGE),
    Wrong("unsigned products", lambda x: rare(x).to(torch.uint32).float() ** 2,
          lambda x: (rare(x).to(torch.uint32) * rare(x).to(torch.uint32)).float(), torch.full((3, 4), 1e6)),
    # token ids
    Wrong("an id that has the bits of a double", lambda w, ids: (ids == 3.0).float() * w, lambda w, ids: (ids == 4613937818241073152).float() * w,
          torch.tensor([[3, 3, 3]]), IDS, (normal(3),)),
    Wrong("ids joined with halves", lambda w, ids: ids * w, lambda w, ids: torch.cat([ids, torch.zeros(1, 1).half()], -1)[:, :3].float() * w,
          torch.tensor([[4097, 4099, 1]]), IDS, (normal(3),)),
    Wrong("ids times a half", lambda w, ids: ids * w, lambda w, ids: (ids * torch.ones(1).half()).float() * w,
          torch.tensor([[4097, 4099, 1]]), IDS, (normal(3),)),
    Wrong("ids that were halves", lambda w, ids: F.embedding(ids, w), lambda w, ids: F.embedding(ids.half().long(), w),
          torch.tensor([[4097, 4099, 1]]), IDS, (normal(4200, 2),)),
    # masks
    Wrong("equal to the smallest number", lambda x: (torch.where(MASK, x, LOW) == LOW).float(), lambda x: (~MASK).float() + 0 * x,
          torch.full((3, 4), LOW)),
    # gradients
    Wrong("a row of padding does not learn", lambda w, ids: F.embedding(ids, w), lambda w, ids: F.embedding(ids, w, padding_idx=0),
          torch.tensor([[0, 0, 1]]), IDS, (normal(5, 4),), gradients=True),
    Wrong("another row of padding", lambda w, ids: F.embedding(ids, w, padding_idx=3), lambda w, ids: F.embedding(ids, w, padding_idx=0),
          torch.tensor([[0, 0, 1]]), IDS, (normal(5, 4),), gradients=True),
    Wrong("slower for frequent ids", lambda w, ids: F.embedding(ids, w), lambda w, ids: F.embedding(ids, w, scale_grad_by_freq=True),
          torch.tensor([[2, 2, 1]]), IDS, (normal(5, 4),), gradients=True),
    # limits that are known
    Wrong("products beyond 64 bits", lambda x: is_rare(x) * 2.0**64, lambda x: (is_rare(x).long() * 2**62 * 4).float(), LARGE,
          hole="whole numbers of 64 bits are taken to hold whatever is computed"),
    Wrong("too large for 64 bits", lambda x: x.trunc(), lambda x: x.long().float(), torch.full((3, 4), 1e20),
          hole="whole numbers of 64 bits are taken to hold whatever is computed"),
    Wrong("as large as the smallest number", lambda x: torch.full((3, 4), 0.25) + 0 * x, lambda x: (torch.full((3, 4), LOW) + rare(x) * 1e37).softmax(-1),
          torch.arange(30.0, 42).view(3, 4), hole="a smallest number is taken to absorb whatever is added to it"),
)  # fmt: skip


def outputs(program: Program, x: Tensor, gradients: bool) -> list[Tensor]:
    """What a program gives, or the gradients by its weights."""
    found = [t for t in tree_leaves(program(x)) if isinstance(t, Tensor)]
    if not gradients:
        return found
    weights = [t for t in program.tensors.values() if t.requires_grad]
    return list(torch.autograd.grad(torch.stack([t.sum() for t in found]).sum(), weights))


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[pytest.mark.xfail(strict=True, reason=c.hole)] if c.hole else []) for c in WRONG]
)
def test_a_wrong_pair_is_not_proved(case: Wrong) -> None:
    a, b = case.programs()
    same = lambda x: all(torch.equal(p, q) for p, q in zip(outputs(a, x, case.gradients), outputs(b, x, case.gradients), strict=True))  # noqa: E731
    assert not same(case.shown), "not shown to be wrong"
    assert not equivalence(a, b, seed=0, gradients=case.gradients).proved


# Right pairs of odd shapes: no crash, no refutation

NONE = torch.zeros(0, 4)
ODD = (
    Case("the largest of no rows", lambda x: x.amax(-1), lambda x: x.amax(-1) * 1, RIGHT, (NONE,)),
    Case("logsumexp of no rows", lambda x: x.logsumexp(-1), lambda x: (x + 1).logsumexp(-1) - 1, RIGHT, (NONE,)),
    Case("the mean of no rows", lambda x: x.mean(-1), lambda x: x.sum(-1) / 4, RIGHT, (NONE,)),
    Case("groups of no rows", lambda x: F.group_norm(x, 2), lambda x: F.group_norm(x + 1, 2), RIGHT, (torch.zeros(0, 4, 3),)),
    Case("pools of no rows", lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2) * 1, RIGHT, (torch.zeros(0, 4, 4, 4),)),
    Case("a softmax of nothing", lambda x: x.softmax(-1), lambda x: (x * 1).softmax(-1), RIGHT, (torch.zeros(3, 0),)),
    Case("nothing to attend to", lambda x, y: attend(x, y), lambda x, y: attend(x, y) * 1, RIGHT, (FEW, NONE)),
    Case("products of nothing", lambda x: x @ x.T, lambda x: (x * 1) @ x.T, RIGHT, (torch.zeros(3, 0),)),
    Case("the norm of nothing", lambda x: F.layer_norm(x, (0,)), lambda x: F.layer_norm(x * 1, (0,)), UNSEEN, (torch.zeros(3, 0),)),
    Case("logsumexp of nothing", lambda x: x.logsumexp(-1), lambda x: (x * 1).logsumexp(-1), UNSEEN, (torch.zeros(3, 0),)),
    Case("the variance of nothing", lambda x: x.var(-1), lambda x: x.var(-1) * 1, UNSEEN, (torch.zeros(3, 0),)),
    Case("no ids of no rows", lambda w, x: w[x], lambda w, x: w[x] * 1, UNSEEN, (torch.zeros(1, 0, dtype=torch.long),), (torch.zeros(0, 3),)),
    Case("logsumexp of a number", lambda x: x.logsumexp(0), lambda x: x * 1, UNSEEN, (torch.tensor(2.0),)),
    Case("a row at a number", lambda w, x: w.index_select(0, x), lambda w, x: w.index_select(0, x) * 1, RIGHT, (torch.tensor(1),), (normal(4, 4),)),
    Case("an element at a number", lambda w, x: w[0].gather(0, x), lambda w, x: w[0].gather(0, x) * 1, UNSEEN, (torch.tensor(1),), (normal(4, 4),)),
    Case("ids that were floats", lambda w, x: F.embedding(x, w), lambda w, x: F.embedding(x.float().long(), w), UNSEEN, (IDS,), (normal(5, 4),)),
    Case("equal places of a stable sort", lambda x: x.argmin(-1), lambda x: in_order(x)[..., 0], RIGHT),
    Case("the first of a stable sort", lambda x: x.argmax(-1), lambda x: in_order(x, True)[..., 0], RIGHT),
)  # fmt: skip


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_a_right_pair_of_odd_shapes(case: Case) -> None:
    assert equivalence(case.program(case.a), case.program(case.b), seed=0).verdict.value.lower() in case.allowed


def test_no_gradients_of_padding_are_proved_alike_too() -> None:
    a, b = (trace(One(f, (normal(5, 4),), ()).eval(), IDS, dynamic=False) for f in (padded, padded_twice))
    assert equivalence(a, b, seed=0, gradients=True).proved


def padded(w: Tensor, ids: Tensor) -> Tensor:
    """Rows, of which one does not learn."""
    return F.embedding(ids, w, padding_idx=0)


def padded_twice(w: Tensor, ids: Tensor) -> Tensor:
    """The same by halves."""
    return F.embedding(ids, w / 2, padding_idx=0) * 2


# What a caller may get wrong is said, not thrown

MATRIX = normal(4, 4)
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "ids beyond the table": ({"inputs": {"x": torch.tensor([[1, 2, 99]])}}, "expected inputs that both programs run on, got IndexError"),
    "a sparse tensor": ({"inputs": {"x": IDS.to_sparse()}}, "expected a dense tensor"),
    "a bound in words": ({"bound": "small"}, "expected a bound between 0 and 1, got 'small'"),
    "no bound": ({"bound": None}, "expected a bound between 0 and 1, got None"),
    "roles in a list": ({"roles": ["x"]}, r"expected roles as a dict of names, got \['x'\]"),
    "a match of numbers": ({"match": {1: 2}}, "expected match as a dict of names"),
    "an assumption that is no sentence": ({"assuming": [1]}, "assuming: expected one of .*, got 1"),
}


@pytest.mark.parametrize("what", CALLS)
def test_misuse_is_told(what: str) -> None:
    arguments, message = CALLS[what]
    program = trace(One(lambda w, ids: F.embedding(ids, w), (MATRIX,), ()).eval(), torch.tensor([[1, 2, 3]]), dynamic=False)
    with pytest.raises(InputError, match=message):
        equivalence(program, **arguments)


@pytest.mark.parametrize("x", [normal(5, 4), normal(2, 3, 4), torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4) > 0])
def test_inputs_of_another_kind_or_shape_are_told(x: Tensor) -> None:
    a, b = (trace(One(lambda w, x: x.float() @ w, (MATRIX,), ()).eval(), example, dynamic=False) for example in (FEW, x))
    with pytest.raises(InputError, match="expected the same inputs, got x as float32"):
        equivalence(a, b)


def test_inputs_without_values_are_enough_for_a_proof() -> None:
    a, b = (trace(One(f, (MATRIX,), ()).eval(), FEW, dynamic=False) for f in (lambda w, x: x @ w, lambda w, x: (2 * x) @ (w / 2)))
    assert equivalence(a, b, inputs={"x": FEW.to("meta")}).proved
