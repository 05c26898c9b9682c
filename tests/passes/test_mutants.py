"""Wrong versions of every law: of its sum, and of what it claims. None of them may pass."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.mutants.claims import claiming, exchanged, mixed, no_gram, other_decoder, other_direction, scaled_elsewhere, unnormalised
from passes import dictionary, direction, heads, neurons, norm, subspace
from passes.dictionary import activations
from rewrite import Family, PassError, Terms, part, reform, split
from rewrite.law import Law
from tests.models import HEADS, WIDTH
from tests.passes.checking import assert_claim_fails, assert_refuted, draw, mlp, proved, sae, traced

# ------------------------------------------------------------------------------------------------ the sum is wrong


@split
def rest_of_nothing(y: Tensor, *, d: Tensor) -> Terms:
    along = (y @ d).unsqueeze(-1) * (d / (d @ d))
    return Terms(along, rest=y)


@split
def off_by_a_little(y: Tensor, *, d: Tensor) -> Terms:
    along = (y @ d).unsqueeze(-1) * (d / (d @ d))
    return Terms(along, rest=y - along * (1 + 2**-20))


@split(of="linear")
def no_bias(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    return Terms(Family("...n,mn->...m", x, weight, axis="n", act=x))


@split(of="linear")
def bias_twice(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    assert bias is not None
    return Terms(x @ weight.mT + bias, bias=bias)


@split(of="linear")
def rolled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    z, w = x.unflatten(-1, (HEADS, -1)), weight.unflatten(-1, (HEADS, -1)).roll(1, 1)
    return Terms(Family("...nk,mnk->...m", z, w, axis="n", act=z), bias=bias)


@split(of="linear")
def interleaved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    z, w = x.unflatten(-1, (-1, HEADS)), weight.unflatten(-1, (HEADS, -1))
    return Terms(Family("...kn,mnk->...m", z, w, axis="n", act=z), bias=bias)


@split(of="linear")
def turned(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    return Terms(x @ weight, bias=bias)


@split
def half_an_error(y: Tensor, *, sae: Any) -> Terms:
    acts = activations(y, sae, None)
    return Terms(Family("...f,fm->...m", acts, sae["W_dec"], axis="f", act=acts), bias=sae["b_dec"], error=y - acts @ sae["W_dec"])


ATTENTION = "transformer.h.0.attn"
SUMS = {
    "the rest is the whole": lambda: rest_of_nothing.at(mlp("gpt2"), d=draw(WIDTH)),
    "a millionth is missing": lambda: off_by_a_little.at(mlp("gpt2"), d=draw(WIDTH)),
    "no bias": lambda: no_bias.at(mlp("gpt2")),
    "the bias twice": lambda: bias_twice.at(mlp("gpt2")),
    "another head's weights": lambda: rolled.at(ATTENTION),
    "heads sliced the wrong way": lambda: interleaved.at(ATTENTION),
    "a transposed weight": lambda: turned.at(ATTENTION),
    "an error that keeps the bias": lambda: half_an_error.at(mlp("gpt2"), sae=sae()),
}


@pytest.mark.parametrize("case", SUMS)
def test_wrong_sums_are_not_proved(case: str) -> None:
    assert_refuted(traced("gpt2")[2].apply(SUMS[case]()))


def wrong_norm(**wrong: bool) -> Law:
    """The norm written out with one mistake."""

    @reform(of="norm")
    def mutant(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
        x = part("centred", x if wrong.get("mean") else x - x.mean(-1, keepdim=True))
        square = x.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1) if wrong.get("count") else x.pow(2).mean(-1, keepdim=True)
        y = x * part("scale", torch.rsqrt(square if wrong.get("eps") else square + eps))
        assert weight is not None
        assert bias is not None
        return part("affine", y * (weight + 1 if wrong.get("gain") else weight) + (0 if wrong.get("bias") else bias))

    return mutant


@pytest.mark.parametrize("mistake", ["eps", "mean", "count", "gain", "bias"])
def test_wrong_norms_are_not_proved(mistake: str) -> None:
    assert_refuted(traced("gpt2")[2].apply(wrong_norm(**{mistake: True}).at("transformer.ln_f")))


def test_the_norm_without_a_mistake_is_proved() -> None:
    proved(traced("gpt2")[2].apply(claiming(wrong_norm(), norm).at("transformer.ln_f")))


# ------------------------------------------------------------------------------------------------ the sum is right, the terms are not


CLAIMS: dict[str, tuple[Any, str]] = {
    "not divided by d.d": (lambda: claiming(unnormalised, direction).at(mlp("gpt2"), d=draw(WIDTH)), "the rest has no component along d"),
    "another direction": (lambda: claiming(other_direction, direction).at(mlp("gpt2"), d=draw(WIDTH)), "the term is parallel to d"),
    "no Gram matrix": (lambda: claiming(no_gram, subspace).at(mlp("gpt2"), basis=draw(3, WIDTH)), "the rest is orthogonal to the basis"),
    "mixed heads": (lambda: claiming(mixed, heads).at(ATTENTION, n=HEADS), "member i reads slice i of x only"),
    "units in another order": (lambda: claiming(exchanged, neurons).at(mlp("gpt2")), "member i is parallel to column i of the weight"),
    "rows in another order": (
        lambda: claiming(other_decoder, dictionary).at(mlp("gpt2"), sae=sae()),
        "feature i is parallel to row i of the decoder",
    ),
    "another scale": (lambda: claiming(scaled_elsewhere, norm).at("transformer.ln_f"), "scale is one over the root mean square"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_wrong_terms_fail_their_claims(case: str) -> None:
    make, sentence = CLAIMS[case]
    assert_claim_fails(traced("gpt2")[2].apply(make()), sentence)


def test_a_claim_that_reads_no_term_is_an_error() -> None:
    @split
    def law(y: Tensor, *, d: Tensor) -> Terms:
        return Terms(y * 1, rest=y * 0)

    @law.claim("the argument is itself")
    def _(t: Terms, y: Tensor, *, d: Tensor) -> Any:
        return y @ d, y @ d

    with pytest.raises(PassError, match="reads a term, got one that reads none"):
        traced("gpt2")[2].apply(law.at(mlp("gpt2"), d=draw(WIDTH)))
