"""Models without weights: built, traced and rewritten without a number in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.mutants import mutant
from passes import direction, heads
from rewrite import TraceError, trace, weightless
from tests.models import TRANSFORMERS
from verify import Verdict, equivalence


class Wavy(nn.Module):
    """A linear map with a table that is part of the architecture, and one that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)
        self.register_buffer("wave", torch.arange(4.0).sin(), persistent=False)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x - self.mean) * self.wave


def test_parameters_are_without_numbers_and_buffers_are_real() -> None:
    with weightless():
        model = Wavy()
    assert all(p.is_meta for p in model.parameters())
    assert torch.equal(model.wave, torch.arange(4.0).sin())
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_a_model_without_weights_is_rewritten_and_proved(name: str) -> None:
    with weightless():
        model, inputs = TRANSFORMERS[name]()
    program = trace(model, **inputs)
    assert program.header.checks["outputs"] == "unchecked"
    assert all(p.is_meta for p in model.parameters()), "the model is as it was"
    site = "transformer.h.0.mlp" if name == "gpt2" else "model.layers.0.mlp"
    report = equivalence(program.apply(heads.at("**"), direction.at(site, d=torch.ones(32))), seed=0)
    assert report.verdict is Verdict.PROVED
    assert "no values" in str(report)


def test_tied_weights_stay_tied() -> None:
    with weightless():
        model, inputs = TRANSFORMERS["gpt2"]()
    program = trace(model, **inputs)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(leaf.name in ("lm_head.weight", "transformer.wte.weight") for leaf in program.leaves.values()) >= 1


def test_a_table_of_the_architecture_without_numbers_is_refused_by_name() -> None:
    with torch.device("meta"):
        model = Wavy().eval()
    with pytest.raises(TraceError, match=r"got wave on the meta device.*rewrite.weightless"):
        trace(model, torch.zeros(2, 4))


def test_learned_buffers_need_no_numbers() -> None:
    with weightless():
        model = Wavy().eval()
    model.mean = model.mean.to("meta")
    assert equivalence(trace(model, torch.zeros(2, 4)), seed=0).proved


def test_mutants_of_a_model_without_weights_are_not_proved() -> None:
    with weightless():
        model, inputs = TRANSFORMERS["llama"]()
    program = trace(model, **inputs, dynamic=False)
    rewritten = program.apply(direction.at("model.layers.0.mlp", d=torch.ones(32)))
    for name in ("drop_a_term", "double_a_term"):
        wrong = mutant(name, rewritten, seed=0)
        assert wrong is not None
        report = equivalence(program, wrong.program, seed=0)
        assert report.verdict is Verdict.DIFFERS, name
        assert "no values" in str(report)


def test_deeper_models_have_no_more_distinct_regions() -> None:
    found = []
    for layers in (2, 4):
        with weightless():
            model, inputs = TRANSFORMERS["llama"]()
            model = type(model)(type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": layers})).eval()
        program = trace(model, **inputs, dynamic=False)
        report = equivalence(program.apply(direction.at("model.layers.*.mlp", d=torch.ones(32)), heads.at("**")), seed=0)
        assert report.proved
        found.append(report.counts["distinct regions"])
    assert found[0] == found[1]
