"""The judges: the exact tier, the ladder of precisions, and what is in use elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.utils import same

from benchmarks.mutants.draft import Mutant
from rewrite import Program
from verify import Verdict, equivalence
from verify.cases import given_cases, other_shapes, redrawn
from verify.job import Job
from verify.ladder import ladder
from verify.roles import roles_of
from verify.shadow import Case, sweep

BOUND = 2.0**-20
DRAWS = 2  # random inputs beside the example
Outputs = list[Any]


@dataclass(frozen=True)
class Reference:
    """A program's inputs to try, and its outputs there as traced and in float64."""

    cases: list[Case]
    traced: Outputs
    exact: Outputs


@lru_cache(maxsize=4)
def reference(program: Program, seed: int) -> Reference:
    """What a program gives on its example and a couple of random inputs."""
    cases = given_cases(program, None)
    generator, roles = torch.Generator().manual_seed(seed), roles_of(program, cases[0], {})
    cases = cases + [redrawn(program, cases[0], roles, generator) for _ in range(DRAWS)]
    return Reference(cases, outputs(program, cases), outputs(program, cases, torch.float64))


def outputs(program: Program, cases: list[Case], dtype: torch.dtype | None = None) -> Outputs:
    """The tensors that a program returns, for each case one after the other."""
    names = [node.name for node in program.outputs if isinstance(node, fx.Node)]
    return [values[name] for values in sweep(program, cases, names, dtype) for name in names]


def job(found: Mutant, seed: int) -> Job:
    """The question whether a mutant is what it was made from, before anything is proved."""
    made = Job.of(found.original, found.program, given_cases(found.original, None), False, {}, {})
    made.key = blake2b(str(seed).encode(), digest_size=16).digest()
    return made


def exact(found: Mutant, seed: int) -> bool:
    """True if the mutant is PROVED, with its claims if they are the question.

    What the exact tier does not find equal is never PROVED, so then its own search for a witness, which takes longest, is left out.
    """
    question = job(found, seed)
    if question.mismatch or not question.prove(math.log2(BOUND), found.gradients):
        return False
    if found.claims and not all(proof.proved for proof in question.proofs):
        return False
    report = equivalence(found.original, found.program, gradients=found.gradients, bound=BOUND, seed=seed)
    return report.proved if found.claims else report.verdict is Verdict.PROVED


def climbed(found: Mutant, seed: int) -> bool:
    """True if the ladder of precisions alone finds rounding only, on the example, other shapes and three random inputs."""
    question, generator = job(found, seed), torch.Generator().manual_seed(seed)
    if question.mismatch:
        return False
    case = question.cases[0]
    more = other_shapes(found.original, case) + [redrawn(found.original, case, question.roles, generator) for _ in range(3)]
    return ladder(question.sides, question.cases, more, found.gradients).verdict == "rounding only"


def _every(test: Callable[[Tensor, Tensor, Tensor], bool]) -> Callable[[Reference, Outputs], bool]:
    def judge(known: Reference, found: Outputs) -> bool:
        return len(found) == len(known.traced) and all(test(*three) for three in zip(known.traced, found, known.exact, strict=True))

    return judge


def _close(tolerance: float) -> Callable[[Tensor, Tensor, Tensor], bool]:
    return lambda ours, theirs, _: torch.allclose(theirs, ours, rtol=tolerance, atol=tolerance, equal_nan=True)


def _asserted(ours: Tensor, theirs: Tensor, _: Tensor) -> bool:
    try:
        torch.testing.assert_close(theirs, ours, equal_nan=True)
    except AssertionError:
        return False
    return True


OF_FLOATS: dict[str, Callable[[Reference, Outputs], bool]] = {
    "allclose 1e-3": _every(_close(1e-3)),
    "allclose 1e-5": _every(_close(1e-5)),
    "assert_close": _every(_asserted),
    "same()": _every(lambda ours, theirs, exact: same(ours, theirs, exact, equal_nan=True, log_error=_silent)),
}
JUDGES = ("exact", "ladder", *OF_FLOATS)


def _silent(*_: Any, **__: Any) -> None:
    """Where `same` would log."""


def judged(found: Mutant, seed: int) -> dict[str, bool]:
    """Which judges let a mutant pass."""
    known = reference(found.original, seed)
    theirs = outputs(found.program, known.cases)
    by_floats = {name: bool(judge(known, theirs)) for name, judge in OF_FLOATS.items()}
    return {"exact": exact(found, seed), "ladder": climbed(found, seed), **by_floats}
