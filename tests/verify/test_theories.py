"""What the first theory leaves open is tried in others: signs as characters, exp as a homomorphism, largest as a function of sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.verify.programs import normal, plain
from verify import Verdict, equivalence
from verify.algebra import Algebra

Function = Callable[..., Any]
ABSENT = torch.tensor([True, False, False, True])


def pair(one: Function, other: Function) -> tuple[Any, Any]:
    """Two functions of one input, traced."""
    return plain(one, normal(3, 4)), plain(other, normal(3, 4))


def by_exp(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """A softmax as one writes it by hand."""
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


SAME: dict[str, tuple[str, Function, Function]] = {
    "softmax": ("exp as", lambda x: x.softmax(-1), by_exp),
    "softmax, sum without its dim": ("exp as", lambda x: x.softmax(-1), lambda x: x.exp() / x.exp().sum(-1).unsqueeze(-1)),
    "softmax of some": (
        "exp as",
        lambda x: x.masked_fill(ABSENT, float("-inf")).softmax(-1),
        lambda x: (e := x.masked_fill(ABSENT, float("-inf")).exp()) / e.sum(-1, keepdim=True),
    ),
    "sigmoid": ("exp as", torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
    "silu": ("exp as", F.silu, lambda x: x / (1 + torch.exp(-x))),
    "tanh": ("exp as", torch.tanh, lambda x: 1 - 2 / (torch.exp(2 * x) + 1)),
    "product of exps": ("exp as", lambda x: torch.exp(x + 1) * torch.exp(-x * 3), lambda x: torch.exp(1 - 2 * x)),
    "log of softmax": ("exp as", lambda x: x.log_softmax(-1), lambda x: x.softmax(-1).log()),
    "log softmax by log": ("exp as", lambda x: x.log_softmax(-1), lambda x: x - x.exp().sum(-1, keepdim=True).log()),
    "logsumexp": ("exp as", lambda x: x.logsumexp(-1), lambda x: x.exp().sum(-1).log()),
    "relu of relu": ("signs as", torch.relu, lambda x: torch.relu(torch.relu(x))),
    "relu of a multiple": ("signs as", lambda x: torch.relu(2 * x), lambda x: 2 * torch.relu(x)),
    "largest of three": ("largest and", lambda x: x[..., :3].amax(-1), lambda x: torch.maximum(torch.maximum(x[..., 0], x[..., 1]), x[..., 2])),
    "smallest of three": ("largest and", lambda x: x[..., :3].amin(-1), lambda x: torch.minimum(x[..., 2], torch.minimum(x[..., 0], x[..., 1]))),
    "largest with its place": ("largest and", lambda x: x.amax(-1), lambda x: x.max(-1).values),
    "smallest, turned round": ("largest and", lambda x: x.max(-1).values, lambda x: -(-x).min(-1).values),
    "pools of pools": ("largest and", lambda x: F.max_pool1d(F.max_pool1d(x[None], 2), 2), lambda x: F.max_pool1d(x[None], 4)),
}  # fmt: skip

OTHER: dict[str, tuple[Function, Function]] = {
    "softmax with part of the sum": (lambda x: x.softmax(-1), lambda x: x.exp() / x.exp()[..., :3].sum(-1, keepdim=True)),
    "softmax along another axis": (lambda x: x.view(3, 2, 2).softmax(-1), lambda x: by_exp(x.view(3, 2, 2), -2)),
    "softmax of a multiple": (lambda x: x.softmax(-1), lambda x: by_exp(2 * x)),
    "product of exps": (lambda x: torch.exp(x) * torch.exp(x), lambda x: torch.exp(3 * x)),
    "half an exponent": (torch.tanh, lambda x: 1 - 2 / (torch.exp(x) + 1)),
    "gelu for silu": (F.gelu, lambda x: F.silu(2 * x) / 2),
    "logsumexp of the mean": (lambda x: x.logsumexp(-1), lambda x: x.exp().mean(-1).log()),
    "largest of fewer": (lambda x: x.amax(-1), lambda x: torch.maximum(torch.maximum(x[..., 0], x[..., 1]), x[..., 2])),
    "largest of fewer with its place": (lambda x: x.amax(-1), lambda x: x[..., :3].max(-1).values),
    "smallest for largest": (lambda x: x.amax(-1), lambda x: x.amin(-1)),
    "relu of a negative multiple": (lambda x: torch.relu(-2 * x), lambda x: -2 * torch.relu(x)),
}


@pytest.mark.parametrize("name", SAME)
def test_what_another_theory_knows_is_proved_in_it(name: str) -> None:
    theory, *functions = SAME[name]
    report = equivalence(*pair(*functions), seed=0, gradients=True)
    assert report.verdict is Verdict.PROVED, str(report)
    assert theory in "; ".join(report.theory)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_wrong_is_refuted_in_all_of_them(name: str) -> None:
    assert equivalence(*pair(*OTHER[name]), seed=0).verdict is Verdict.REFUTED


def test_rules_of_other_theories_are_compared_with_torch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Algebra._by_exp

    monkeypatch.setattr(Algebra, "_by_exp", lambda self, name, x: right(self, name, self.scale(x, 2) if name == "exp" else x))
    report = equivalence(*pair(torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))), seed=0)
    assert report.verdict is Verdict.CONSISTENT
    assert "off torch" in str(report)
