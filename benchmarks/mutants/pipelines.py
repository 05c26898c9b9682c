"""Random pipelines of the real passes: rewrites that are right by what they are, each with its claims."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from passes import dictionary, direction, gates, heads, neurons, norm, paths, subspace, surrogate
from rewrite import Bound, Program, TautomerError

TRIES = 12


def drawn(choice: random.Random, *shape: int) -> Tensor:
    """Random normal numbers, from a seed that `choice` draws."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(choice.randrange(2**31)))


def wide_sites(program: Program) -> dict[str, int]:
    """The outputs of modules that hold float vectors, with their widths."""
    found = {}
    for site in program.sites_by_address.values():
        value = program.nodes[site.node].meta["val"]
        plain = site.kind == "output" and site.address and not any(mark in site.address for mark in ":/#")
        if plain and isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2 and isinstance(value.shape[-1], int):
            found[site.address] = value.shape[-1]
    return found


def linear_sites(program: Program) -> dict[str, int]:
    """The outputs that a linear op writes, with the width of its input."""
    found = {}
    for address in wide_sites(program):
        node = program.nodes[program.sites_by_address[address].node]
        if node.target is torch.ops.aten.linear.default:
            found[address] = int(node.args[0].meta["val"].shape[-1])  # type: ignore[union-attr]
    return found


def norm_sites(program: Program) -> list[str]:
    """The outputs of modules that are called norms."""
    return [a for a in wide_sites(program) if any(word in a.lower().rpartition(".")[2] for word in ("norm", "ln"))]


def autoencoder(choice: random.Random, width: int, features: int = 12) -> dict[str, Tensor]:
    """A sparse autoencoder with random weights."""
    encoder, decoder = drawn(choice, width, features) / width**0.5, drawn(choice, features, width)
    return {"W_enc": encoder, "b_enc": drawn(choice, features), "W_dec": decoder, "b_dec": drawn(choice, width)}


def _site(program: Program, choice: random.Random) -> tuple[str, int]:
    return choice.choice(list(wide_sites(program).items()))


def _direction(program: Program, choice: random.Random) -> Bound:
    site, width = _site(program, choice)
    return direction.at(site, d=drawn(choice, width))


def _subspace(program: Program, choice: random.Random) -> Bound:
    site, width = _site(program, choice)
    return subspace.at(site, basis=drawn(choice, choice.randint(1, min(3, width)), width))


class Candidates(nn.Module):
    """A linear map of its input's largest numbers: with a set of candidates, and with a choice."""

    def __init__(self, weight: Tensor, chosen: int) -> None:
        super().__init__()
        self.weight, self.chosen = nn.Parameter(weight, requires_grad=False), chosen

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [..., d_in], result [..., d_out]."""
        best = x.amax(-1, keepdim=True)
        return (x - best + x.topk(self.chosen, -1).values.sum(-1, keepdim=True)) @ self.weight


def _surrogate(program: Program, choice: random.Random) -> Bound:
    site, width = _site(program, choice)
    read = program.nodes[program.sites_by_address[f"{site}@in"].node].meta["val"].shape[-1]
    if choice.random() < 0.5:
        return surrogate.at(site, f=Candidates(drawn(choice, read, width), min(2, read)).eval())
    first, second = nn.Linear(read, 6), nn.Linear(6, width)
    with torch.no_grad():
        for tensor in (*first.parameters(), *second.parameters()):
            tensor.copy_(drawn(choice, *tensor.shape))
    return surrogate.at(site, f=nn.Sequential(first, choice.choice([nn.ReLU, nn.GELU, nn.SiLU])(), second).eval().requires_grad_(False))


def _dictionary(program: Program, choice: random.Random) -> Bound:
    site, width = _site(program, choice)
    return dictionary.at(site, sae=autoencoder(choice, width), k=choice.choice([None, 3]), center=choice.random() < 0.5)


def _paths(program: Program, choice: random.Random) -> Bound:
    """From something that is added to the stream, to a module that reads the sum."""
    readers = [f"{a}@in" for a in wide_sites(program) if f"{a}@in" in program.sites_by_address]
    ways = [(term, reader) for reader in readers for term in _added(program, reader)]
    term, reader = choice.choice(ways)
    return paths.at(f"{term} -> {reader}")


def _added(program: Program, reader: str) -> list[str]:
    """The outputs and terms that reach a site by sums alone."""
    stack, summed = [program.nodes[program.sites_by_address[reader].node]], set()
    while stack:
        node = stack.pop()
        if node.name not in summed:
            summed.add(node.name)
            stack += node.all_input_nodes if node.target is torch.ops.aten.add.Tensor else []
    return [a for a, site in program.sites_by_address.items() if site.kind in ("output", "term") and site.node in summed and a]


def _gates(program: Program, choice: random.Random) -> Bound:
    sites = [a for a, site in program.sites_by_address.items() if a in wide_sites(program) or site.kind == "term"]
    return gates.at(choice.choice(sites))


PASSES: dict[str, Callable[[Program, random.Random], Bound]] = {
    "direction": _direction,
    "subspace": _subspace,
    "surrogate": _surrogate,
    "heads": lambda p, c: heads.at(*_half(c, list(wide_sites(p)))),
    "neurons": lambda p, c: neurons.at(c.choice(list(linear_sites(p)) or list(wide_sites(p)))),
    "norm": lambda p, c: norm.at(c.choice(norm_sites(p) or list(wide_sites(p)))),
    "dictionary": _dictionary,
    "paths": _paths,
    "gates": _gates,
}


def _half(choice: random.Random, sites: list[str]) -> list[str]:
    """Half of the sites: a pass is applied at those of them where it can be."""
    return choice.sample(sites, (len(sites) + 1) // 2)


def pipeline(program: Program, seed: str, *names: str, longest: int = 4) -> Program:
    """The program with one to `longest` random passes applied at random places; what does not apply is tried elsewhere.

    `names` are passes to begin with.
    """
    choice = random.Random(seed)
    drawn_names = [choice.choice(list(PASSES)) for _ in range(choice.randint(1, longest))]
    for name in [*names, *drawn_names][: max(longest, len(names))]:
        for _ in range(TRIES):
            with suppress(TautomerError, KeyError, IndexError):  # a site without an input, or a law that skips it
                program = program.apply(PASSES[name](program, choice))
                break
    return program
