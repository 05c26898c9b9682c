"""Generated mutants of the tiny transformers: none is proved, unless float64 runs say that it is no mutant."""

from __future__ import annotations

import secrets

import pytest

from tests.models import TRANSFORMERS
from tests.verify.mutants import OPERATORS, differs_in_float64, mutants
from tests.verify.programs import tiny
from verify import Verdict, equivalence

SEED = secrets.randbelow(10**6)


def test_there_are_enough_operators() -> None:
    assert len(OPERATORS) >= 10


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_mutants_are_not_proved(name: str) -> None:
    print(f"seed {SEED}")
    program = tiny(name)
    found = {}
    for operator, mutant in mutants(program, SEED):
        report = equivalence(program, mutant)
        found[operator] = report.verdict
        if report.verdict is Verdict.PROVED:
            assert not differs_in_float64(program, mutant, SEED), f"{operator} with seed {SEED} is proved\n{report}"
        assert (report.witness is not None) == (report.verdict is Verdict.REFUTED), f"{operator} with seed {SEED}\n{report}"
    assert len(found) >= 10, found
    killed = [verdict for verdict in found.values() if verdict in (Verdict.REFUTED, Verdict.DIFFERS)]
    assert len(killed) >= len(found) - 3, found
