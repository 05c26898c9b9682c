"""Draws: the examples on which each copy of the inputs runs, for one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analysis.scrubbing.hypothesis import ROOT, Hypothesis, Part
from analysis.scrubbing.samplers import Batch, By, Sampler, rows, taken


def generator(seed: int, name: str, role: str) -> torch.Generator:
    """A generator of its own for each part and role: a part more does not change what the others draw."""
    digest = hashlib.blake2b(f"{seed}/{name}/{role}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class Draw:
    """For each part, and for the hypothesis itself under "", the examples that its copy of the inputs holds.

    `alone` counts, by part, the examples that could be exchanged for nothing else.
    """

    batches: dict[str, Batch]
    alone: dict[str, int]


def draw(hypothesis: Hypothesis, reference: Batch, data: Batch, seed: int) -> Draw:
    """The draws of all parts for one seed."""
    found: dict[str, Batch] = {}
    alone: dict[str, int] = {}

    def visit(name: str, key: str, sampler: Sampler, other: Sampler, parts: Sequence[Part], parent: Batch) -> None:
        if isinstance(sampler, By):
            alone[name] = sampler.alone(parent, data)
        own = _drawn(sampler, parent, data, seed, name, "own")
        found[key] = _drawn(other, own, data, seed, name, "other") if parts else own
        for part in parts:
            visit(part.name, part.name, part.sampler, part.other, part.parts, own)

    visit(ROOT, "", hypothesis.sampler, hypothesis.other, hypothesis.parts, reference)
    return Draw(found, alone)


def _drawn(sampler: Sampler, parent: Batch, data: Batch, seed: int, name: str, role: str) -> Batch:
    return taken(data, sampler(parent, data, generator(seed, name, role)), rows(parent), f"sampler of {name!r}")
