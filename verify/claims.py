"""Claims: what terms are, proved as equations over the program's own nodes, whatever the pass that made them was meant to do.

A claim's graph speaks of nodes by name. The nodes that no other bound node leads to stand for arbitrary values; the others are computed
from them by the program. So a claim that is proved holds at that place of this program for all inputs and weights.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rewrite.program import Program
from rewrite.records import Claim
from rewrite.run import needed
from verify.interpret import Refused, evaluate, same
from verify.regions import MOST_PRIMES, Side, first_count, floating, sub_key
from verify.value import Concrete, is_value
from verify.world import World

Shapes = Callable[[str], tuple[int, ...]]
ALL_MEMBERS, SAMPLED = 64, 16


@dataclass(frozen=True)
class Proof:
    """What was found for one claim: proved or not, for how many members of how many, or the reason why it could not be decided."""

    claim: Claim
    proved: bool
    log2_bound: float
    members: tuple[int, int] | None = None  # proved for, out of
    refused: str | None = None

    @property
    def sampled(self) -> bool:
        """True if only some members of the family were tried."""
        return self.members is not None and self.members[0] < self.members[1]


def prove(side: Side, claims: Sequence[Claim], key: bytes, log2_target: float, shapes: Shapes, progress: Callable[[str], None] | None = None) -> list[Proof]:
    """A proof, or the lack of one, for each claim. `shapes` gives the shape of a node for the inputs at hand."""
    share = log2_target - math.log2(max(2, len(claims)))
    proofs = []
    for number, claim in enumerate(claims):
        if progress:
            progress(f"claim at {claim.site}")
        proofs.append(_prove(side, claim, sub_key(key, "claim", number), share, shapes))
    return proofs


def _prove(side: Side, claim: Claim, key: bytes, share: float, shapes: Shapes) -> Proof:
    members, total = _members(side.program, claim, key)
    bound = -math.inf
    for member in members:
        found = _prove_member(side, claim, sub_key(key, member), share - math.log2(len(members)), shapes, member)
        if not found.proved:
            return replace(found, members=None if member is None else (member, total))
        bound = max(bound, found.log2_bound)
    tried = None if members == [None] else (len(members), total)
    return Proof(claim, True, bound + math.log2(len(members)), tried)


def _members(program: Program, claim: Claim, key: bytes) -> tuple[list[int | None], int]:
    family = next((name for kind, name in claim.bindings.values() if kind == "member"), None)
    if family is None:
        return [None], 1
    size = program.families[family].size
    if size <= ALL_MEMBERS:
        return list(range(size)), size
    return sorted(random.Random(key).sample(range(size), SAMPLED)), size


def _prove_member(side: Side, claim: Claim, key: bytes, share: float, shapes: Shapes, member: int | None) -> Proof:
    for count in range(first_count(share), MOST_PRIMES + 1):
        world = World(sub_key(key, count), count)
        try:
            left, right = _sides(side, claim, world, shapes, member)
        except Refused as refused:
            return Proof(claim, False, 0.0, refused=str(refused))
        equal = same(left, right, world).equal
        bound = world.log2_bound()
        if not equal or bound <= share or bound == math.inf:
            return Proof(claim, equal and bound != math.inf, bound)
    return Proof(claim, False, 0.0, refused=f"no bound below 2^{share:.0f} with {MOST_PRIMES} primes")


def _sides(side: Side, claim: Claim, world: World, shapes: Shapes, member: int | None) -> tuple[Any, Any]:
    used = {node.name for node in needed(claim.graph.output_node().all_input_nodes) if node.op == "placeholder"}
    values = _bound_values(side, claim, used, world, shapes)
    given: dict[str, Any] = {}
    for name, (kind, what) in claim.bindings.items():
        if name not in used:
            continue
        if kind == "member":
            given[name] = world_index(member)
        elif kind == "fresh":
            node = side.program.nodes[what]
            given[name] = replace(world.tensor(f"fresh {name}", shapes(what)), dtype=node.meta["val"].dtype)
        else:
            given[name] = values[what]
    wanted = [node for node in claim.graph.output_node().args[0]]  # type: ignore[union-attr]
    left, right = (node.name for node in wanted)  # type: ignore[union-attr]
    results = evaluate(claim.graph, given, [left, right], world)
    return results[left], results[right]


def world_index(member: int | None) -> Any:
    """The index of a member, as plain data."""
    return Concrete(torch.tensor(member, dtype=torch.int64))


def _bound_values(side: Side, claim: Claim, used: set[str], world: World, shapes: Shapes) -> dict[str, Any]:
    nodes = side.program.nodes
    bound = {what for name, (kind, what) in claim.bindings.items() if kind == "node" and name in used}
    # a bound node that is not read by the claim's graph may still be what a read one is computed from: it is where to cut
    places = {what for kind, what in claim.bindings.values() if kind == "node" and what in side.varying and floating(nodes[what])}
    cuts = {name for name in places if not any(other != name and nodes[other] in needed([nodes[name]]) for other in places)}
    given = {name: replace(world.tensor(f"at {name}", shapes(name)), dtype=nodes[name].meta["val"].dtype) for name in cuts}
    values = dict(given)
    rest = sorted(bound - cuts)
    if rest:
        known = {nodes[name] for name in cuts}
        reached = needed([nodes[name] for name in rest], known)
        leaves = {n.name: side.leaf(n.name, world) for n in reached if n.op == "placeholder"}
        here = {name: value for name, value in given.items() if nodes[name] in reached}
        values |= evaluate(side.program.graph, {**leaves, **here}, rest, world)
    assert all(is_value(value) for value in values.values())
    return values


