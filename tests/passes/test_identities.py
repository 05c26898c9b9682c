"""The identities stated next to every pass: each vanishes on the pass's own function, and on a wrong one it does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import passes
from benchmarks.mutants.claims import mixed, no_gram, other_decoder, unnormalised
from passes import dictionary, direction, distribute, freeze, gates, heads, inputs, neurons, norm, paths, subspace, surrogate
from rewrite import Family, Law, PassError, Terms, part, split
from verify import identities

CATALOGUE: dict[str, Law] = {name: getattr(passes, name) for name in passes.__all__}


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_pass_states_identities_and_all_vanish(name: str) -> None:
    found = identities(CATALOGUE[name])  # a pass that states none is an error
    assert found and all(one.holds for one in found), "\n".join(map(str, found))


def function_of(law: Law) -> Callable[..., Any]:
    """The plain function of a law."""
    return law.function


def half_head(x: Tensor, weight: Tensor, bias: Tensor | None, *, n: int) -> Terms:
    z, w = x.unflatten(-1, (n, -1)) / 2, weight.unflatten(-1, (n, -1))
    return Terms(Family("...nk,mnk->...m", z, w, axis="n", act=z), bias=bias)


def rolled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    x = x.roll(1, -1)
    return Terms(Family("...n,mn->...m", x, weight, axis="n", act=x), bias=bias)


def exchanged(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    x = x.roll(1, -1)
    return Terms(Family("...n,mn->...m", x, weight.roll(1, 1), axis="n", act=x), bias=bias)


def no_bias(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    return Terms(Family("...n,mn->...m", x, weight, axis="n", act=x))


def outside(x: Tensor, weight: Any, bias: Any, eps: Any, centred: bool) -> Tensor:
    """eps added after the root."""
    if centred:
        x = part("centred", x - x.mean(-1, keepdim=True))
    y = x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps)
    return (y if weight is None else y * weight) + (0 if bias is None else bias)


def constant_everywhere(summands: Any, through: Any, constant: Tensor) -> Terms:
    return Terms(**{name: through(x) + constant for name, x in summands.items()}, bias=constant)


def shifted_shares(summands: Any, through: Any, constant: Tensor) -> Terms:
    mean = sum(summands.values()) / len(summands)
    return Terms(**{name: through(mean) for name in summands}, bias=constant)


def unbiased(x: Tensor, weight: Any, bias: Any, eps: Any, centred: bool) -> Tensor:
    """The variance with n - 1."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    y = x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps)
    return (y if weight is None else y * weight) + (0 if bias is None else bias)


def uncentred(x: Tensor, weight: Any, bias: Any, eps: Any, centred: bool) -> Tensor:
    y = x * torch.rsqrt((x - x.mean(-1, keepdim=True) if centred else x).pow(2).mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight) + (0 if bias is None else bias)


def affine_decoder(y: Tensor, *, sae: Any, k: int | None = None, center: bool = True) -> Terms:
    """The bias counted with the features."""
    acts, decoder = torch.relu((y - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"]), sae["W_dec"] + sae["b_dec"]
    return Terms(Family("...f,fm->...m", acts, decoder, axis="f", act=acts), bias=sae["b_dec"], error=y - acts @ decoder - sae["b_dec"])


def bias_twice(y: Tensor, *, sae: Any, k: int | None = None, center: bool = True) -> Terms:
    acts = torch.relu((y - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])
    return Terms(Family("...f,fm->...m", acts, sae["W_dec"], axis="f", act=acts), bias=sae["b_dec"], error=y - acts @ sae["W_dec"])


def other_f(y: Tensor, x: Tensor, *, f: Any = None, fit: Any = None) -> Terms:
    return Terms(f(x), rest=y - f(2 * x))


MUTANTS: dict[str, tuple[Law, Callable[..., Any], str]] = {
    "direction: not divided by d.d": (direction, function_of(unnormalised), "rest . d = 0"),
    "direction: half of it": (direction, lambda y, *, d: Terms((y @ d).unsqueeze(-1) * d / (2 * (d @ d)), rest=y), "the term is"),
    "subspace: rows not made orthogonal": (subspace, function_of(no_gram), "rest . b = 0"),
    "subspace: half of it": (subspace, lambda y, *, basis: Terms(y / 2, rest=y / 2), "on a span of one row"),
    "surrogate: the rest misses another f": (surrogate, other_f, "f(x) and the rest"),
    "dictionary: rows in another order": (dictionary, function_of(other_decoder), "feature i is"),
    "dictionary: a decoder with a bias": (dictionary, affine_decoder, "it is linear"),
    "dictionary: the bias twice": (dictionary, bias_twice, "features, bias and error"),
    "heads: other slices": (heads, function_of(mixed), "head i is its slice"),
    "heads: half of it": (heads, half_head, "heads and bias sum"),
    "neurons: units paired with other columns": (neurons, rolled, "neurons and bias sum"),
    "neurons: units in another order": (neurons, exchanged, "neuron i is"),
    "neurons: without the bias": (neurons, no_bias, "neurons and bias sum"),
    "norm: eps after the root": (norm, outside, "it is g (x - mean x)"),
    "norm: the variance with n - 1": (norm, unbiased, "it is g (x - mean x)"),
    "norm: the variance with n - 1, not centred": (norm, unbiased, "without centring"),
    "norm: not centred where it should be": (norm, uncentred, "centred, it does not see"),
    "paths: the term left in": (paths, lambda read, term, own, coefficient: read + coefficient * own, "in c t + rest"),
    "paths: without the factor": (paths, lambda read, term, own, coefficient: read + own - term, "in c t + rest"),
    "paths: one term too many": (paths, lambda read, term, own, coefficient: read + coefficient * (own - 2 * term), "with the term itself"),
    "inputs: the two exchanged": (inputs, lambda read, own, here: torch.where(here, read, own), "there, it is"),
    "inputs: the copy everywhere": (inputs, lambda read, own, here: own, "elsewhere, it is"),
    "inputs: the copy added": (inputs, lambda read, own, here: torch.where(here, own + read, read), "where both are equal"),
    "freeze: half of it": (freeze, lambda read, unedited: (read + unedited) / 2, "it is the un-edited value"),
    "distribute: the constant in every term": (distribute, constant_everywhere, "the terms sum to"),
    "distribute: another summand's share": (distribute, shifted_shares, "a term is the map"),
    "gates: the reference always": (gates, lambda read, *, g, h, r: g * read + r, "open, at (1, 0)"),
    "gates: between the two": (gates, lambda read, *, g, h, r: read + h * (r - read) / 2, "at (0, 1)"),
    "gates: the square": (gates, lambda read, *, g, h, r: g * read * read + h * r, "over a sum"),
    "gates: one number for all members": (gates, lambda read, *, g, h, r: g.mean() * read + h * r, "on a family's"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_of_a_wrong_function_something_is_left(name: str) -> None:
    law, function, sentence = MUTANTS[name]
    wrong = Law(function, law.shape, law.of)
    wrong.identities = [one for one in law.identities if one.sentence.startswith(sentence)]
    (found,) = identities(wrong)
    assert not found.holds and "left over" in str(found)


def test_each_identity_has_a_mutant() -> None:
    told = {(law.name, one.sentence) for law in CATALOGUE.values() for one in law.identities}
    caught = {(law.name, one.sentence) for law, _, start in MUTANTS.values() for one in law.identities if one.sentence.startswith(start)}
    assert told == caught


@pytest.mark.parametrize("law", CATALOGUE.values(), ids=CATALOGUE)
def test_a_wrong_right_side_is_noticed(law: Law) -> None:
    stated = law.identities[0]

    def doubled(*args: Any, **symbols: Any) -> Any:
        left, right = stated.function(*args, **symbols)
        return left, 2 * right + 1

    wrong = Law(law.function, law.shape, law.of)
    wrong.identities = [replace(stated, function=doubled)]
    assert not identities(wrong)[0].holds


def test_a_law_that_states_none_is_an_error() -> None:
    @split
    def law(y: Tensor) -> Terms:
        return Terms(y / 2, rest=y / 2)

    with pytest.raises(PassError, match="law: expected at least one identity, got none"):
        identities(law)
    with pytest.raises(PassError, match="expected the identity in words, got function"):
        law.identity(lambda law: (0, 0))  # type: ignore[arg-type]
