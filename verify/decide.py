"""Deciding one equation: worlds are drawn until the chance of a false agreement is as small as it has to be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Self

from verify.field import Vanishing
from verify.interpret import Refused, same
from verify.radicals import Lacking
from verify.value import Agreement, Field
from verify.world import Law, Tally, World

Experiment = Callable[[World], tuple[Any, Any]]
PER_PRIME = 5 - 21.0  # log2 of the chance that a polynomial of degree 32 vanishes modulo one prime
MOST_PRIMES, MOST_RUNS = 6, 40  # a 128-bit oracle state holds six residues; beyond that, independent runs


@dataclass(frozen=True)
class Decision:
    """Equal or not, with log2 of the chance that equal is said wrongly; or refused.

    `shape` is that of the value, if random numbers can stand for it: residues, none of them masked or undefined.
    """

    equal: bool
    log2_bound: float = 0.0
    primes: int = 0
    theory: Law = "gates"
    agreement: Agreement | None = None
    refused: str | None = None
    shape: tuple[int, ...] | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def cuts_matter(self) -> bool:
        """True if with fewer cuts it may be otherwise: values forget relations there, and which ids steered them."""
        return self.refused is None or self.tally.apart

    def whatever_ids(self, log2_bound: float | None = None) -> Self:
        """The decision, which was found to rest on no true bit of ids, with the bound of that; itself where other ids leave masks."""
        if self.tally.faint:
            return self
        return replace(self, log2_bound=self.log2_bound if log2_bound is None else log2_bound, tally=replace(self.tally, steering=[]))


APART = "they decide on masks or positions otherwise than on the other side, and for the ids given only these are the same"


def sub_key(key: bytes, *what: Any) -> bytes:
    """A key of 128 bits for one purpose, derived from the run's key."""
    return hashlib.blake2b(repr(what).encode(), key=key, digest_size=16).digest()


def first_count(share: float, calls: int) -> int:
    """A number of primes to start with, for so many values of functions: pairs of them meet by chance, at arguments of degree 32 or so."""
    pairs = 2 * math.log2(max(2, calls)) - 1
    return next((n for n in range(3, MOST_PRIMES) if pairs + n * PER_PRIME <= share), MOST_PRIMES)


def decide(
    experiment: Experiment, key: bytes, share: float, theory: Law = "gates", *, dual: bool = False, calls: int = 0,
    declared: Mapping[Any, str] | None = None,
) -> Decision:  # fmt: skip
    """Whether the two sides that `experiment` computes in a world are equal, wrong with probability at most 2^share.

    In `dual` worlds derivatives are compared too. `calls` says about how many values of functions there are. Runs under independent keys
    multiply. A bound of infinity (a degree reached a prime) is handed back as it is. `declared`: op -> what it is said to be.
    """
    count = first_count(share, calls) if theory != "signs" else MOST_PRIMES
    total, squares = 0.0, set[Fraction]()
    for run in range(MOST_RUNS):
        world = World(sub_key(key, theory, run, count), count, theory, dual=dual, declared=declared, squares=squares)
        try:
            left, right = experiment(world)
        except Refused as refused:
            return Decision(False, 0.0, count, theory, refused=f"{refused.op} at {refused.node}: {refused.reason}", tally=world.tally)
        except Vanishing as vanishing:
            squares |= {vanishing.number} if isinstance(vanishing, Lacking) else set()
            continue
        except AssertionError as defect:
            return Decision(False, 0.0, count, theory, refused=f"the checker found fault with itself: {defect}", tally=world.tally)
        agreement = same(left, right, world)
        bound = world.log2_bound()
        world.forget()
        total += bound
        decision = Decision(agreement.equal, total, count, theory, agreement, shape=_shape(right), tally=world.tally)
        if agreement.equal and world.tally.apart:
            return replace(decision, equal=False, refused=f"ids at {', '.join(world.tally.steering[:3])}: {APART}")
        if not agreement.equal or total <= share or total == math.inf or (bound == 0.0 and count == MOST_PRIMES):
            return decision
        count = min(count + 1, MOST_PRIMES)
    return Decision(False, total, count, theory, refused=f"no bound below 2^{share:.0f} in {MOST_RUNS} runs", tally=Tally())


def _shape(value: Any) -> tuple[int, ...] | None:
    plain = isinstance(value, Field) and not value.tagged and value.undefined is None
    return tuple(value.shape) if plain else None
