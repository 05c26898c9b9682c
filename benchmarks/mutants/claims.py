"""Wrong laws whose sum is right: only what they claim of their terms is not so."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.mutants.draft import Mutant
from benchmarks.mutants.pipelines import autoencoder, linear_sites, norm_sites, wide_sites
from passes import dictionary, direction, heads, neurons, norm, subspace
from passes.dictionary import activations
from rewrite import Bound, Family, Program, TautomerError, Terms, part, reform, split
from rewrite.law import Law


def claiming(mutant: Law, law: Law) -> Law:
    """`mutant` with the claims of `law`."""
    mutant.claims = list(law.claims)
    return mutant


@split
def unnormalised(y: Tensor, *, d: Tensor) -> Terms:
    """Not divided by d.d."""
    along = (y @ d).unsqueeze(-1) * d
    return Terms(along, rest=y - along)


@split
def other_direction(y: Tensor, *, d: Tensor) -> Terms:
    """Along another direction."""
    along = (y @ d).unsqueeze(-1) * (d.roll(1) / (d @ d))
    return Terms(along, rest=y - along)


@split
def no_gram(y: Tensor, *, basis: Tensor) -> Terms:
    """No Gram matrix."""
    inside = y @ basis.mT @ basis
    return Terms(inside, rest=y - inside)


@split(of="linear")
def mixed(x: Tensor, weight: Tensor, bias: Tensor | None, *, n: int) -> Terms:
    """A sum over halves of every head: the sum is the same, member i does not read slice i only."""
    z, w = x.unflatten(-1, (-1, n)), weight.unflatten(-1, (-1, n))
    return Terms(Family("...kn,mkn->...m", z, w, axis="n", act=z), bias=bias)


@split(of="linear")
def exchanged(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    """The units in another order."""
    z = x.roll(1, -1)
    return Terms(Family("...n,mn->...m", z, weight.roll(1, 1), axis="n", act=z), bias=bias)


@split
def other_decoder(y: Tensor, *, sae: Any, k: int | None = None, center: bool = True) -> Terms:
    """The decoder's rows in another order."""
    acts, decoder = activations(y - sae["b_dec"], sae, k), sae["W_dec"].roll(1, 0)
    return Terms(Family("...f,fm->...m", acts, decoder, axis="f", act=acts), bias=sae["b_dec"], error=y - acts @ decoder - sae["b_dec"])


@reform(of="norm")
def scaled_elsewhere(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    """What is called the scale is twice that."""
    if centred:
        x = part("centred", x - x.mean(-1, keepdim=True))
    y = x * part("scale", 2 * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)) * 0.5
    y = y if weight is None else y * weight
    return part("affine", y if bias is None else y + bias)


def _drawn(choice: random.Random, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(choice.randrange(2**31)))


def _somewhere(program: Program, choice: random.Random) -> tuple[str, int]:
    return choice.choice(list(wide_sites(program).items()))


def _direction(law: Law, program: Program, choice: random.Random) -> Bound:
    site, width = _somewhere(program, choice)
    return claiming(law, direction).at(site, d=_drawn(choice, width))


def _mixed(program: Program, choice: random.Random) -> Bound:
    site, width = choice.choice(list(linear_sites(program).items()))
    return claiming(mixed, heads).at(site, n=2 if width % 2 == 0 else width)


def _no_gram(program: Program, choice: random.Random) -> Bound:
    site, width = _somewhere(program, choice)
    return claiming(no_gram, subspace).at(site, basis=_drawn(choice, 3, width))


def _other_decoder(program: Program, choice: random.Random) -> Bound:
    site, width = _somewhere(program, choice)
    return claiming(other_decoder, dictionary).at(site, sae=autoencoder(choice, width))


CLAIMS: dict[str, Callable[[Program, random.Random], Bound]] = {
    "claim_not_divided": lambda p, c: _direction(unnormalised, p, c),
    "claim_another_direction": lambda p, c: _direction(other_direction, p, c),
    "claim_no_gram_matrix": _no_gram,
    "claim_mixed_slices": _mixed,
    "claim_units_exchanged": lambda p, c: claiming(exchanged, neurons).at(c.choice(list(linear_sites(p)))),
    "claim_another_decoder": _other_decoder,
    "claim_another_scale": lambda p, c: claiming(scaled_elsewhere, norm).at(c.choice(norm_sites(p))),
}


def claim_mutant(name: str, program: Program, seed: int) -> Mutant | None:
    """The program with a wrong law applied somewhere, or None where it does not apply."""
    choice = random.Random(f"{seed} {name}")
    for _ in range(8):
        try:
            wrong = program.apply(CLAIMS[name](program, choice))
        except (TautomerError, IndexError):  # no such site, or a law that skips it
            continue
        return Mutant(name, wrong, program, program, claims=True)
    return None
