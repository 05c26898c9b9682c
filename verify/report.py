"""The report: a verdict with its scope, the claims, what float runs showed, and what is not covered; in one screenful, or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Literal

from torch import Tensor

from rewrite.errors import TautomerError
from verify.ladder import Drift
from verify.liveness import Liveness
from verify.witnesses.pattern import Difference
from verify.witnesses.witness import Witness


class Verdict(Enum):
    """What can be said about two programs, from the strongest to the weakest."""

    PROVED = "PROVED"
    ASSUMING = "PROVED ASSUMING"
    CONSISTENT = "CONSISTENT"
    DIFFERS = "DIFFERS"
    REFUTED = "REFUTED"
    EDITED = "EDITED"
    UNKNOWN = "UNKNOWN"


MEANING = {
    Verdict.PROVED: "the same function, for all inputs of these shapes, wherever both are defined",
    Verdict.ASSUMING: "the same function, for all inputs of these shapes, wherever both are defined, if what is assumed holds",
    Verdict.CONSISTENT: "no difference found, but not proved",
    Verdict.DIFFERS: "not derivable from the laws used; no witness found",
    Verdict.REFUTED: "not the same function: a witness is below",
    Verdict.EDITED: "edited on purpose: a gate is not open",
    Verdict.UNKNOWN: "could not be decided",
}


Require = Literal["proved", "assuming", "consistent"]
ENOUGH: dict[str, tuple[Verdict, ...]] = {
    "proved": (Verdict.PROVED,),
    "assuming": (Verdict.PROVED, Verdict.ASSUMING),
    "consistent": (Verdict.PROVED, Verdict.ASSUMING, Verdict.CONSISTENT),
}


@dataclass(frozen=True)
class ClaimLine:
    """One row of the claims table."""

    site: str
    sentence: str
    equation: str
    status: Literal["proved", "fails", "undecided"]
    members: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What `equivalence` found. `proved` holds if the verdict is PROVED, every claim is proved, and no edit asked about is dead.

    `assumptions` are what the proof rests on beside laws, if the verdict is PROVED ASSUMING. `log2_bound` bounds the probability that
    anything here called proved is not, over the random key.
    """

    verdict: Verdict
    subject: str
    reasons: tuple[str, ...] = ()
    log2_bound: float | None = None
    theory: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    key: str = ""
    seeded: bool = False
    scope: dict[str, str] = field(default_factory=dict)
    weights: str = ""
    assumptions: tuple[str, ...] = ()
    claims: tuple[ClaimLine, ...] = ()
    edits: tuple[Liveness, ...] = ()
    edits_undecided: str = ""
    drift: Drift = field(default_factory=lambda: Drift(reason="not run"))
    site: str = ""
    step: str = ""
    witness: Witness | None = None
    differences: tuple[Difference, ...] = ()
    not_covered: tuple[str, ...] = ()

    @property
    def proved(self) -> bool:
        """True if the programs are proved equivalent, so is every claim, and every edit that was asked about reaches an output."""
        return self.verdict is Verdict.PROVED and all(claim.status == "proved" for claim in self.claims) and not self.dead

    @property
    def dead(self) -> list[Liveness]:
        """The addresses where no edit can reach an output."""
        return [edit for edit in self.edits if not edit.alive]

    def __bool__(self) -> bool:
        raise TautomerError(
            "Report: expected report.proved or report.verdict, got the report as a truth value. It has more than two answers."
        )

    def raise_unless_proved(self) -> Report:
        """The report itself.

        Raises: TautomerError with its text if it is not proved, claims included.
        """
        if not self.proved:
            raise TautomerError(f"equivalence: expected PROVED with every claim, got {self.verdict.value}.\n{self}")
        return self

    def exit_code(self, require: Require = "proved") -> int:
        """0 if what is required holds, 1 if it is refuted, 3 if neither. A claim that fails or a dead edit counts as not proved.

        A proof that rests on assumptions is enough for "assuming" and for "consistent".
        """
        if self.verdict is Verdict.REFUTED:
            return 1
        undecided = require != "consistent" and any(claim.status != "proved" for claim in self.claims)
        return 0 if self.verdict in ENOUGH[require] and not undecided and not self._faults() else 3

    # Text

    def __str__(self) -> str:
        but = f", but {' and '.join(self._faults())}" if self._faults() else ""
        taken = f" {' and '.join(self.assumptions)}" if self.verdict is Verdict.ASSUMING else ""
        lines = [f"{self.verdict.value}{taken}{but}: {self.subject}", f"  {self._meaning()}"]
        lines += [f"  {reason}" for reason in self.reasons]
        lines += [*_rows({"first diverging": self._diverging(), "step": self.step}), *difference_lines(self.differences)]
        lines += _rows(witness_rows(self.witness))
        lines += _rows(
            {"theory": "; ".join(self.theory), "error": self._error(), "key": self._key(), **self.scope, "weights": self.weights}
        )
        lines += ["claims", *self._claim_lines()] if self.claims else []
        lines += ["edits", *self._edit_lines()] if self.edits or self.edits_undecided else []
        lines += ["drift", *(f"  {line}" for line in drift_lines(self.drift))]
        lines += ["not covered", *(f"  {line}" for line in self.not_covered)] if self.not_covered else []
        return "\n".join(lines)

    def _meaning(self) -> str:
        """What the verdict says, of the ids that it is for."""
        steered = " whose ids build the same masks and positions" if "steering" in self.scope else ""
        return MEANING[self.verdict].replace("all inputs of these shapes", f"all inputs of these shapes{steered}")

    def _diverging(self) -> str:
        return next((f"{d.place}: {d}" for d in self.differences if d.kind == "site"), self.site)

    def _faults(self) -> list[str]:
        """What is wrong beside the verdict."""
        failed, dead = sum(claim.status == "fails" for claim in self.claims), len(self.dead)
        found = [f"{failed} claim{'s' * (failed > 1)} fail{'s' * (failed == 1)}"] if failed else []
        return [*found, f"{dead} edit{'s' * (dead > 1)} cannot reach an output"] if dead else found

    def _edit_lines(self, most: int = 6) -> list[str]:
        if self.edits_undecided:
            return [f"  undecided: no exact meaning: {self.edits_undecided}"]
        alive = len(self.edits) - len(self.dead)
        dead = [f"  dead      {edit.address}: {edit.reason}" for edit in self.dead]
        more = [f"  ... and {len(dead) - most} more"] if len(dead) > most else []
        return [*dead[:most], *more, f"  alive     {alive} of {len(self.edits)} terms and members tried: an edit there can reach an output"]

    def _error(self) -> str:
        if self.log2_bound is None:
            return ""
        counted = ", ".join(f"{n} {what}" for what, n in self.counts.items())
        if self.log2_bound == -math.inf:
            return "none: no number was drawn"
        return f"at most 2^{self.log2_bound:.1f}; {counted}" if math.isfinite(self.log2_bound) else "no bound: a degree reached the primes"

    def _key(self) -> str:
        return f"{self.key} ({'from the seed given' if self.seeded else 'drawn after both graphs were fixed'})" if self.key else ""

    def _claim_lines(self, most: int = 12) -> list[str]:
        """The claims that are not proved in full, then the others, those at many sites as one line."""
        groups: dict[tuple[str, str, str, str, str], list[str]] = {}
        for c in sorted(self.claims, key=lambda c: ("fails", "undecided", "proved").index(c.status)):
            groups.setdefault((c.status, c.sentence, c.equation, c.members, c.reason), []).append(c.site)
        lines = []
        for (status, sentence, equation, members, reason), sites in groups.items():
            where = sites[0] if len(sites) == 1 else f"{sites[0]} and {len(sites) - 1} more"
            extra = "".join(f"; {text}" for text in (members, reason) if text)
            lines.append(f"  {status:<9} {where}: {sentence}   [{equation}]{extra}")
        return lines if len(lines) <= most else [*lines[:most], f"  ... and {len(lines) - most} more lines"]

    # For machines

    def to_json(self) -> str:
        """The report as JSON: the same facts as the text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        plain = {name: getattr(self, name) for name in PLAIN_FIELDS}
        rest = {
            "verdict": self.verdict.value,
            "proved": self.proved,
            "claims": [{name: getattr(line, name) for name in ClaimLine.__dataclass_fields__} for line in self.claims],
            "edits": {edit.address: "alive" if edit.alive else edit.reason for edit in self.edits},
            "drift": _drift_dict(self.drift),
            "witness": _witness_dict(self.witness),
            "differences": [asdict(difference) for difference in self.differences],
        }
        return finite({**plain, **rest})


PLAIN_FIELDS = ("subject", "reasons", "assumptions", "log2_bound", "theory", "counts", "key", "seeded", "scope", "weights", "site", "step",
                "not_covered", "edits_undecided")  # fmt: skip
MOST_NUMBERS = 4096  # of a witness in JSON


def _drift_dict(drift: Drift) -> dict[str, Any]:
    if not drift.ran:
        return {"reason": drift.reason}
    outputs = {name: getattr(drift.outputs, name) for name in ("rho", "amplification", "ulp", "largest")}
    gradients = drift.gradients.rho if drift.gradients else None
    rest = {"kl": drift.kl, "top1_flips": drift.flips, "gradient_rho": gradients, "shapes": drift.shapes, "usable": drift.usable}
    return {"verdict": drift.verdict, **outputs, **rest}


def _witness_dict(witness: Witness | None) -> dict[str, Any] | None:
    if witness is None:
        return None
    values = {name: value.tolist() for name, value in witness.values.items() if value.numel() <= MOST_NUMBERS}
    place = {"how": witness.how, "left": witness.left, "reachable": witness.reachable, "region": witness.region}
    return {**place, "rho": witness.gap.rho, "largest": witness.gap.largest, "values": values}


def finite(value: Any) -> Any:
    """`value` with tuples as lists and infinities as words, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _rows(rows: dict[str, str]) -> list[str]:
    return [f"  {name:<15} {text}" for name, text in rows.items() if text]


def difference_lines(differences: Sequence[Difference], most: int = 3) -> list[str]:
    """How outputs and weights differ, the first of each."""
    lines = []
    for kind in ("output", "weight"):
        mine = [d for d in differences if d.kind == kind]
        lines += [f"  {kind:<15} {d.place}: {d}" for d in mine[:most]]
        lines += [f"  {'':<15} ... and {len(mine) - most} more"] if len(mine) > most else []
    return lines


def witness_rows(witness: Witness | None) -> dict[str, str]:
    """A witness in words: where it is from, how far apart the programs are on it, and what is left of it."""
    if witness is None:
        return {}
    place = (
        "" if witness.reachable else f" at the inputs of the region of {witness.region}; not shown to be reachable from the model's inputs"
    )
    gap = witness.gap
    size = f"float64 runs differ by {gap.largest:.1e} at {gap.at or 'the output'}"
    size += f", {gap.rho:.0e} times what rounding explains" if math.isfinite(gap.rho) else ", which rounding does not explain"
    left = {" " * (i + 1): line for i, line in enumerate(witness.left)}
    return {"witness": f"{witness.how}{place}", "": f"{size}; {_values(witness.values)}", **left}


def _values(values: Any) -> str:
    shown = [f"{name} = {_short(value)}" for name, value in values.items() if isinstance(value, Tensor)]
    return "; ".join(shown[:3]) + ("; ..." if len(shown) > 3 else "")


def _short(value: Tensor) -> str:
    flat = value.detach().flatten().tolist()
    text = ", ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in flat[:6])
    return f"[{text}{', ...' if len(flat) > 6 else ''}]"


def drift_lines(drift: Drift) -> list[str]:
    """What float runs showed, in words."""
    if not drift.ran:
        return [f"ladder not run: {drift.reason}"]
    o = drift.outputs
    lines = [
        f"{drift.verdict}: float64 difference {o.largest:.1e}, rho {o.rho:.2g} (rounding up to 64, another function from 1e4)"
        f" at {len(drift.shapes)} shape{'s' * (len(drift.shapes) > 1)}",
        f"float32: {drift.usable}, rounding {o.amplification:.2g} times the original's; at most {o.ulp:.3g} ulp of the largest output",
    ]
    if drift.kl is not None and drift.flips is not None:
        lines.append(f"logits: KL at most {drift.kl:.1e} nats; top-1 differs at {drift.flips[0]} of {drift.flips[1]} positions")
    if drift.gradients is not None:
        lines.append(f"gradients: rho {drift.gradients.rho:.2g} (worst: {drift.gradients.at})")
    if drift.constants is not None:
        lines.append(f"{drift.constants[0]} derived constants; computed in float32 the worst is {drift.constants[1]:.2g} ulp off")
    lines += [drift.half] if drift.half else []
    if o.amplification > 100:
        lines.append("numerically unusable in float32, equivalent as it may be: scale f down, or compute the remainder in float64")
    return [*lines, *drift.notes]
