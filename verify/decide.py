"""Deciding one equation: worlds are drawn until the chance of a false agreement is as small as it has to be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from verify.field import Vanishing
from verify.interpret import Refused, same
from verify.value import Agreement, Field
from verify.world import Tally, World

Theory = Literal["gates", "signs"]
Experiment = Callable[[World], tuple[Any, Any]]
MOST_PRIMES, MOST_RUNS = 6, 40  # a 128-bit oracle state holds six residues; beyond that, independent runs


@dataclass(frozen=True)
class Decision:
    """Equal or not, with log2 of the chance that equal is said wrongly; or refused.

    `shape` is that of the value, if random numbers can stand for it: residues, none of them masked or undefined.
    """

    equal: bool
    log2_bound: float = 0.0
    primes: int = 0
    theory: Theory = "gates"
    agreement: Agreement | None = None
    refused: str | None = None
    shape: tuple[int, ...] | None = None
    tally: Tally = field(default_factory=Tally)


def sub_key(key: bytes, *what: Any) -> bytes:
    """A key of 128 bits for one purpose, derived from the run's key."""
    return hashlib.blake2b(repr(what).encode(), key=key, digest_size=16).digest()


def first_count(share: float) -> int:
    """A number of primes to start with: regions of small transformers reach about 2^-30 with three, 2^-47 with four."""
    return 3 if share >= -26 else 4 if share >= -46 else 5


def decide(experiment: Experiment, key: bytes, share: float, theory: Theory = "gates", *, dual: bool = False) -> Decision:
    """Whether the two sides that `experiment` computes in a world are equal, wrong with probability at most 2^share.

    In `dual` worlds derivatives are compared too. Runs under independent keys multiply. A bound of infinity (a degree reached a prime)
    is handed back as it is.
    """
    count = first_count(share) if theory == "gates" else MOST_PRIMES
    total = 0.0
    for run in range(MOST_RUNS):
        world = World(sub_key(key, theory, run, count), count, theory, dual=dual)
        try:
            left, right = experiment(world)
        except Refused as refused:
            return Decision(False, 0.0, count, theory, refused=f"{refused.op} at {refused.node}: {refused.reason}", tally=world.tally)
        except Vanishing:
            continue
        except AssertionError as defect:
            return Decision(False, 0.0, count, theory, refused=f"the checker found fault with itself: {defect}", tally=world.tally)
        agreement = same(left, right, world)
        bound = world.log2_bound()
        world.forget()
        total += bound
        decision = Decision(agreement.equal, total, count, theory, agreement, shape=_shape(right), tally=world.tally)
        if not agreement.equal or total <= share or total == math.inf or (bound == 0.0 and count == MOST_PRIMES):
            return decision
        count = min(count + 1, MOST_PRIMES)
    return Decision(False, total, count, theory, refused=f"no bound below 2^{share:.0f} in {MOST_RUNS} runs", tally=Tally())


def _shape(value: Any) -> tuple[int, ...] | None:
    plain = isinstance(value, Field) and not value.tagged and value.undefined is None
    return tuple(value.shape) if plain else None
