"""A job: the exact tier and the float tier of one question put together into a verdict that says no more than they do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verify import wording
from verify.assume import ROOTS
from verify.cases import other_shapes, redrawn
from verify.exact import Exact
from verify.findings import explained
from verify.ladder import DIFFERENT, Drift, ladder
from verify.report import Report, Verdict
from verify.runs import places
from verify.shadow import Case
from verify.witnesses.witness import Witness, search, search_region

SMALL = 5_000_000  # weights up to which more random inputs are run
DRAWS = 3
Judgement = tuple[Verdict, list[str], Witness | None]  # with the reasons


@dataclass
class Job(Exact):
    """A question, and the verdict on it."""

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
            log2_bound=self.log2_bound if equal and not wrong else None,
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
            "inputs": wording.inputs(self.a, self.cases, self.roles, bool(wording.steering(self.compositions))),
            **wording.limits(self.a, self.b, self.compositions),
            "literals": wording.literals((*self.compositions, *self.slopes)),
            "constants": "of passes: the numbers that they hold" if self.exact_constants else "",
            "claims": "; ".join(filter(None, (self.even_masks(), wording.steered_claims(self.proofs)))),
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
        if drift.ran and (at := wording.steering(self.compositions)):  # ids that build other masks and positions: tried, at least
            witness = self._witness(inner=False)
            if witness:
                return Verdict.REFUTED, [f"equal for ids that build the masks and positions given, at {wording.listed(at)}"], witness
        if drift.ran and drift.outputs.rho > DIFFERENT and drift.outputs.largest == math.inf:
            return Verdict.UNKNOWN, wording.not_finite(drift.outputs.at, self.compositions), None
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
