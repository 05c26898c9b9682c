"""What there is to do: for each architecture its mutants, and correct rewrites of it. One line of results each."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from benchmarks.architectures import prepared
from benchmarks.mutants.claims import CLAIMS, claim_mutant
from benchmarks.mutants.draft import OPERATORS, Mutant, mutant
from benchmarks.mutants.judges import BOUND, judged
from benchmarks.mutants.models import MODELS
from benchmarks.mutants.pipelines import pipeline
from benchmarks.mutants.results import Line
from benchmarks.mutants.witnesses import runs, witness
from rewrite import Program, TautomerError, trace
from verify import equivalence

ARCHITECTURES = (
    "mlp", "maxout", "routed", "transformer_encoder", "cnn", "gpt2", "bert", "llama", "vit", "distilbert", "gpt_neox", "opt", "bloom",
    "electra", "albert", "qwen2", "phi", "roberta", "clip", "mpt", "gptj", "stablelm", "dinov2", "olmo2", "gemma2", "swin", "convnext",
    "mixtral", "t5", "lstm",
)  # fmt: skip
EAGER = frozenset(("bert", "vit", "gpt_neox", "opt", "qwen2", "roberta", "stablelm", "olmo2", "t5"))  # traced with attention written out
REWRITES = 40  # correct ones, for each architecture
SPECIAL = (("paths",), ("surrogate", "dictionary"), ("norm",), ("heads", "neurons"))  # passes that some operators need
TRIES = 4


@dataclass(frozen=True)
class Unit:
    """The mutants, or the correct rewrites, of one architecture."""

    kind: str
    architecture: str
    attention: str

    @property
    def place(self) -> str:
        """How its keys begin."""
        return f"{self.kind}/{self.architecture}/{self.attention}"


def units(architectures: list[str]) -> list[Unit]:
    """All there is."""
    return [Unit(kind, name, "eager" if name in EAGER else "sdpa") for name in architectures for kind in ("mutant", "rewrite")]


def names(unit: Unit, operators: list[str]) -> list[str]:
    """What a unit consists of: operators, or the numbers of pipelines."""
    return operators if unit.kind == "mutant" else [str(number) for number in range(REWRITES)]


@lru_cache(maxsize=1)
def traced(architecture: str, attention: str) -> Program | None:
    """A tiny model of an architecture, traced; None if it has no such attention."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        model, example = prepared(MODELS[architecture], attention)
        return trace(model, **example, dynamic=False)
    except (ValueError, TautomerError):
        return None


def run(unit: Unit, operators: list[str], seed: int, done: set[str]) -> Iterator[Line]:
    """A line for everything in a unit that is not done."""
    for name in names(unit, operators):
        key = f"{unit.place}/{name}"
        if key in done:
            continue
        start = time.process_time()
        try:
            line = one(unit, name, f"{seed}/{key}", seed)
        except Exception as error:  # a long run goes on; the table counts these
            line = {"none": True, "error": f"{type(error).__name__}: {error}"[:200]}
        yield {"key": key, **line, "seconds": round(time.process_time() - start, 2)}


def one(unit: Unit, name: str, where: str, seed: int) -> Line:
    """The line of one mutant or rewrite."""
    program = traced(unit.architecture, unit.attention)
    if program is None:
        return {"none": True}
    return of_mutant(program, name, where, seed) if unit.kind == "mutant" else of_rewrite(program, where, seed)


def of_mutant(program: Program, name: str, where: str, seed: int) -> Line:
    """What the judges say of one mutant, and whether it is one."""
    found = planted(program, name, where)
    if found is None:
        return {"none": True}
    return {"passes": [step.name for step in found.program.steps], "witness": witness(found, seed), "passed": judged(found, seed)}


def planted(program: Program, name: str, where: str) -> Mutant | None:
    """A mutant that runs, of the model as it is or, one time in three and where it has no such place, of a random rewrite."""
    number = random.Random(where).randrange(2**31)
    if name in CLAIMS:
        found = claim_mutant(name, program, number)
        return found if found is not None and runs(found) else None
    rewritten = number % 3 == 0
    for attempt in range(2 * TRIES):
        base = program
        if rewritten or attempt >= TRIES:
            base = pipeline(program, f"{where} {attempt}", *(SPECIAL[attempt % len(SPECIAL)] if attempt >= TRIES else ()))
        found = mutant(name, base, number + attempt)
        if found is not None and runs(found):
            return found
    return None


def of_rewrite(program: Program, where: str, seed: int) -> Line:
    """The verdict on one random pipeline of real passes, and where it is not proved."""
    rewritten = pipeline(program, where)
    report = equivalence(rewritten, bound=BOUND, seed=seed)
    claims = sorted({line.status for line in report.claims if line.status != "proved"})
    cause = "" if report.proved else f"{report.site or '; '.join(report.reasons)[:120]}"
    return {
        "passes": [step.name for step in rewritten.steps], "verdict": report.verdict.value, "claims": claims, "cause": cause,
        "step": report.step,
    }  # fmt: skip


def all_operators() -> list[str]:
    """The names of all operators, on graphs and on claims."""
    return [*OPERATORS, *CLAIMS]
