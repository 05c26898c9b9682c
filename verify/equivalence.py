"""Equivalence: the exact tier and the float tier put together into a verdict that says no more than they do."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor

from rewrite.errors import InputError
from rewrite.program import Program
from verify import wording
from verify.assume import NOTHING, ROOTS, Assumed, read, try_declarations
from verify.cases import given_cases, other_shapes, redrawn, told_apart
from verify.claims import Proof, prove
from verify.decide import sub_key
from verify.findings import explained
from verify.interpret import Refused
from verify.ladder import DIFFERENT, Drift, Sides, ladder
from verify.leaves import closed_gates, leaf_values
from verify.liveness import check_progress, liveness
from verify.match import WeightCheck, check_weights, match
from verify.outputs import paired_outputs
from verify.regions import Composition, Pair, candidates
from verify.report import Report, Verdict
from verify.roles import Role, roles_of
from verify.runs import places
from verify.shadow import Case
from verify.structure import Side
from verify.witnesses.witness import Witness, search, search_region

SMALL = 5_000_000  # weights up to which more random inputs are run
DRAWS = 3
Judgement = tuple[Verdict, list[str], Witness | None]  # with the reasons


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
    edits: bool = False,
    assuming: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Whether `b` computes the same function as `a`, and its terms are what they claim; `equivalence(p)` compares p with its origin.

    `inputs` are one dict of arguments or several (other mask patterns), by default the example of `a`. `roles` says which inputs are
    `ids`, `mask` or `values`, `match` which tensor or input of `b` is which of `a` (name in b -> name in a). `weights="any"` asks for the
    same function of weights, whatever they are. `bound` is the probability of a wrong "proved" to stay under. The random key is
    drawn afresh, or from `seed`, which the report then says. `edits` also decides for every term whether an edit there can reach an
    output (see `liveness`). `progress` is told what is being done.
    `assuming` names what may be taken on your word where no law says it: "mylib::op is elementwise" (or row-wise: over the last axis, or
    linear) of an op without a rule, "literals are roots" of doubles next to the root of a small fraction. A proof that needs one is
    PROVED ASSUMING it, which is not `proved`.
    Raises: InputError for inputs, names or roles that do not fit, and for an assumption that float runs contradict.
    """
    if weights not in ("same", "any"):
        raise InputError(f"equivalence: expected weights='same' or 'any', got {weights!r}.")
    for program in (a,) if b is None else (a, b):
        if not isinstance(program, Program):
            raise InputError(f"equivalence: expected programs, got {type(program).__name__}. Trace it first: trace(model, **inputs).")
    if not (isinstance(bound, int | float) and 0 < bound < 1):
        raise InputError(f"equivalence: expected a bound between 0 and 1, got {bound!r}. 2**-20 is the default.")
    for name, given in (("roles", roles), ("match", match)):
        if not isinstance(given, Mapping | None) or not all(isinstance(text, str) for pair in (given or {}).items() for text in pair):
            raise InputError(f"equivalence: expected {name} as a dict of names, got {given!r}.")
    check_progress("equivalence", progress)
    first, second = (a.origin, a) if b is None else (a, b)
    job = Job.of(first, second, given_cases(first, inputs), weights == "any", dict(roles or {}), dict(match or {}))
    job.key = secrets.token_bytes(16) if seed is None else blake2b(str(seed).encode(), digest_size=16).digest()
    job.tell = progress or job.tell
    job.assumed = read(assuming)
    try_declarations(job.assumed, [job._side_a(job.cases[0]), job._side_b(job.cases[0])] if job.assumed.ops else [])
    report = job.report(bound, gradients, seed is not None)
    return replace(report, **_edits(job, inputs, roles, seed)) if edits and not job.mismatch else report


def _edits(job: Job, inputs: Any, roles: Mapping[str, str] | None, seed: int | None) -> dict[str, Any]:
    """What a report says of the edits of `job.b`."""
    try:
        tell = lambda address: job.tell(f"edits: {address}")  # noqa: E731
        return {"edits": tuple(liveness(job.b, inputs=inputs, roles=roles, seed=seed, progress=tell))}
    except Refused as refused:
        return {"edits_undecided": f"{refused.op} at {refused.node}: {refused.reason}"}


@dataclass
class Job:
    """One question, with everything that was worked out before the key is drawn, and what was found since."""

    sides: Sides
    cases: list[Case]
    weights: WeightCheck
    any_weights: bool
    roles: dict[str, Role]
    outputs: list[Pair]
    mismatch: str  # why outputs cannot be compared at all
    edited: dict[str, str]  # gates that are not open
    key: bytes = b""
    share: float = 0.0  # log2 of the error allowed to one region or claim
    compositions: list[Composition] = field(default_factory=list)
    slopes: list[Composition] = field(default_factory=list)  # those that compare derivatives too
    vain: list[float] = field(default_factory=list)  # log2 of the chances of a false agreement in compositions given up
    proofs: list[Proof] = field(default_factory=list)
    exact_constants: bool = False
    assumed: Assumed = NOTHING
    tell: Callable[[str], None] = field(default=lambda what: None, repr=False)

    @staticmethod
    def of(a: Program, b: Program, cases: list[Case], any_weights: bool, roles: dict[str, str], names: dict[str, str]) -> Job:
        """The question whether `b` is `a` on `cases`."""
        matching = match(a, b, names)
        outputs, mismatch = paired_outputs(a, b)
        override = {y: a.tensors[x] for x, y in matching.pairs} if any_weights else {}
        sides = Sides(a, b, matching, tuple((pair.name, pair.a, pair.b) for pair in outputs), override)
        edited = closed_gates(a) | closed_gates(b)
        return Job(sides, cases, check_weights(a, b, matching), any_weights, roles_of(a, cases[0], roles), outputs, mismatch, edited)

    @property
    def a(self) -> Program:
        """The original."""
        return self.sides.a

    @property
    def b(self) -> Program:
        """The program that is to be the same."""
        return self.sides.b

    # The exact tier

    def prove(self, log2_target: float, gradients: bool) -> bool:
        """True if every case is found equal; more is asked of every region until all together, claims too, stay under the target.

        With `gradients`, derivatives of equal programs are compared then.
        """
        self.share = log2_target - 5
        while True:
            self.vain, self.exact_constants = [], False
            equal = self._compose()
            if not equal and self._has_constants():
                self.vain = [bound for made in self.compositions for bound in made.log2_bounds]
                self.exact_constants = True
                equal = self._compose()
            if equal and gradients:
                self._compose_slopes()
            self._prove_claims()
            if self.log2_bound <= log2_target or self.log2_bound == math.inf or self.share < log2_target - 40:
                return equal
            self.share -= max(1.0, math.ceil(self.log2_bound - log2_target))

    def _has_constants(self) -> bool:
        """True if a pass brought a constant along."""
        both = (self.a, self.b)
        traced = {leaf.name for program in both for leaf in program.origin.leaves.values()}
        return any(leaf.kind == "constant" and leaf.name not in traced for program in both for leaf in program.leaves.values())

    def _compose(self) -> bool:
        self.compositions = []
        for number, case in enumerate(self.cases):
            self.tell(f"proving: inputs {number + 1} of {len(self.cases)}")
            made = self._composition(number, case, dual=False)
            self.compositions.append(made)
            if not made.prove(candidates(self.a, self.b), self.outputs):
                made.localise()
                return False
        return True

    def _composition(self, number: int, case: Case, *, dual: bool) -> Composition:
        key = sub_key(self.key, "case", number, self.share, self.exact_constants, dual)
        return Composition(self._side_a(case), self._side_b(case), key, self.share, dual, assumed=self.assumed)

    def _compose_slopes(self) -> None:
        self.slopes = []
        for number, case in enumerate(self.cases):
            self.tell(f"proving derivatives: inputs {number + 1} of {len(self.cases)}")
            made = self._composition(number, case, dual=True)
            self.slopes.append(made)
            if not made.prove(candidates(self.a, self.b), self.outputs):
                made.localise()
                return

    def _prove_claims(self) -> None:
        """Claims are proved for any constants of passes; those that fail, once more for the numbers that they hold."""
        self.tell(f"proving {wording.count(len(self.b.claims), 'claim')}")
        share = self.share - math.log2(max(1, 2 * len(self.b.claims)))
        side, key = self._side_of_claims(exact_constants=False), sub_key(self.key, "claims")
        self.proofs = prove(side, self.b.claims, key, share, assumed=self.assumed)
        left = [i for i, proof in enumerate(self.proofs) if not proof.proved]
        if left and self._has_constants():
            self.vain += [share] * len(left)
            exact = self._side_of_claims(exact_constants=True)
            again = prove(exact, [self.b.claims[i] for i in left], key, share, assumed=self.assumed)
            for i, proof in zip(left, again, strict=True):
                self.proofs[i] = proof if proof.proved else self.proofs[i]

    def _side_of_claims(self, exact_constants: bool) -> Side:
        """The second program with copies of inputs apart; where there are none, as regions were compared."""
        if self.exact_constants == exact_constants and not self.sides.matching.copies:
            return self.compositions[0].b
        return self._side_b(self.cases[0], exact_constants=exact_constants, apart=True)

    def _side_a(self, case: Case) -> Side:
        leaves = leaf_values(self.a, self.sides.matching.a, case, self.roles, exact_constants=self.exact_constants, open_gates=True)
        return Side(self.a, leaves, case)

    def _side_b(self, case: Case, exact_constants: bool | None = None, apart: bool = False) -> Side:
        """The second program; copies of inputs take the originals' values, or with `apart` values of their own."""
        exact = self.exact_constants if exact_constants is None else exact_constants
        matching = self.sides.matching
        named = {y: self.a.leaves[x].name for x, y in matching.inputs.items()}
        named |= {copy: self.a.leaves[x].name for copy, x in matching.copies.items()}
        roles: dict[str, Role] = {self.b.leaves[node].name: self.roles[name] for node, name in named.items() if name in self.roles}
        own, labels = self.sides.of_b(case), matching.b
        if apart:
            own, labels = told_apart(self.b, own), labels | {copy: f"copy {self.b.leaves[copy].name}" for copy in matching.copies}
        leaves = leaf_values(self.b, labels, own, roles, exact_constants=exact, open_gates=True)
        return Side(self.b, leaves, own)

    @property
    def log2_bound(self) -> float:
        """log2 of the chance that anything called proved here is not: regions, vain attempts and claims, added up."""
        bounds = [bound for made in (*self.compositions, *self.slopes) for bound in made.log2_bounds] + self.vain
        bounds += [proof.log2_bound for proof in self.proofs if proof.proved and not proof.again]
        if math.inf in bounds:
            return math.inf
        chance = sum(2.0**bound for bound in bounds)
        return math.log2(chance) if chance else -math.inf

    # The verdict

    def report(self, bound: float, gradients: bool, seeded: bool) -> Report:
        """Both tiers and what follows from them."""
        about, weighed = wording.subject(self.a, self.b), wording.weights(self.weights, self.any_weights)
        if self.mismatch:
            return Report(Verdict.DIFFERS, about, (self.mismatch,), weights=weighed)
        equal = self.prove(math.log2(bound), gradients)
        self.tell("running in float32 and float64")
        drift = Drift(reason="the program is edited") if self.edited else ladder(self.sides, self.cases, self._more_cases(), gradients)
        verdict, reasons, witness = self._judge(equal, math.log2(bound), drift, gradients)
        taken = wording.assumptions((*self.compositions, *self.slopes), self.proofs)
        if verdict is Verdict.PROVED and taken:
            verdict = Verdict.ASSUMING
        differing = self.compositions[-1] if not equal else self.slopes[-1] if self.slopes else None
        wrong = verdict in (Verdict.DIFFERS, Verdict.REFUTED)
        site, step = wording.place(differing) if wrong and differing else ("", "")
        differences, witness = explained(self, differing, witness, site, about) if wrong else ((), witness)
        return Report(
            verdict,
            about,
            tuple(reasons),
            log2_bound=self.log2_bound if equal else None,
            theory=wording.theory(self.compositions),
            counts=wording.counts(self.compositions, self.proofs),
            assumptions=taken,
            key=self.key.hex(),
            seeded=seeded,
            scope=self._scope(),
            weights=weighed,
            claims=tuple(wording.claim_line(self.b, proof) for proof in self.proofs),
            drift=drift,
            site=site,
            step=step,
            witness=witness,
            differences=differences,
            not_covered=wording.not_covered(self.compositions, self.roles, gradients),
        )

    def _scope(self) -> dict[str, str]:
        gates = len(self.b.gate_records)
        found = {
            "inputs": wording.inputs(self.a, self.cases, self.roles),
            **wording.limits(self.a, self.b, self.compositions),
            "literals": wording.literals((*self.compositions, *self.slopes)),
            "constants": "of passes: the numbers that they hold" if self.exact_constants else "",
            "gates": f"{wording.count(gates, 'gate')} at (1, 0)" if gates and not self.edited else "",
        }
        return {name: text for name, text in found.items() if text}

    def _judge(self, equal: bool, target: float, drift: Drift, gradients: bool) -> Judgement:
        if self.edited:
            taken = wording.assumptions(self.compositions, self.proofs)
            assuming = f" assuming {' and '.join(taken)}" if taken else ""
            open_gates = f"proved{assuming}" if equal and self.log2_bound <= target else "not proved"
            return (
                Verdict.EDITED,
                [*(f"gate {g} at {v}" for g, v in list(self.edited.items())[:5]), f"with all gates open: {open_gates}"],
                None,
            )
        refused = [r.decision.refused for made in self.compositions for r in made.regions if r.decision.refused]
        if not equal:
            reason = f"no exact meaning: {refused[0]}{wording.way_out(refused[0])}" if refused else ""
            return self._judge_floats(drift, reason) if refused else self._judge_unequal()
        if not self.any_weights and not self.weights.same:
            witness = self._witness(inner=False) if self.weights.different else None
            return Verdict.REFUTED if witness else Verdict.DIFFERS, self._other_weights(), witness
        if self.log2_bound > target:
            return self._judge_floats(drift, "equal in exact arithmetic, but the probability of error has no such bound")
        if drift.ran and drift.outputs.rho > DIFFERENT:
            return (
                Verdict.UNKNOWN,
                [f"the tiers contradict each other: proved, but float64 runs differ (rho {drift.outputs.rho:.2g})"],
                None,
            )
        return self._judge_gradients(drift) if gradients else (Verdict.PROVED, [], None)

    def _judge_unequal(self) -> Judgement:
        witness = self._witness()
        if witness:
            return Verdict.REFUTED, self._other_weights(), witness
        reasons = ["not derivable from: " + "; ".join(wording.theory(self.compositions)), *self._with_roots()]
        return Verdict.DIFFERS, [*reasons, *self._other_weights()], None

    def _with_roots(self) -> list[str]:
        """What would do: the advice to read literals as roots, if all would be proved then."""
        if self.assumed.roots:
            return []
        other = replace(self, assumed=replace(self.assumed, roots=True))
        if not other._compose():
            return []
        taken = wording.literals((*other.compositions,))
        return [f'try assuming "{ROOTS}", with which it is proved: {taken}']

    def _judge_floats(self, drift: Drift, reason: str) -> Judgement:
        """What floats alone can say."""
        if not drift.ran:
            return Verdict.UNKNOWN, [reason, f"and no float runs: {drift.reason}"], None
        witness = self._witness(inner=False)
        if witness:
            return Verdict.REFUTED, [reason, *self._other_weights()], witness
        sure = drift.verdict == "rounding only" and (self.any_weights or self.weights.same)
        return Verdict.CONSISTENT if sure else Verdict.UNKNOWN, [reason, *self._other_weights()], None

    def _judge_gradients(self, drift: Drift) -> Judgement:
        """Outputs are proved; gradients are if derivatives along every direction were found equal."""
        outputs, found, last = "outputs: proved", drift.gradients, self.slopes[-1]
        equal = all(region.proved for region in last.regions[-len(self.outputs) :])
        if found is not None and found.rho > DIFFERENT:
            if equal:
                return (
                    Verdict.UNKNOWN,
                    [f"the tiers contradict each other: gradients proved, but float64 ones differ (rho {found.rho:.2g})"],
                    None,
                )
            values = {self.a.leaves[node].name: value for node, value in self.cases[0].items() if isinstance(value, Tensor)}
            witness = Witness(values, found, "gradients of a random cotangent at the inputs given")
            return Verdict.REFUTED, [outputs, f"gradients: differ, most at {found.at}"], witness
        if equal:
            return Verdict.PROVED, ["so are its gradients by all weights and float inputs, almost everywhere"], None
        refused = [region.decision.refused for region in last.regions if region.decision.refused]
        if not refused:
            return Verdict.DIFFERS, [outputs, "gradients: not derivable from the laws used"], None
        if found is None:
            return Verdict.UNKNOWN, [outputs, f"gradients: no exact meaning: {refused[0]}", f"and not measured: {drift.reason}"], None
        sure = drift.verdict == "rounding only"
        reasons = [outputs, f"gradients: measured on floats, not proved: {refused[0]}"]
        return Verdict.CONSISTENT if sure else Verdict.UNKNOWN, reasons, None

    def _witness(self, inner: bool = True) -> Witness | None:
        """A witness at the model's inputs, or if `inner` at the cuts before the first region that differs."""
        self.tell("looking for a witness")
        seed = int.from_bytes(self.key[4:8], "little")
        found = search(self.sides, self.cases, self.roles, seed)
        made = self.compositions[-1]
        region = made.diverging
        if found or not inner or region is None or not region.cuts:
            return found
        return search_region(self.sides, region.pair.name, places(made, region.cuts), made.a.case, seed)

    def _other_weights(self) -> list[str]:
        return wording.other_weights(self.weights, self.any_weights)

    def _more_cases(self) -> list[Case]:
        """Other shapes, and for small models other values."""
        given = [value for value in self.cases[0].values() if isinstance(value, Tensor)]
        if any(tensor.is_meta for tensor in (*self.a.tensors.values(), *given)):
            return []
        more = other_shapes(self.a, self.cases[0])
        if sum(tensor.numel() for tensor in self.a.tensors.values()) > SMALL:
            return more
        generator = torch.Generator().manual_seed(int.from_bytes(self.key[:4], "little"))
        return more + [redrawn(self.a, self.cases[0], self.roles, generator) for _ in range(DRAWS)]
