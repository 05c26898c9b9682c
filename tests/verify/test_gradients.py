"""Gradients in exact arithmetic: rewrites keep them, a stop-gradient is seen, and wrong laws of derivatives are found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from passes import direction, heads
from rewrite import Terms, split, trace
from tests.verify.programs import normal, plain, tiny, toy, variant
from verify import Verdict, derivative, equivalence
from verify.rules import RULES
from verify.value import Field

Function = Callable[..., Any]
AT = {"gpt2": "transformer.h.0.mlp", "llama": "model.layers.0.mlp", "mixtral": "model.layers.1.self_attn"}


def verdicts(one: Function, other: Function, *weights: Tensor, x: Tensor | None = None) -> tuple[Verdict, Verdict]:
    """What is said of two functions of weights and x, without and with gradients."""
    programs = [plain(f, normal(3, 4) if x is None else x, *weights) for f in (one, other)]
    return equivalence(*programs, seed=0).verdict, equivalence(*programs, seed=0, gradients=True).verdict


# What is the same


def test_statistics_of_a_norm_are_no_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU()).eval()
    program = trace(model, torch.randn(2, 3, 6, 6))
    report = equivalence(program, trace(model, torch.randn(2, 3, 6, 6)), seed=0, gradients=True)
    assert report.verdict is Verdict.PROVED, str(report)


@pytest.mark.parametrize("name", sorted(AT))
def test_rewrites_of_real_architectures_keep_gradients(name: str) -> None:
    rewritten = tiny(name).apply(heads.at("**"), direction.at(AT[name], d=normal(32)))
    report = equivalence(rewritten, seed=0, gradients=True)
    assert report.verdict is Verdict.PROVED, str(report)
    assert "gradients by all weights and float inputs" in str(report)


def test_another_way_of_writing_a_model_keeps_gradients() -> None:
    assert equivalence(toy(), variant("c_res"), seed=0, gradients=True).verdict is Verdict.PROVED


SAME: dict[str, tuple[Function, Function]] = {
    "silu": (F.silu, lambda x: x * torch.sigmoid(x)),
    "sigmoid by tanh": (torch.sigmoid, lambda x: (torch.tanh(x / 2) + 1) / 2),
    "gelu": (F.gelu, lambda x: x * (1 + torch.erf(x * 2**-0.5)) / 2),
    "relu by where": (torch.relu, lambda x: torch.where(x > 0, x, 0.0)),
    "relu by max": (torch.relu, lambda x: torch.maximum(x, torch.zeros_like(x))),
    "abs": (torch.abs, lambda x: torch.relu(x) + torch.relu(-x)),
    "clamp": (lambda x: x.clamp(-1, 1), lambda x: torch.minimum(torch.maximum(x, -torch.ones_like(x)), torch.ones_like(x))),
    "softmax of a shift": (lambda x: x.softmax(-1), lambda x: (x - x.mean(-1, keepdim=True)).softmax(-1)),
    "log softmax": (lambda x: x.log_softmax(-1), lambda x: x - x.logsumexp(-1, keepdim=True)),
    "log softmax of a shift": (lambda x: x.log_softmax(-1), lambda x: (x + 3).log_softmax(-1)),
    "root": (lambda x: (x * x + 1).sqrt(), lambda x: (x * x + 1) * (x * x + 1).rsqrt() * 0 + 1 / (x * x + 1).rsqrt()),
    "norm": (lambda x: F.layer_norm(x, (4,)), lambda x: (x - x.mean(-1, keepdim=True)) * (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()),
    "largest of a set": (lambda x: x.amax(-1), lambda x: torch.cat([x, x[..., :2]], -1).amax(-1)),
    "sorted": (lambda x: x.topk(2, -1)[0], lambda x: x.gather(-1, x.topk(2, -1)[1])),
    "padded": (lambda x: F.pad(x, (1, 1), value=2.0)[..., 1:-1], lambda x: x * 1),
    "running sum": (lambda x: x.cumsum(-1)[..., -1], lambda x: x.sum(-1)),
    "product": (lambda x: x.prod(-1), lambda x: x[..., 0] * x[..., 1] * x[..., 2] * x[..., 3]),
    "power": (lambda x: (x * x).pow(1.5), lambda x: x.square() ** 1.5),
    "quotient": (lambda x: x / (x * x + 1), lambda x: x * (x.square() + 1).reciprocal()),
    "steps": (lambda x: x * x.round(), lambda x: x * x.round().detach()),
    "what is detached on both sides": (lambda x: x + x.detach(), lambda x: x.detach() + x),
    "waves": (lambda x: torch.sin(x) + torch.cos(x), lambda x: torch.cos(x) - torch.sin(-x)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_two_ways_of_writing_a_function_have_one_gradient(name: str) -> None:
    assert verdicts(*SAME[name]) == (Verdict.PROVED, Verdict.PROVED)


# What is not


@split
def stopped(y: Tensor, *, d: Tensor) -> Terms:
    """What a dictionary with a stop-gradient error does: the remainder is right, its gradient is not."""
    along = (y @ d).unsqueeze(-1) * d
    return Terms(along, rest=(y - along).detach())


def test_a_stop_gradient_remainder_is_the_same_function_with_other_gradients() -> None:
    rewritten = tiny("gpt2").apply(stopped.at(AT["gpt2"], d=normal(32)))
    assert equivalence(rewritten, seed=0).proved
    report = equivalence(rewritten, seed=0, gradients=True)
    assert report.verdict is Verdict.REFUTED
    assert report.site.startswith(AT["gpt2"])
    assert "stopped" in report.step


OTHER: dict[str, tuple[Function, Function]] = {
    "detached factor": (lambda w, x: (x @ w) * (x @ w), lambda w, x: (x @ w) * (x @ w).detach()),
    "detached weight": (lambda w, x: x @ w, lambda w, x: x @ w.detach()),
    "detached scale of a norm": (
        lambda w, x: (x @ w) * (x.square().mean(-1, keepdim=True) + 1).rsqrt(),
        lambda w, x: (x @ w) * (x.square().mean(-1, keepdim=True) + 1).rsqrt().detach(),
    ),
    "detached pattern": (lambda w, x: (x @ w).softmax(-1) @ w, lambda w, x: (x @ w).softmax(-1).detach() @ w),
    "detached choice": (lambda w, x: (x @ w).amax(-1), lambda w, x: (x @ w).detach().amax(-1)),
    "straight-through": (lambda w, x: (x @ w).round(), lambda w, x: (x @ w) + ((x @ w).round() - x @ w).detach()),
    # these gradients are zero on the inputs that floats are run on
    "detached where nothing fires": (lambda w, x: torch.relu(x @ w - 1e4), lambda w, x: torch.relu(x @ w - 1e4).detach()),
    "detached far away": (
        lambda w, x: torch.where(x > 1e6, x @ w, x),
        lambda w, x: torch.where(x > 1e6, (x @ w).detach(), x),
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_stops_a_gradient_is_not_proved(name: str) -> None:
    alone, with_gradients = verdicts(*OTHER[name], normal(4, 4))
    assert alone is Verdict.PROVED
    assert with_gradients in (Verdict.REFUTED, Verdict.DIFFERS)


# The checker checks itself


def test_a_wrong_law_of_derivatives_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(derivative.TIED, "tanh", lambda a, x, y: a.sub(1, y))
    report = equivalence(plain(torch.tanh, normal(3, 4)), seed=0, gradients=True)
    assert report.verdict is Verdict.CONSISTENT
    assert "off torch's" in str(report)


def test_a_rule_that_loses_a_derivative_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, torch.ops.aten.tanh.default, lambda a, x: Field(a.oracle("tanh", x, odd=True).parts))
    assert "a derivative was lost" in str(equivalence(plain(torch.tanh, normal(3, 4)), seed=0, gradients=True))


def test_a_rule_that_keeps_the_derivative_of_another_value_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(a: Any, x: Any) -> Field:
        return Field(a.mul(x, x).parts, along=a.field(x).along)

    monkeypatch.setitem(RULES, torch.ops.aten.square.default, stale)
    assert "a derivative of another value" in str(equivalence(plain(torch.square, normal(3, 4)), seed=0, gradients=True))
