"""Breadth: half precision, core ATen, and identities that other finite-field checkers accept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.core import core_program
from passes import direction, heads
from rewrite import Terms, split, trace
from tests.models import TRANSFORMERS, gpt2
from tests.verify.programs import normal, plain, tiny
from verify import Verdict, equivalence

MLP = {"gpt2": "transformer.h.1.mlp", "llama": "model.layers.1.mlp"}
ATTENTION = {"gpt2": "transformer.h.0.attn", "llama": "model.layers.0.self_attn"}


@split
def short(y: Tensor) -> Terms:
    """Two terms whose sum is a little less than the whole."""
    return Terms(y / 2, rest=y / 2 - y * 2.0**-30)


@pytest.mark.parametrize("name", [pytest.param("gpt2", marks=pytest.mark.slow), "llama"])
def test_a_model_in_bfloat16_is_traced_and_proved(name: str) -> None:
    model, example = TRANSFORMERS[name]()
    program = trace(model.bfloat16(), **example)
    assert program.header.checks["outputs"] == "bit-identical"
    report = equivalence(program.apply(heads.at(ATTENTION[name]), direction.at(MLP[name], d=normal(32).bfloat16())), seed=0)
    assert report.proved, str(report)
    assert report.drift.half.startswith("as shipped in bfloat16")
    assert equivalence(program.apply(short.at(MLP[name])), seed=0).verdict is Verdict.REFUTED


def test_a_model_in_core_aten_is_proved_and_one_of_another_eps_is_not() -> None:
    model, example = gpt2()
    program = tiny("gpt2")
    report = equivalence(program, core_program(model, **example), seed=0, assuming=["literals are roots"])
    assert report.verdict is Verdict.ASSUMING, str(report)
    model.transformer.ln_f.eps *= 1 + 2.0**-40
    other = equivalence(program, core_program(model, **example), seed=0, assuming=["literals are roots"])
    assert other.verdict in (Verdict.DIFFERS, Verdict.REFUTED), str(other)


ACCEPTED_ELSEWHERE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "gelu by a silu": (lambda x: 2 * F.gelu(x), lambda x: F.silu(2 * x)),
    "other bounds": (lambda x: x.clamp(0, 1), lambda x: x.clamp(-5, 5)),
    "the two gelus": (F.gelu, lambda x: F.gelu(x, approximate="tanh")),
    "silu without its one": (F.silu, lambda x: x * x.exp()),
    "relu by another bound": (torch.relu, lambda x: x.clamp(min=1)),
}


@pytest.mark.parametrize("name", ACCEPTED_ELSEWHERE)
def test_what_other_checkers_accept_is_refuted(name: str) -> None:
    one, other = ACCEPTED_ELSEWHERE[name]
    assert equivalence(plain(one, normal(3, 4)), plain(other, normal(3, 4)), seed=0).verdict is Verdict.REFUTED
