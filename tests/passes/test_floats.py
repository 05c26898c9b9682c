"""Every pass on every architecture: the model's numbers and gradients, in grad mode and without, at two shapes; and proved."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rewrite import Program
from tests.models import TRANSFORMERS
from tests.passes.checking import PASSES, assert_close, logits, other_example, proved, traced

CELLS = [(p, m) for p in PASSES for m in TRANSFORMERS]


@pytest.mark.parametrize(("name", "architecture"), CELLS)
def test_outputs_are_the_models(name: str, architecture: str) -> None:
    model, example, program = traced(architecture)
    rewritten = program.apply(PASSES[name](architecture))
    for inputs in (example, other_example(example)):
        wanted = logits(model, inputs)
        assert_close(logits(rewritten, inputs), wanted)
        assert_close(rewritten(**inputs).logits.detach(), wanted)


def gradients(model: nn.Module, called: Any, example: dict[str, Any]) -> dict[str, Tensor]:
    cotangent = torch.randn(logits(model, example).shape, generator=torch.Generator().manual_seed(3))
    named = dict(model.named_parameters())
    found = torch.autograd.grad(called(**example).logits, list(named.values()), cotangent, allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize(("name", "architecture"), CELLS)
def test_gradients_are_the_models(name: str, architecture: str) -> None:
    model, example, program = traced(architecture)
    wanted = gradients(model, model, example)
    found = gradients(model, program.apply(PASSES[name](architecture)), example)
    assert found.keys() == wanted.keys()
    assert len(wanted) > 15
    scale = max(float(g.abs().max()) for g in wanted.values())
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=2e-6 * scale, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "architecture"), CELLS)
def test_the_sum_and_the_claims_are_proved(name: str, architecture: str) -> None:
    program: Program = traced(architecture)[2].apply(PASSES[name](architecture))
    report = proved(program)
    assert len(report.claims) == len(program.claims)
    assert bool(report.claims) == (name not in ("surrogate", "gates"))
