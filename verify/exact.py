"""The question whether two programs are the same, and what exact arithmetic finds: everything that can be said without floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Self

from rewrite.program import Program
from rewrite.records import Claim
from verify import wording
from verify.assume import NOTHING, Assumed
from verify.cases import told_apart
from verify.claims import masks_read, prove
from verify.decide import sub_key
from verify.ladder import Sides
from verify.leaves import closed_gates, leaf_values
from verify.match import WeightCheck, check_weights, match
from verify.outputs import paired_outputs
from verify.pairs import Pair, candidates
from verify.proof import Proof, both
from verify.regions import Composition
from verify.roles import Role, roles_of
from verify.shadow import Case
from verify.structure import Side


@dataclass
class Exact:
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

    @classmethod
    def of(cls, a: Program, b: Program, cases: list[Case], any_weights: bool, roles: dict[str, str], names: dict[str, str]) -> Self:
        """The question whether `b` is `a` on `cases`."""
        matching = match(a, b, names)
        outputs, mismatch = paired_outputs(a, b, matching)
        override = {y: a.tensors[x] for x, y in matching.pairs} if any_weights else {}
        sides = Sides(a, b, matching, tuple(dict.fromkeys(pair.run for pair in outputs)), override)
        edited = closed_gates(a) | closed_gates(b)
        return cls(sides, cases, check_weights(a, b, matching), any_weights, roles_of(a, cases[0], roles), outputs, mismatch, edited)

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
        share = self.share - math.log2(max(1, 2 * len(self.b.claims) * len(self.cases)))
        self.proofs = self._proofs(self.b.claims, share, exact_constants=False)
        left = [i for i, proof in enumerate(self.proofs) if not proof.proved]
        if left and self._has_constants():
            self.vain += [share] * len(left) * len(self.cases)
            again = self._proofs([self.b.claims[i] for i in left], share, exact_constants=True)
            for i, proof in zip(left, again, strict=True):
                self.proofs[i] = proof if proof.proved else self.proofs[i]

    def _proofs(self, claims: Sequence[Claim], share: float, exact_constants: bool) -> list[Proof]:
        """A proof of each claim for all cases: what is true of one mask need not be of another."""
        known: dict[Any, Proof] = {}
        made = [
            prove(
                self._side_of_claims(n, exact_constants), claims, sub_key(self.key, "claims", n), share, assumed=self.assumed, known=known
            )
            for n in range(len(self.cases) if claims else 0)
        ]
        return [reduce(both, proofs) for proofs in zip(*made, strict=True)]

    def _side_of_claims(self, number: int, exact_constants: bool) -> Side:
        """The second program with copies of inputs apart; where there are none, as regions were compared."""
        if self.exact_constants == exact_constants and not self.sides.matching.copies and number < len(self.compositions):
            return self.compositions[number].b
        return self._side_b(self.cases[number], exact_constants=exact_constants, apart=True)

    def even_masks(self) -> str:
        """Which masks that claims read are one number everywhere, if so: of positions with another, those claims say nothing."""
        even: dict[str, float] = {}
        for x, y in self.sides.matching.inputs.items():
            name = self.a.leaves[x].name
            values = {float(v) for case in self.cases for v in case[x].unique()} if self.roles.get(name) == "mask" else set()
            even |= {y: values.pop()} if len(values) == 1 else {}
        if not even:
            return ""
        side = self._side_of_claims(0, self.exact_constants)
        read = {name for claim, proof in zip(self.b.claims, self.proofs, strict=True) if proof.proved for name in masks_read(side, claim)}
        return wording.even_masks({self.b.leaves[y].name: value for y, value in even.items() if y in read})

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
