"""Proofs: what was found for a claim, and for the same claim of several inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rewrite.records import Claim


@dataclass(frozen=True)
class Proof:
    """What was found for one claim: proved or not, for how many members of how many, or the reason why it could not be decided."""

    claim: Claim
    proved: bool
    log2_bound: float
    members: tuple[int, int] | None = None  # tried, out of
    refused: str | None = None
    again: bool = False  # an equal claim had been proved at another site
    assumed: tuple[str, ...] = ()  # what it rests on beside the laws
    steered: bool = False  # it is for the masks and positions that the ids given build

    @property
    def sampled(self) -> bool:
        """True if only some members of the family were tried."""
        return self.members is not None and self.members[0] < self.members[1]


def both(one: Proof, other: Proof) -> Proof:
    """The proof of a claim for two inputs from those for either: the first that is none, else with both chances of an error."""
    if not one.proved or (other.proved and other.again):
        return one
    if not other.proved or one.again:
        return other
    chance = 2.0**one.log2_bound + 2.0**other.log2_bound
    return replace(one, log2_bound=math.log2(chance) if chance else -math.inf, steered=one.steered or other.steered)
