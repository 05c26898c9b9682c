"""Where a pass does not apply it says why, and misuse is an error that says what to do."""

from typing import Any

import pytest
import sympy
import torch
from torch import nn

from passes import dictionary, direction, gates, heads, neurons, paths, subspace, surrogate
from rewrite import Bound, PassError
from tests.models import WIDTH
from tests.passes.checking import draw, sae, traced, transcoder

AT = "transformer.h.0.mlp"
x = sympy.Symbol("x")

REFUSED: dict[str, tuple[Any, str]] = {
    "a zero direction": (lambda: direction.at(AT, d=torch.zeros(WIDTH)), "d is zero"),
    "a direction of another width": (lambda: direction.at(AT, d=draw(5)), "d has shape [5], the site's last axis is 32"),
    "a direction that is a number": (lambda: direction.at(AT, d=3.0), "expected a tensor, got float"),
    "a direction of words": (lambda: direction.at(AT, d=["one"] * WIDTH), "expected numbers in rows of one length"),
    "a direction with a hole": (lambda: direction.at(AT, d=torch.full((WIDTH,), torch.nan)), "expected finite numbers"),
    "a direction too short": (lambda: direction.at(AT, d=torch.full((WIDTH,), 1e-30)), "d @ d is 0 in torch.float32"),
    "a direction from a function that fails": (lambda: direction.at(AT, d=lambda site: 1 / 0), "ZeroDivisionError"),
    "a direction from a function of nothing": (lambda: direction.at(AT, d=lambda site: None), "expected a tensor, got NoneType"),
    "dependent rows": (lambda: subspace.at(AT, basis=draw(1, WIDTH).repeat(2, 1)), "basis has 2 rows of rank 1"),
    "one row, flat": (lambda: subspace.at(AT, basis=draw(WIDTH)), "basis has shape [32]"),
    "a function in training mode": (lambda: surrogate.at(AT, f=transcoder().train()), "expected a module in eval mode"),
    "no function": (lambda: surrogate.at(AT), "expected f= a module, function or sympy expression, or fit= batches, got NoneType"),
    "both f and fit": (lambda: surrogate.at(AT, f=transcoder(), fit=[]), "expected f= or fit=, got both"),
    "nothing to fit on": (lambda: surrogate.at(AT, fit=[]), "expected at least one batch to fit on, got none"),
    "two symbols": (lambda: surrogate.at(AT, f=x * sympy.Symbol("z")), "expected a sympy expression in one symbol, got 2"),
    "a surrogate of another width": (lambda: surrogate.at(AT, f=nn.Linear(WIDTH, 5).eval()), "transformer.h.0.mlp/surrogate"),
    "an SAE without decoder": (
        lambda: dictionary.at(AT, sae={k: v for k, v in sae().items() if k != "W_dec"}),
        "expected sae to have W_dec, got none",
    ),
    "an SAE with more in it": (
        lambda: dictionary.at(AT, sae={**sae(), "k": 4}),
        "got also 'k'. Leave it out; TopK's k goes in as k=",
    ),
    "an SAE of another width": (lambda: dictionary.at(AT, sae=sae(8)), "the dictionary is for width 8, the site's last axis is 32"),
    "heads that do not divide": (lambda: heads.at("transformer.h.0.attn", n=5), "32 columns do not divide into 5 heads"),
    "no head": (lambda: heads.at("transformer.h.0.attn", n=0), "32 columns do not divide into 0 heads"),
    "neurons of a norm": (lambda: neurons.at("transformer.ln_f"), "written by layer_norm.default, not by a linear op"),
    "a path through a norm": (lambda: paths.at("transformer.wte -> transformer.h.1.mlp"), "expected a path of adds and scalings"),
    "a path to what comes before": (lambda: paths.at(f"{AT} -> transformer.h.0.ln_1@in"), "a reader that does not depend on it"),
    "a gate on ids": (lambda: gates.at("transformer.wte@in"), "a gate needs floating point values"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(PassError) as caught:
        traced("gpt2")[2].apply(make())
    assert reason in str(caught.value)


def test_some_sites_skipped_is_no_error() -> None:
    bound: Bound = heads.at("transformer.h.0.*", "transformer.h.0.attn")
    step = traced("gpt2")[2].apply(bound).steps[-1]
    assert "transformer.h.0.attn" in step.sites
    assert step.skipped["transformer.h.0.ln_1"] == "written by layer_norm.default, not by a linear op"


@pytest.mark.parametrize("convert", [list, lambda d: d.numpy(), lambda d: d.double()])
def test_numbers_are_taken_in_the_sites_type(convert: Any) -> None:
    program, d = traced("gpt2")[2], draw(WIDTH)
    one, other = program.apply(direction.at(AT, d=d)), program.apply(direction.at(AT, d=convert(d)))
    assert torch.equal(one.values(f"{AT}/direction")[f"{AT}/direction"], other.values(f"{AT}/direction")[f"{AT}/direction"])
