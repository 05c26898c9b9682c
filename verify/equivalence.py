"""Equivalence: the exact tier and the float tier put together into a verdict that says no more than they do."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor, fx

from rewrite.errors import InputError
from rewrite.program import Program
from verify.cases import given_cases, other_shapes, redrawn
from verify.claims import Proof, equation, prove
from verify.decide import sub_key
from verify.ladder import DIFFERENT, Drift, Sides, ladder
from verify.leaves import closed_gates, digest, leaf_values
from verify.match import Matching, WeightCheck, check_weights, match
from verify.regions import Composition, Pair, Region, candidates
from verify.report import ClaimLine, Report, Verdict
from verify.roles import Role, roles_of
from verify.shadow import Case
from verify.structure import Side
from verify.witness import Witness, search, search_region

SMALL = 5_000_000  # weights up to which more random inputs are run
DRAWS = 3


def equivalence(
    a: Program,
    b: Program | None = None,
    *,
    inputs: Any = None,
    gradients: bool = False,
    weights: Literal["same", "any"] = "same",
    roles: Mapping[str, str] | None = None,
    match: Mapping[str, str] | None = None,
    bound: float = 2**-20,
    seed: int | None = None,
) -> Report:
    """Whether `b` computes the same function as `a`, and whether the terms of `b` are what they claim; `equivalence(p)` is p and its origin.

    `inputs` are one dict of arguments or several (other mask patterns), by default the example of `a`. `roles` says which inputs are
    `ids`, `mask` or `values`, `match` which tensor or input of `b` is which of `a` (name in b -> name in a). `weights="any"` asks for the
    same function of weights, whatever they are. `bound` is the probability of a wrong "proved" to stay under. The random key is
    drawn afresh, or from `seed`, which the report then says.
    Raises: InputError for inputs, names or roles that do not fit.
    """
    if weights not in ("same", "any"):
        raise InputError(f"equivalence: expected weights='same' or 'any', got {weights!r}.")
    if not 0 < bound < 1:
        raise InputError(f"equivalence: expected a bound between 0 and 1, got {bound!r}. 2**-20 is the default.")
    first, second = (a.origin, a) if b is None else (a, b)
    job = Job.of(first, second, given_cases(first, inputs), weights, dict(roles or {}), dict(match or {}))
    job.key = secrets.token_bytes(16) if seed is None else blake2b(str(seed).encode(), digest_size=16).digest()
    return job.report(bound, gradients, seed)


@dataclass
class Job:
    """One question, with everything that was worked out before the key is drawn."""

    a: Program
    b: Program
    cases: list[Case]
    matching: Matching
    weights: WeightCheck
    any_weights: bool
    roles: dict[str, Role]
    outputs: list[Pair]
    mismatch: str  # why outputs cannot be compared at all
    sides: Sides
    edited: dict[str, str]
    key: bytes = b""
    share: float = 0.0
    compositions: list[Composition] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    exact_constants: bool = False

    @staticmethod
    def of(a: Program, b: Program, cases: list[Case], weights: str, roles: dict[str, str], names: dict[str, str]) -> Job:
        """The question whether `b` is `a` on `cases`."""
        matching = match(a, b, names)
        outputs, mismatch = _outputs(a, b)
        override = {y: a.tensors[x] for x, y in matching.pairs} if weights == "any" else {}
        sides = Sides(a, b, matching, tuple((p.name, p.a, p.b) for p in outputs), override)
        found = roles_of(a, cases[0], roles)
        return Job(a, b, cases, matching, check_weights(a, b, matching), weights == "any", found, outputs, mismatch, sides, closed_gates(b))

    # The exact tier

    def prove(self, log2_target: float) -> bool:
        """True if every case is proved, with claims; more is asked of every region until all together stay under the target."""
        self.share = log2_target - 5
        while True:
            self.exact_constants = False
            equal = self._compose()
            if not equal and self._has_constants():
                self.exact_constants = True
                equal = self._compose()
            self._claims()
            if self.log2_bound <= log2_target or self.log2_bound == math.inf or self.share < log2_target - 40:
                return equal
            self.share -= max(1.0, math.ceil(self.log2_bound - log2_target))

    def _has_constants(self) -> bool:
        traced = {leaf.name for p in (self.a, self.b) for leaf in p.origin.leaves.values()}
        return any(leaf.kind == "constant" and leaf.name not in traced for p in (self.a, self.b) for leaf in p.leaves.values())

    def _compose(self) -> bool:
        self.compositions = []
        for number, case in enumerate(self.cases):
            first, second = self.side(case, "a"), self.side(case, "b")
            made = Composition(first, second, sub_key(self.key, "case", number, self.share, self.exact_constants), self.share)
            self.compositions.append(made)
            if not made.prove(candidates(self.a, self.b), self.outputs):
                made.localise()
                return False
        return True

    def _claims(self) -> None:
        claims = self.b.claims
        self.proofs = (
            prove(self.side(self.cases[0], "b"), claims, sub_key(self.key, "claims"), self.share - math.log2(max(1, len(claims))))
            if claims
            else []
        )

    def side(self, case: Case, which: Literal["a", "b"]) -> Side:
        """One of the programs with the values of its leaves."""
        program, labels = (self.a, self.matching.a) if which == "a" else (self.b, self.matching.b)
        own = case if which == "a" else self.sides.of_b(case)
        renamed = (
            {}
            if which == "a"
            else {
                self.b.leaves[y].name: self.roles[self.a.leaves[x].name]
                for x, y in self.matching.inputs.items()
                if self.a.leaves[x].name in self.roles
            }
        )
        leaves = leaf_values(program, labels, own, renamed or self.roles, exact_constants=self.exact_constants, open_gates=True)
        return Side(program, leaves, own)

    @property
    def log2_bound(self) -> float:
        """log2 of the chance that anything called proved here is not: regions, vain attempts and claims, added up."""
        bounds = [b for c in self.compositions for b in c.log2_bounds] + [p.log2_bound for p in self.proofs if p.proved and not p.again]
        if not bounds or math.inf in bounds:
            return math.inf if bounds else -math.inf
        return math.log2(sum(2.0**b for b in bounds))

    # The verdict

    def report(self, bound: float, gradients: bool, seed: int | None) -> Report:
        """Both tiers and what follows from them."""
        if self.mismatch:
            return Report(Verdict.DIFFERS, self.subject, (self.mismatch,), weights=self._weights_text())
        target = math.log2(bound)
        equal = self.prove(target)
        generator = torch.Generator().manual_seed(int.from_bytes(self.key[:4], "little"))
        drift = (
            ladder(self.sides, self.cases, self._more(generator), gradients) if not self.edited else Drift(reason="the program is edited")
        )
        verdict, reasons, witness = self._judge(equal, target, drift, gradients)
        made = self.compositions[-1]
        site, step = self._place(made) if verdict in (Verdict.DIFFERS, Verdict.REFUTED) and not equal else ("", "")
        return Report(
            verdict, self.subject, tuple(reasons),
            log2_bound=self.log2_bound if verdict is Verdict.PROVED or equal else None,
            theory=self._theory(), counts=self._counts(), key=self.key.hex(), seeded=seed is not None, scope=self._scope(), weights=self._weights_text(),
            claims=tuple(self._claim_line(p) for p in self.proofs), drift=drift, site=site, step=step, witness=witness, not_covered=self._not_covered(gradients),
        )  # fmt: skip

    def _judge(self, equal: bool, target: float, drift: Drift, gradients: bool) -> tuple[Verdict, list[str], Witness | None]:
        refused = list(dict.fromkeys(r.decision.refused for c in self.compositions for r in c.regions if r.decision.refused))
        if self.edited:
            inner = "proved" if equal and self.log2_bound <= target else "not proved"
            return Verdict.EDITED, [*(f"gate {a} at {v}" for a, v in list(self.edited.items())[:5]), f"with all gates open: {inner}"], None
        if not equal and refused:
            return self._numeric_only(drift, f"no exact meaning: {refused[0]}")
        if not equal:
            witness = self._witness()
            if witness:
                return Verdict.REFUTED, self._other_weights(), witness
            return Verdict.DIFFERS, ["not derivable from: " + "; ".join(self._theory()), *self._other_weights()], None
        if not self.any_weights and not self.weights.same:
            return self._judge_weights()
        if self.log2_bound > target:
            return self._numeric_only(drift, "equal in exact arithmetic, but the probability of error has no such bound")
        if drift.ran and drift.outputs.rho > DIFFERENT:
            return (
                Verdict.UNKNOWN,
                [f"the tiers contradict each other: proved, but float64 runs differ (rho {drift.outputs.rho:.2g} at {drift.outputs.at})"],
                None,
            )
        return self._judge_gradients(drift) if gradients else (Verdict.PROVED, [], None)

    def _judge_weights(self) -> tuple[Verdict, list[str], Witness | None]:
        witness = None if not self.weights.different else self._witness(inner=False)
        return (Verdict.REFUTED if witness else Verdict.DIFFERS), self._other_weights(), witness

    def _judge_gradients(self, drift: Drift) -> tuple[Verdict, list[str], Witness | None]:
        """Outputs are proved; gradients are only measured."""
        outputs = "outputs: proved"
        if drift.gradients is None:
            return Verdict.UNKNOWN, [outputs, f"gradients: not measured ({drift.reason})"], None
        if drift.gradients.rho > DIFFERENT:
            values = {self.a.leaves[n].name: v for n, v in self.cases[0].items() if isinstance(v, Tensor)}
            witness = Witness(values, drift.gradients, "gradients of a random cotangent at the inputs given")
            return Verdict.REFUTED, [outputs, f"gradients: differ, most at {drift.gradients.at}"], witness
        return Verdict.CONSISTENT, [outputs, "gradients: measured on floats, not proved"], None

    def _numeric_only(self, drift: Drift, reason: str) -> tuple[Verdict, list[str], Witness | None]:
        if not drift.ran:
            return Verdict.UNKNOWN, [reason, f"and no float runs: {drift.reason}"], None
        witness = self._witness(inner=False)
        if witness:
            return Verdict.REFUTED, [reason, *self._other_weights()], witness
        if not self.any_weights and not self.weights.same:
            return Verdict.UNKNOWN, [reason, *self._other_weights()], None
        return (Verdict.CONSISTENT if drift.verdict == "rounding only" else Verdict.UNKNOWN), [reason], None

    def _witness(self, inner: bool = True) -> Witness | None:
        seed = int.from_bytes(self.key[4:8], "little")
        found = search(self.sides, self.cases, self.roles, seed)
        made = self.compositions[-1]
        region = made.diverging
        if found or not inner or region is None or not region.cuts:
            return found
        cuts = [(c.pair.a, c.pair.b) for c in region.cuts]
        shapes = {c.pair.b: c.shape for c in region.cuts}
        return search_region(self.sides, region.pair.name, cuts, made.a.case, shapes, seed)

    # Words

    @property
    def subject(self) -> str:
        """What is compared, in words."""
        if self.b.traced_from is self.a:
            return f"{self.b.header.model} after {_count(len(self.b.steps), 'step')}, against its origin"
        if self.a is self.b:
            return f"{self.a.header.model} against itself"
        return f"{self.b.header.model} against {self.a.header.model}"

    def _other_weights(self) -> list[str]:
        w, lines = self.weights, []
        for what, names in (
            ("other weights", w.different),
            ("tied in one of them only", w.tied_in_one),
            ("not the same tensor object, and no values", w.unread),
        ):
            if names and not self.any_weights:
                lines.append(f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}")
        return lines

    def _weights_text(self) -> str:
        w = self.weights
        if self.any_weights:
            return "any: the same function of weights, these or others"
        parts = [
            (w.same_object, "the same tensor"),
            (w.same_bits, "the same bits"),
            (len(w.different), "different"),
            (len(w.unread), "without values"),
        ]
        return "matched: " + (", ".join(f"{n} {what}" for n, what in parts if n) or "none")

    def _theory(self) -> tuple[str, ...]:
        tallies = [r.decision.tally for c in self.compositions for r in c.regions]
        names = sorted({name for tally in tallies for name in tally.calls})
        signs = any(r.decision.theory == "signs" for c in self.compositions for r in c.regions)
        laws = ["field arithmetic"] + (["signs as quadratic characters"] if signs else [])
        return (*laws, *([f"functions known by their laws: {', '.join(names)}"] if names else []))

    def _counts(self) -> dict[str, int]:
        regions = [r for c in self.compositions for r in c.regions if r.proved and not r.again]
        found = {"regions": len(regions), "primes": max((r.decision.primes for r in regions), default=0)}
        return {
            "distinct regions": found["regions"],
            **({"claims": sum(p.proved for p in self.proofs)} if self.proofs else {}),
            "primes at most": found["primes"],
            "expressions whose rules were compared with torch": sum(len(c.sound) for c in self.compositions),
        }

    def _scope(self) -> dict[str, str]:
        shown = []
        for node, leaf in self.a.leaves.items():
            value = self.cases[0].get(node)
            if leaf.kind != "input" or not isinstance(value, Tensor):
                continue
            role = self.roles[leaf.name]
            how = {"values": "any numbers", "ids": "any ids"}.get(role) or f"a mask, {_count(self._patterns(node), 'pattern')} as given"
            shown.append(f"{leaf.name} {list(value.shape)} ({how})")
        tallies = [r.decision.tally for c in self.compositions for r in c.regions]
        steering = sorted({s for t in tallies for s in t.steering})
        undefined = max((t.undefined for t in tallies), default=0)
        divisions = sorted({d for t in tallies for d in t.divisions})
        notes = {
            "steering": f"{_count(len(steering), 'comparison')} of ids build masks or positions, for the ids given only: {', '.join(steering[:3])}"
            if steering
            else "",
            "undefined": f"{undefined} elements undefined in one of them, left out" if undefined else "",
            "divisions": f"wherever these are defined: {', '.join(divisions[:4])}{', ...' if len(divisions) > 4 else ''}"
            if divisions
            else "",
            "constants": "of passes: the numbers that they hold" if self.exact_constants else "",
            "gates": f"{_count(len(self.b.gate_records), 'gate')} at (1, 0)" if self.b.gate_records and not self.edited else "",
        }
        return {"inputs": ", ".join(shown), **{k: v for k, v in notes.items() if v}}

    def _patterns(self, node: str) -> int:
        return len({digest(case[node]) for case in self.cases})

    def _claim_line(self, proof: Proof) -> ClaimLine:
        status: Literal["proved", "fails", "undecided"] = "proved" if proof.proved else "undecided" if proof.refused else "fails"
        members = ""
        if proof.members:
            tried, total = proof.members
            members = f"all {total} members" if tried == total else f"{tried} members sampled of {total}"
        return ClaimLine(proof.claim.site, proof.claim.sentence, equation(self.b, proof.claim), status, members, proof.refused or "")

    def _not_covered(self, gradients: bool) -> tuple[str, ...]:
        tallies = [r.decision.tally for c in self.compositions for r in c.regions]
        casts = {n for t in tallies for n in t.narrowings}
        lines = [
            "tracing: outputs and one vector-Jacobian product were compared with the model on floats, not proved",
            "rounding: measured on the inputs run, not proved",
            "other shapes" + (", other mask patterns" if "mask" in self.roles.values() else ""),
        ]
        if casts:
            lines.append(f"{_count(len(casts), 'cast')} to shorter floats, taken as exact")
        return tuple(lines if gradients else [*lines, "gradients: not asked for"])

    def _place(self, made: Composition) -> tuple[str, str]:
        """The first diverging site, and the step that rewrote it or something in its region."""
        region = made.diverging
        if region is None:
            return "", ""
        unequal = region.decision.agreement
        extent = f" ({unequal.unequal} of {unequal.elements} elements)" if unequal else ""
        return f"{region.pair.name}{extent}", _step(self.b, made, region)

    def _more(self, generator: torch.Generator) -> list[Case]:
        if any(t.is_meta for t in self.a.tensors.values()):
            return []
        more = other_shapes(self.a, self.cases[0])
        if sum(t.numel() for t in self.a.tensors.values()) <= SMALL:
            more += [redrawn(self.a, self.cases[0], self.roles, generator) for _ in range(DRAWS)]
        return more


def _outputs(a: Program, b: Program) -> tuple[list[Pair], str]:
    """The outputs to compare, by position, and why they cannot be, if so."""
    if len(a.outputs) != len(b.outputs):
        return [], f"other outputs: {len(a.outputs)} and {len(b.outputs)}"
    pairs = []
    for i, (x, y) in enumerate(zip(a.outputs, b.outputs, strict=True)):
        name = a.calling.outputs[i] or "the output"
        if isinstance(x, fx.Node) and isinstance(y, fx.Node):
            pairs.append(Pair(name, x.name, y.name))
        elif x != y or isinstance(x, fx.Node) or isinstance(y, fx.Node):
            return [], f"output {name} is {x} and {y}"
    return pairs, "" if pairs else "no output is a tensor"


def _step(b: Program, made: Composition, region: Region) -> str:
    """The last step of `b` that was applied at a site inside the region, in words."""
    cuts = {made.b.representative[c.pair.b]: c for c in region.cuts}
    inside = {node.name for node in made.b.region(made.b.representative[region.pair.b], cuts)} - set(cuts)
    sites = {address for address, site in b.sites_by_address.items() if made.b.representative.get(site.node) in inside}
    sites |= {split.site for split in b.splits if made.b.representative[split.total] in inside} | {region.pair.name}
    for number in reversed(range(len(b.steps))):
        step = b.steps[number]
        touched = [s for s in step.sites if s in sites]
        if touched:
            return f"{number + 1} of {len(b.steps)}, {step.name} at {touched[0]}"
    return ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


__all__: Sequence[str] = ("equivalence",)
