"""What is known of the rewrite under a result: a score on a rewrite that is another function means nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from analysis.fingerprint import told
from rewrite import Program, TautomerError
from verify import Report, Verdict, equivalence, liveness, raise_unless_alive

SOUND = (Verdict.PROVED, Verdict.CONSISTENT, Verdict.EDITED)
_reports: WeakKeyDictionary[Program, tuple[Any, Report]] = WeakKeyDictionary()
_alive: WeakKeyDictionary[Program, set[str]] = WeakKeyDictionary()  # where edits were found to reach an output, whatever gates are set to


@dataclass(frozen=True)
class Standing:
    """The verdict of a rewrite, as it is printed beside every figure; `report` has the rest."""

    report: Report

    @property
    def verdict(self) -> Verdict:
        """The verdict of the program against the model that it was traced from."""
        return self.report.verdict

    @property
    def sound(self) -> bool:
        """True unless the rewrite is, or may be, another function, or a term is not what it claims to be."""
        return self.verdict in SOUND and not self.failing

    @property
    def failing(self) -> list[str]:
        """The claims that were not proved."""
        return [f"{claim.site}: {claim.sentence} ({claim.status})" for claim in self.report.claims if claim.status != "proved"]

    def __str__(self) -> str:
        bound = "" if self.report.log2_bound is None else f", error at most 2^{self.report.log2_bound:.1f}"
        claims = f", {len(self.report.claims)} claims" if self.report.claims else ""
        failing = f", NOT PROVED: {'; '.join(self.failing)}" if self.failing else ""
        reasons = f" ({'; '.join(self.report.reasons)})" if self.report.reasons and self.verdict is not Verdict.PROVED else ""
        return f"rewrite {self.verdict.value}{reasons}{bound}{claims}{failing}"


def standing(
    program: Program, *, unproved: bool = False, inputs: Any = None, seed: int = 0, progress: Callable[[str], None] | None = None
) -> Standing:
    """What is known of `program` against the model that it was traced from; asked once for each program and state of its gates.

    Raises: TautomerError for a rewrite that is REFUTED, DIFFERS or UNKNOWN, or whose terms are not what they claim, unless `unproved`.
    """
    state = (seed, _gates(program))
    known = _reports.get(program)
    if inputs is None and known is not None and known[0] == state:
        report = known[1]
    else:
        report = equivalence(program, inputs=inputs, seed=seed, progress=progress)
        if inputs is None:
            _reports[program] = (state, report)
    found = Standing(report)
    if not found.sound and not unproved:
        raise TautomerError(
            f"{program!r}: expected a rewrite that is the same function, got {found}. "
            f"A score on it would mean nothing; pass unproved=True to see one all the same.\n{found.report}"
        )
    return found


def check_alive(program: Program, addresses: Iterable[str], seed: int) -> None:
    """Raises: TautomerError if no edit at one of the addresses can reach an output; asked once."""
    known = _alive.setdefault(program, set())
    new = [address for address in dict.fromkeys(addresses) if address not in known]
    if new:
        raise_unless_alive(liveness(program, new, seed=seed))
        known.update(new)


def _gates(program: Program) -> str:
    """The state of all gates, as text."""
    return told({address: [gate.g, gate.h, gate.r] for address, gate in program.gates.items()})
