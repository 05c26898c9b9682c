"""Composition: two programs are proved equal piece by piece, each piece from fresh random values.

A *cut* is a pair of nodes, one of each program, already proved to compute the same function. Behind it, both programs read the same fresh
random value in its place, so degrees stay those of one region and the probabilities of error add up instead of compounding. Which
pairs to try is a hint (equal addresses); agreement at each is proved before it is used.

Both the residual stream and what is written to it are cut. Where a region forgets too much that way (a rewrite may lean on the stream
being a sum), the stream is not cut and the adds are recomputed; then the nearest cuts go, until none are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from verify.assume import NOTHING, Assumed
from verify.decide import Decision, decide, sub_key
from verify.interpret import evaluate
from verify.pairs import Pair, candidates
from verify.rules import FUNCTIONS
from verify.scrutiny import fault, too_large
from verify.structure import Numbering, Side, floating, shared
from verify.world import Law, World

aten = torch.ops.aten
OTHERWISE: dict[Law, frozenset[str]] = {  # theories to try on what is unequal, and the functions that give hope
    "signs": frozenset(("sign",)),
    "exponents": frozenset(("exp", "tanh", "log", "softmax", "logsumexp")),
    "maxima": frozenset(("sign", "largest", "rank")),
    "roots": frozenset(),  # only where it is assumed
}
SAME = -128.0  # log2 of the chance that two expressions told the same are not: plain tables are told by digests of 128 bits
GIVE_UP = 5  # pairs in a row that are not equal: hints are no help then


@dataclass(frozen=True)
class Cut:
    """A pair proved equal, whose value has this shape for the inputs at hand; cuts of one `place` hold one value."""

    pair: Pair
    shape: tuple[int, ...]
    place: int


@dataclass(frozen=True)
class Region:
    """What was found for one pair, and the cuts that it was found with; `again` if an equal region had been proved before."""

    pair: Pair
    decision: Decision
    cuts: tuple[Cut, ...] = ()
    again: bool = False

    @property
    def proved(self) -> bool:
        """True if the two nodes were proved equal."""
        return self.decision.equal


@dataclass
class Composition:
    """A proof under way: the two sides, the key, the error allowed to one region (log2), and what was found so far."""

    a: Side
    b: Side
    key: bytes
    share: float
    dual: bool = False  # derivatives are compared too
    progress: Callable[[str], None] | None = None
    assumed: Assumed = NOTHING
    regions: list[Region] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    diverging: Region | None = None
    attempts: int = 0
    memo: dict[Any, Decision] = field(default_factory=dict)
    sound: set[Any] = field(default_factory=set)  # expressions whose rules agreed with torch
    unchecked: set[Any] = field(default_factory=set)  # those that read a tensor too large for that

    def prove(self, pairs: Sequence[Pair], outputs: Sequence[Pair]) -> bool:
        """True if all `outputs` are proved equal; `pairs` are tried on the way."""
        failed = 0
        for pair in pairs:
            region = self.attempt(pair, widen=self.diverging is None)
            if region.proved:
                self.regions.append(region)
                self.cut_at(region)
            elif self.diverging is None and region.decision.refused is None:
                self.diverging = region
            failed = 0 if region.proved else failed + 1
            if failed == GIVE_UP:
                break
        results = [self.attempt(pair, widen=True) for pair in outputs]
        self.regions += results
        if self.diverging is None:
            self.diverging = next((r for r in results if not r.proved and r.decision.refused is None), None)
        return all(region.proved for region in results)

    @property
    def log2_bounds(self) -> list[float]:
        """log2 of the chance of a false agreement for each distinct region, and of what was tried in vain."""
        proved = [r.decision.log2_bound for r in self.regions if r.proved and not r.again]
        return [*proved, *([self.share] * (self.attempts - len(proved)))]

    def cut_at(self, region: Region) -> None:
        """Lets both programs read a fresh value at a pair proved equal."""
        if region.decision.shape is not None:
            at = self._ends(region.pair)
            place = next((cut.place for cut in self.cuts if not at.isdisjoint(self._ends(cut.pair))), len(self.cuts))
            self.cuts.append(Cut(region.pair, region.decision.shape, place))

    def _ends(self, pair: Pair) -> set[tuple[str, str]]:
        return {("a", self.a.representative[pair.a]), ("b", self.b.representative[pair.b])}

    def attempt(self, pair: Pair, *, widen: bool) -> Region:
        """What is found for a pair, with fewer and fewer cuts if `widen`."""
        if self.progress:
            self.progress(pair.name)
        apart = self._apart(pair)
        region = first = self._compare(pair, apart, signs=widen)
        for cuts in self._fewer(apart) if widen and not region.proved and region.decision.cuts_matter else ():
            region = self._compare(pair, cuts)
            if region.proved:
                return region
        return region if region.proved else first

    def _apart(self, pair: Pair) -> Sequence[Cut]:
        """The cuts, but for one at one end of the pair that the other end is not computed from: a fresh value there equals nothing."""
        at_a = {self.a.representative[cut.pair.a]: cut.place for cut in self.cuts}
        at_b = {self.b.representative[cut.pair.b]: cut.place for cut in self.cuts}
        x, y = self.a.representative[pair.a], self.b.representative[pair.b]
        read_a = {at_a[node.name] for node in self.a.region(x, at_a) if node.name in at_a}
        read_b = {at_b[node.name] for node in self.b.region(y, at_b) if node.name in at_b}
        vain = {at_a.get(x), at_b.get(y)} - {None} - (read_a & read_b)
        return [cut for cut in self.cuts if cut.place not in vain] if vain else self.cuts

    def _fewer(self, given: Sequence[Cut]) -> Iterator[Sequence[Cut]]:
        """Smaller and smaller sets of cuts: a region that is unequal may lean on a relation that a cut forgot."""
        writes = [cut for cut in given if not cut.pair.stream]
        if len(writes) < len(given):
            yield writes
        dropped = 0
        while dropped < len(writes):
            dropped = min(len(writes), max(1, 4 * dropped))
            yield writes[: len(writes) - dropped]

    def _compare(self, pair: Pair, cuts: Sequence[Cut], signs: bool = True) -> Region:
        at_a = {self.a.representative[cut.pair.a]: cut for cut in cuts}
        at_b = {self.b.representative[cut.pair.b]: cut for cut in cuts}
        x, y = self.a.representative[pair.a], self.b.representative[pair.b]
        known = self._signature(x, y, at_a, at_b)
        if known in self.memo and (self.memo[known].equal or not signs):
            return Region(pair, self.memo[known], tuple(cuts), again=True)
        self.attempts += 1

        def experiment(world: World) -> tuple[Any, Any]:
            return world.tally.both(lambda: value_at(self.a, x, at_a, world), lambda: value_at(self.b, y, at_b, world))

        key = sub_key(self.key, pair.name, len(self.memo), len(cuts))
        declared = self.assumed.ops
        if known[0] == known[1]:
            decision = self._one_expression(x, at_a, key).whatever_ids()
        else:
            decision = decide(experiment, key, self.share, dual=self.dual, calls=self._calls(x, at_a, y, at_b), declared=declared)
            decision = self._whatever_steers(decision, (x, at_a), (y, at_b), key)
        for theory, functions in OTHERWISE.items() if signs else ():
            hope = self.assumed.roots if theory == "roots" else not functions.isdisjoint(decision.tally.calls)
            if not decision.equal and decision.refused is None and hope:
                self.attempts += 1
                other = decide(experiment, key, self.share, theory, dual=self.dual, declared=declared)
                decision = other if other.equal else decision
        self.memo[known] = decision = self._scrutinised(decision, known, (x, at_a), (y, at_b))
        return Region(pair, decision, tuple(cuts))

    def _one_expression(self, x: str, at_a: Mapping[str, Cut], key: bytes) -> Decision:
        """The decision where both regions are one expression of the same leaves: equal whatever its ops mean.

        It is evaluated once, modulo one prime, for what may be refused, masked or undefined in it.
        """

        def once(world: World) -> tuple[Any, Any]:
            narrow = World(world.key, 1, dual=self.dual, declared=self.assumed.ops)
            narrow.tally = world.tally
            value = value_at(self.a, x, at_a, narrow)
            return value, value

        found = decide(once, key, 0.0, dual=self.dual, declared=self.assumed.ops)
        return replace(found, log2_bound=SAME, primes=1) if found.equal else found

    def _whatever_steers(
        self, decision: Decision, one: tuple[str, Mapping[str, Cut]], other: tuple[str, Mapping[str, Cut]], key: bytes
    ) -> Decision:
        """The decision, for any ids if it is so with fresh values for what both regions share, where ids steer only that."""
        (x, at_a), (y, at_b) = one, other
        if not decision.equal or not decision.tally.steering:
            return decision
        held_a, held_b = dict(at_a), dict(at_b)
        for u, v in shared(self.a, x, _told(at_a), self.b, y, _told(at_b)):
            if {node.name for node in self.b.region(v, at_b)}.isdisjoint(decision.tally.steering):
                continue
            whole = self._one_expression(u, at_a, key)
            if whole.shape is not None and not whole.tally.faint:
                held_a[u] = held_b[v] = Cut(Pair(v, u, v), whole.shape, len(self.cuts) + len(held_b))
        found = decide(
            lambda world: (value_at(self.a, x, held_a, world), value_at(self.b, y, held_b, world)),
            sub_key(key, "whatever steers"), self.share, decision.theory, dual=self.dual,
            calls=self._calls(x, held_a, y, held_b), declared=self.assumed.ops,
        )  # fmt: skip
        if found.equal and not found.tally.steering:
            return decision.whatever_ids(found.log2_bound)
        self.attempts += 1
        return decision

    def _calls(self, x: str, at_a: Mapping[str, Cut], y: str, at_b: Mapping[str, Cut]) -> int:
        """About how many values of functions the two regions hold."""
        nodes = ((side, n) for side, w, at in ((self.a, x, at_a), (self.b, y, at_b)) for n in side.region(w, at) if n.name not in at)
        return sum(math.prod(side.shape(n.name)) for side, n in nodes if n.target in FUNCTIONS and floating(n))

    def _scrutinised(self, decision: Decision, known: Any, *ends: tuple[str, Mapping[str, Cut]]) -> Decision:
        """The decision, refused if a rule that it rests on is not what torch computes there."""
        for side, (want, cuts), what in zip((self.a, self.b), ends, known, strict=True) if decision.equal else ():
            if (what, decision.theory) not in self.sound and what not in self.unchecked:
                shapes = {name: cut.shape for name, cut in cuts.items()}
                if too_large(side, want, shapes):
                    self.unchecked.add(what)
                    continue
                found = fault(side, want, shapes, len(self.sound), decision.theory, slopes=self.dual, declared=self.assumed.ops)
                if found:
                    return replace(decision, equal=False, refused=f"the checker found fault with itself: {found}")
                self.sound.add((what, decision.theory))
        return decision

    def _signature(self, x: str, y: str, at_a: Mapping[str, Cut], at_b: Mapping[str, Cut]) -> Any:
        labels: Numbering = {}
        places: Numbering = {}
        return tuple(
            side.signature(side.nodes[want], _told(at), labels, places) for side, want, at in ((self.a, x, at_a), (self.b, y, at_b))
        )

    def localise(self) -> None:
        """Narrows the first divergence down to the earliest site of all that differs."""
        found = self.diverging
        if found is None:
            return
        inside = {
            node.name
            for node in self.b.region(self.b.representative[found.pair.b], {self.b.representative[c.pair.b]: c for c in found.cuts})
        }
        self.cuts = list(found.cuts)
        for pair in candidates(self.a.program, self.b.program, every=True):
            if self.b.representative[pair.b] in inside and pair.b != found.pair.b:
                region = self.attempt(pair, widen=False)
                if region.proved:
                    self.cut_at(region)
                elif region.decision.refused is None:
                    self.diverging = region
                    return


def _told(cuts: Mapping[str, Cut]) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {name: (cut.place, cut.shape) for name, cut in cuts.items()}


def value_at(side: Side, want: str, cuts: Mapping[str, Cut], world: World) -> Any:
    """The exact value of a node of a side's graph, with fresh values at the cuts; what is not needed is not drawn."""
    given: dict[str, Any] = {}
    for node in side.region(want, cuts):
        if node.name in cuts:
            cut = cuts[node.name]
            given[node.name] = replace(world.tensor(f"cut {cut.place}", cut.shape), dtype=node.meta["val"].dtype)
        elif node.name in side.numbers:
            given[node.name] = side.numbers[node.name]
        elif node.op == "placeholder":
            given[node.name] = side.leaves[node.name].value(world)
    return evaluate(side.graph, given, [want], world)[want]
