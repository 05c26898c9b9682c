"""Passes in any order at any sites keep the numbers, and a decomposition of a user's own is worth as much as ours."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from passes import direction, gates, neurons, norm, paths
from rewrite import PassError, Terms, split, trace
from tests.models import WIDTH
from tests.passes.checking import PASSES, assert_close, assert_edit, draw, hooked, logits, mlp, proved, traced
from verify import equivalence

NAMES = st.lists(st.sampled_from(sorted(PASSES)), min_size=2, max_size=4, unique=True)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@given(names=NAMES)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_order(name: str, names: list[str]) -> None:
    model, example, program = traced(name)
    refused = []
    for one in names:
        try:
            program = program.apply(PASSES[one](name))
        except PassError as error:  # what a linear op wrote is a sum once it is split
            refused.append(str(error))
    assert all("not by a" in text or "adds and scalings" in text for text in refused), refused
    assert len(refused) < len(names)
    assert_close(logits(program, example), logits(model, example), 128)


@split
def halves(y: Tensor, *, d: Tensor) -> Terms:
    """What of `y` is along `d`, and the rest."""
    along = (y @ d).unsqueeze(-1) * (d / (d @ d))
    return Terms(along, rest=y - along)


@halves.claim("the rest has no component along d")
def _(t: Terms, y: Tensor, *, d: Tensor):
    return t.rest @ d, 0


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_split_of_ones_own(name: str) -> None:
    model, example, program = traced(name)
    at, d = mlp(name), draw(WIDTH)
    rewritten = program.apply(halves.at(at, d=d, name="fire"), gates.at(f"{at}/fire"))
    assert proved(rewritten).claims
    unit = d / d.norm()
    with hooked(model, at, output=lambda x, y: y - (y @ unit)[..., None] * unit):
        assert_edit(rewritten, {f"{at}/fire": 0.0}, model, example)


class Mixed(nn.Module):
    """A stream of a norm and two writes, one of them the norm of a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.LayerNorm(6), nn.LayerNorm(6)
        self.f, self.g, self.out = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x)
        stream = stream + self.f(stream)
        return self.out(stream + self.norm(self.g(stream)))


ON_WHAT_A_CLAIM_READS = {
    "an operand of a path": [paths.at("f -> out@in"), norm.at("first")],
    "what a norm reads": [norm.at("norm"), neurons.at("g")],
    "what was split": [direction.at("g", d=torch.linspace(1, 2, 6)), neurons.at("g")],
}


@pytest.mark.parametrize("name", ON_WHAT_A_CLAIM_READS)
def test_claims_follow_what_is_written_anew(name: str) -> None:
    torch.manual_seed(0)
    report = equivalence(trace(Mixed().eval(), torch.randn(4, 6)).apply(*ON_WHAT_A_CLAIM_READS[name]), seed=0)
    assert report.proved, str(report)
