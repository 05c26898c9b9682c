"""Composition: two programs are proved equal piece by piece, each piece from fresh random values.

A *cut* is a pair of nodes, one of each program, already proved to compute the same function. Behind it, both programs read the same fresh
random value in its place, so degrees stay those of one region and the probabilities of error add up instead of compounding. Which
pairs to try is a hint (equal addresses, equal names); agreement at each is proved before it is used. Cuts are made where something is
written to the residual stream, and the adds between are recomputed: cutting the stream itself would forget that it is a sum.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx

from rewrite.program import Program
from rewrite.run import needed
from verify.interpret import Refused, evaluate, same
from verify.value import Agreement, Field
from verify.world import Tally, World

aten = torch.ops.aten
ADDITIVE = (aten.add.Tensor, aten.sub.Tensor, aten.alias.default, aten.neg.default)
MOST_PRIMES = 12

LeafValue = Callable[[str, World], Any]
Theory = Literal["gates", "signs"]


@dataclass(frozen=True)
class Pair:
    """Two nodes to compare, under the name to report."""

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class Cut:
    """A pair proved equal, whose value has this shape for the inputs at hand."""

    pair: Pair
    shape: tuple[int, ...]


@dataclass
class Side:
    """One of the two programs: its graph, and what its leaves are worth in a world."""

    program: Program
    leaf: LeafValue

    @cached_property
    def varying(self) -> frozenset[str]:
        """The nodes that depend on an input of the program."""
        found: set[str] = set()
        for node in self.program.graph.nodes:
            leaf = self.program.leaves.get(node.name)
            if (leaf is not None and leaf.kind == "input") or any(n.name in found for n in node.all_input_nodes):
                found.add(node.name)
        return frozenset(found)

    def value(self, world: World, cuts: Mapping[str, Cut], want: str) -> Any:
        """The exact value of the node `want`, with fresh values at the cuts; what is not needed is not drawn."""
        nodes = self.program.nodes
        known = {nodes[name] for name in cuts if name != want}
        reached = needed([nodes[want]], known)
        given = {}
        for node in reached:
            if node in known:
                cut = cuts[node.name]
                given[node.name] = replace(world.tensor(f"cut {cut.pair.name}", cut.shape), dtype=node.meta["val"].dtype)
            elif node.op == "placeholder":
                given[node.name] = self.leaf(node.name, world)
        return evaluate(self.program.graph, given, [want], world)[want]


@dataclass
class Region:
    """What was found for one pair: proved (with log2 of its bound) or not, or refused."""

    pair: Pair
    proved: bool
    log2_bound: float = 0.0
    primes: int = 0
    theory: Theory = "gates"
    agreement: Agreement | None = None
    refused: Refused | None = None
    value: Any = None
    tally: Tally = field(default_factory=Tally)


def sub_key(key: bytes, *what: Any) -> bytes:
    """A key of 128 bits for one region, derived from the run's key."""
    return hashlib.blake2b(repr(what).encode(), key=key, digest_size=16).digest()


def floating(node: fx.Node) -> bool:
    """True if the node's value is a floating point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def candidates(a: Program, b: Program, every: bool = False) -> list[Pair]:
    """Pairs worth trying as cuts, in the order of both graphs; with `every`, all pairs of equal address, not only residual writes."""
    order_b = {name: i for i, name in enumerate(b.nodes)}
    order_a = {name: i for i, name in enumerate(a.nodes)}
    live_a, live_b = needed(a.outputs), needed(b.outputs)
    found: dict[tuple[str, str], Pair] = {}
    for address, site in b.sites_by_address.items():
        other = a.sites_by_address.get(address)
        if other is None or site.kind != "output" or other.kind != "output":
            continue
        x, y = a.nodes[other.node], b.nodes[site.node]
        if x in live_a and y in live_b and _cuttable(y, every) and floating(x) and floating(y):
            found.setdefault((x.name, y.name), Pair(address, x.name, y.name))
    pairs = sorted(found.values(), key=lambda p: order_b[p.b])
    return list(_increasing(pairs, order_a))


def _cuttable(node: fx.Node, every: bool) -> bool:
    if node.op != "call_function" or node.target in ADDITIVE:
        return False
    return every or _reaches_add(node)


def _reaches_add(node: fx.Node) -> bool:
    """True if the value is added to another one: a write to a residual stream."""
    return any(
        user.target is aten.add.Tensor and all(isinstance(arg, fx.Node) and len(arg.meta["val"].shape) > 1 for arg in user.args)
        for user in node.users
        if all(isinstance(arg, fx.Node) and isinstance(arg.meta.get("val"), Tensor) for arg in user.args)
    )


def _increasing(pairs: Sequence[Pair], order_a: Mapping[str, int]) -> Iterator[Pair]:
    last = -1
    for pair in pairs:
        if order_a[pair.a] > last:
            last = order_a[pair.a]
            yield pair


@dataclass
class Composition:
    """A proof under way: the two sides, the key, the error allowed, and what was found so far."""

    a: Side
    b: Side
    key: bytes
    log2_target: float
    progress: Callable[[str], None] | None = None
    regions: list[Region] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    diverging: Region | None = None
    share: float = 0.0  # log2 of the error allowed to one region

    def prove(self, pairs: Sequence[Pair], outputs: Sequence[Pair]) -> bool:
        """True if all `outputs` are proved equal; `pairs` are tried on the way."""
        self.share = self.log2_target - math.log2(max(2, len(pairs) + len(outputs)))
        for pair in pairs:
            region = self._try(pair, widen=self.diverging is None)
            if region.proved:
                self.regions.append(region)
                self._cut_at(region)
            elif self.diverging is None and region.refused is None:
                self.diverging = region
        results = [self._try(pair, widen=True) for pair in outputs]
        self.regions += results
        return all(region.proved for region in results)

    @property
    def log2_bound(self) -> float:
        """log2 of the probability that some region was judged equal and is not."""
        bounds = [region.log2_bound for region in self.regions if region.proved]
        return math.inf if math.inf in bounds else math.log2(sum(2.0**bound for bound in bounds)) if bounds else 0.0

    def _cut_at(self, region: Region) -> None:
        # a value with masked or undefined elements is not one that random numbers can stand for
        if isinstance(region.value, Field) and not region.value.tagged and region.value.undefined is None:
            self.cuts.append(Cut(region.pair, tuple(region.value.shape)))

    def _try(self, pair: Pair, *, widen: bool) -> Region:
        if self.progress:
            self.progress(pair.name)
        dropped, region = 0, self._compare(pair, self.cuts)
        # a region that is unequal may lean on a relation that a cut forgot: take the nearest cuts away before saying anything
        while widen and not region.proved and region.refused is None and dropped < len(self.cuts):
            dropped = min(len(self.cuts), max(1, 4 * dropped))
            region = self._compare(pair, self.cuts[: len(self.cuts) - dropped])
        if not region.proved and region.refused is None and region.tally.calls.get("sign"):
            other = self._compare(pair, self.cuts, theory="signs")
            region = other if other.proved else region
        return region

    def _compare(self, pair: Pair, cuts: Sequence[Cut], theory: Theory = "gates") -> Region:
        """The comparison with as many primes as the region's share of the error takes."""
        count = first_count(self.share) if theory == "gates" else max(4, math.ceil(-self.share))
        while True:
            region = self._compare_with(pair, cuts, theory, count)
            enough = not region.proved or region.log2_bound <= self.share or region.log2_bound == math.inf
            if enough or theory == "signs" or count == MOST_PRIMES:
                return region
            count += 1

    def _compare_with(self, pair: Pair, cuts: Sequence[Cut], theory: Theory, count: int) -> Region:
        world = World(sub_key(self.key, pair.name, theory, len(cuts), count), count, theory)
        region = Region(pair, False, primes=count, theory=theory, tally=world.tally)
        try:
            x = self.a.value(world, {cut.pair.a: cut for cut in cuts}, pair.a)
            y = self.b.value(world, {cut.pair.b: cut for cut in cuts}, pair.b)
        except Refused as refused:
            return replace(region, refused=refused)
        agreement = same(x, y, world)
        world.forget()
        return replace(region, proved=agreement.equal, log2_bound=world.log2_bound(), agreement=agreement, value=y)


def first_count(share: float) -> int:
    """A number of primes to start with: on regions of transformers n primes give about 2^(27 - 18.5 n), measured."""
    return 3 if share > -26 else 4 if share > -46 else 5
