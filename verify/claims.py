"""Claims: what terms are, proved as equations over the program's own nodes, whatever the pass that made them was meant to do.

A claim's graph speaks of nodes by name. The nodes that no other bound node leads to stand for arbitrary values; the others are computed
from them by the program. So a claim that is proved holds at that place of this program for all inputs and weights.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.errors import PassError
from rewrite.program import Program
from rewrite.records import Claim
from rewrite.run import needed
from verify.assume import NOTHING, Assumed
from verify.cases import others
from verify.decide import Decision, decide, sub_key
from verify.interpret import evaluate, same
from verify.proof import Proof
from verify.structure import Numbering, Side, floating, home_graph, trail
from verify.value import Concrete
from verify.world import World

ALL_MEMBERS, SAMPLED = 64, 16


def prove(
    side: Side,
    claims: Sequence[Claim],
    key: bytes,
    share: float,
    progress: Callable[[str], None] | None = None,
    assumed: Assumed = NOTHING,
    known: dict[Any, Proof] | None = None,
) -> list[Proof]:
    """A proof, or the lack of one, for each claim; each is wrong with probability at most 2^share. `known`: what was proved before.

    Raises: PassError for a claim that reads no term: it says nothing.
    """
    known = {} if known is None else known
    proofs = []
    for number, claim in enumerate(claims):
        if progress:
            progress(f"claim at {claim.site}")
        _check_reads(side.program, claim)
        statement = _statement(side, claim)
        if statement in known:
            proofs.append(replace(known[statement], claim=claim, again=True))
        else:
            one = statement[0] == statement[1]
            proofs.append(known.setdefault(statement, _prove(side, claim, one, sub_key(key, "claim", number), share, assumed)))
    return proofs


def _check_reads(program: Program, claim: Claim) -> None:
    """A claim's equation must depend on a node of one of the terms that it speaks of, and speak of one arbitrary member at most."""
    if sum(kind == "member" for kind, _ in claim.bindings.values()) > 1:
        raise PassError(f"claim {claim.sentence!r} at {claim.site}: expected one member at most, got several. Claim one after the other.")
    used = {node.name for node in needed(claim.graph.output_node().all_input_nodes) if node.op == "placeholder"}
    bound = {claim.bindings[name][1] for name in used} | {node for name in used for node in claim.swaps.get(name, ())}
    if claim.swaps:  # what is held is read too
        bound |= {what for kind, what in claim.bindings.values() if kind == "node"}
    terms = {name for address in claim.reads for name in term_nodes(program, address)}
    if not bound & terms and not bound & _of_terms(program, claim, terms):
        raise PassError(
            f"claim {claim.sentence!r} at {claim.site}: expected a claim that reads a term, got one that reads none. It would say nothing."
        )


def _of_terms(program: Program, claim: Claim, terms: set[str]) -> set[str]:
    """What a gate set before a claim's terms: all that they are computed from, less what the split site is."""
    whole = [program.nodes[split.whole] for split in program.splits if (split.site, split.step) == (claim.site, claim.step)]
    inner = needed(program.nodes[name] for name in terms) - needed(whole)
    return {node.name for node in inner if node.op == "call_function"}


def term_nodes(program: Program, address: str) -> set[str]:
    family, site = program.families.get(address), program.sites_by_address.get(address)
    return {*(family.operands if family else ()), *([site.node] if site else ())}


def _prove(side: Side, claim: Claim, same_sides: bool, key: bytes, share: float, assumed: Assumed) -> Proof:
    members, total = _members(side.program, claim, key)
    tried = None if members == [None] else (len(members), total)
    if same_sides:  # one expression: nothing that could differ, and nothing drawn
        return Proof(claim, True, -math.inf, None if tried is None else (total, total))
    found = decide(lambda world: _first_unequal(side, claim, world, members), key, share, declared=assumed.ops)
    if not found.equal or found.log2_bound > share:
        return Proof(claim, False, 0.0, tried, _why_not(found))
    taken = tuple(dict.fromkeys(found.tally.assumed))
    return Proof(claim, True, found.log2_bound, tried, assumed=taken, steered=bool(found.tally.steering))


def _first_unequal(side: Side, claim: Claim, world: World, members: Sequence[int | None]) -> tuple[Any, Any]:
    """The two sides of a claim for the first member for which they are unequal in a world, else for the last one.

    All members share the world. A claim that does not hold fails for some member, whichever world is drawn; it is found equal only if
    that one's sides agree by chance, and that chance is what the bound is of.
    """
    sides: tuple[Any, Any] = (None, None)
    for sides in _sides(side, claim, world, members):
        if not same(*sides, world).equal:
            break
    return sides


def _why_not(found: Decision) -> str | None:
    if found.refused is not None:
        return found.refused
    return "its bound is not small enough" if found.equal else None


def _members(program: Program, claim: Claim, key: bytes) -> tuple[Sequence[int | None], int]:
    family = next((name for kind, name in claim.bindings.values() if kind == "member"), None)
    if family is None:
        return [None], 1
    size = program.families[family].size
    if size <= ALL_MEMBERS:
        return range(size), size
    return sorted(random.Random(key).sample(range(size), SAMPLED)), size


def _sides(side: Side, claim: Claim, world: World, members: Sequence[int | None]) -> Iterator[tuple[Any, Any]]:
    """The two sides of a claim in a world, for each member."""
    used = {node.name for node in needed(claim.graph.output_node().all_input_nodes) if node.op == "placeholder"}
    values = _bound_values(side, claim, used, world)
    given: dict[str, Any] = {}
    for name, (kind, what) in claim.bindings.items():
        if name not in used:
            continue
        if kind == "fresh":
            given[name] = _arbitrary(side, world, f"fresh {name}", what)
        elif kind == "node" and name not in claim.swaps:
            given[name] = values[what]
    given |= _computed_again(side, claim, used, values, given, world)
    left, right = (node.name for node in claim.graph.output_node().args[0])  # type: ignore[union-attr]
    graph, index = home_graph(claim.graph), [name for name in used if claim.bindings[name][0] == "member"]
    for member in members:
        numbered = {name: Concrete(torch.tensor(member, dtype=torch.int64)) for name in index}
        results = evaluate(graph, given | numbered, [left, right], world)
        yield results[left], results[right]


def _arbitrary(side: Side, world: World, label: str, node: str) -> Any:
    leaf = side.leaves.get(node)
    if leaf is not None and leaf.kind in ("ids", "plain") and isinstance(leaf.data, Tensor):
        return replace(leaf, label=label, data=others(leaf.data)).value(world)
    return replace(world.tensor(label, side.shape(node)), dtype=side.program.nodes[node].meta["val"].dtype)


def _bound_values(side: Side, claim: Claim, used: set[str], world: World) -> dict[str, Any]:
    """The values of the nodes that a claim reads: arbitrary where the claim begins, computed from there on."""
    nodes = side.program.nodes
    cuts = _begins(side, claim)
    given = {name: _begun(side, world, name) for name in cuts}
    rest = sorted({what for name, what in _once(claim).items() if name in used or claim.swaps} - cuts)
    if not rest:
        return given
    reached = needed([nodes[name] for name in rest], {nodes[name] for name in cuts})
    leaves = {n.name: side.leaves[n.name].value(world) for n in reached if n.op == "placeholder"}
    here = {name: value for name, value in given.items() if nodes[name] in reached}
    return given | evaluate(home_graph(side.program.graph), {**leaves, **here}, rest, world)


def _begun(side: Side, world: World, name: str) -> Any:
    """The value that a claim begins with at a node: arbitrary, and of an input that is taken as it is what the input is."""
    if _as_it_is(side, name):
        return side.leaves[name].value(world)
    return _arbitrary(side, world, f"at {name}", name)


def _as_it_is(side: Side, name: str) -> bool:
    """True for a leaf that is no float, or a mask."""
    return name in side.leaves and (side.leaves[name].kind == "plain" or not floating(side.program.nodes[name]))


def _once(claim: Claim) -> dict[str, str]:
    """The nodes that a claim binds to be computed once, by placeholder."""
    return {name: what for name, (kind, what) in claim.bindings.items() if kind == "node" and name not in claim.swaps}


def _computed_again(
    side: Side, claim: Claim, used: set[str], values: Mapping[str, Any], given: Mapping[str, Any], world: World
) -> dict[str, Any]:
    """The values of the nodes that a claim has computed once more, with others in the place of some nodes."""
    found = {}
    for name in used & set(claim.swaps):
        want = claim.bindings[name][1]
        held = {node: value for node, value in values.items() if node != want}
        for node, other in claim.swaps[name].items():
            held[node] = given[other] if other in given else _stand_in(side, claim, other, values, world)
        reached = needed([side.program.nodes[want]], {side.program.nodes[node] for node in held})
        leaves = {n.name: side.leaves[n.name].value(world) for n in reached if n.op == "placeholder" and n.name not in held}
        here = {node: value for node, value in held.items() if side.program.nodes[node] in reached}
        found[name] = evaluate(home_graph(side.program.graph), {**leaves, **here}, [want], world)[want]
    return found


def _stand_in(side: Side, claim: Claim, name: str, values: Mapping[str, Any], world: World) -> Any:
    kind, what = claim.bindings[name]
    return _arbitrary(side, world, f"fresh {name}", what) if kind == "fresh" else values[what]


def _begins(side: Side, claim: Claim) -> set[str]:
    """The bound nodes that no other bound one leads to: even one that the claim's graph does not read may be what a read one comes from.

    Where something is computed again, inputs that are no floats are among them, with the values that they have.
    """
    nodes = side.program.nodes
    places = {what for what in _once(claim).values() if what in side.varying and floating(nodes[what])}
    if claim.swaps:
        places |= {what for what in _once(claim).values() if what in side.leaves and what in side.varying}
    held = {nodes[name] for name in places}
    first = min(held, default=None)
    return {node.name for node in held if not _comes_from(node, held - {node}, first)}


def _comes_from(node: fx.Node, others: set[fx.Node], first: fx.Node | None) -> bool:
    """True if one of `others` leads to the node; nothing before `first` in the graph's order can be or come from one."""
    seen, stack = set[fx.Node](), [node]
    while stack:
        node = stack.pop()
        if node in others:
            return True
        if node not in seen and first is not None and not node < first:
            seen.add(node)
            stack += node.all_input_nodes
    return False


def _statement(side: Side, claim: Claim) -> Any:
    """What a claim says, up to the names of weights and sites: equal ones are proved once."""
    labels: Numbering = {}
    places: Numbering = {}
    cuts = {name: _cut(side, name) for name in _begins(side, claim)}

    def edge(node: fx.Node) -> Any:
        if node.op != "placeholder":
            return None
        kind, what = claim.bindings[node.name]
        if kind == "member":
            return kind, side.program.families[what].size
        if kind == "fresh":
            number = places.setdefault((kind, node.name), len(places))
            return kind, number, side.shape(what), side.program.nodes[what].meta["val"].dtype, _held(side, what)
        here = cuts
        if node.name in claim.swaps:
            here = {n: (n, side.shape(n)) for n in _once(claim).values() if n != what} | cuts
            here |= {n: _swapped(side, claim, other, cuts) for n, other in claim.swaps[node.name].items()}
        return "node", side.signature(side.program.nodes[what], here, labels, places)

    sides = [trail(top, edge) for top in claim.graph.output_node().args[0]]  # type: ignore[union-attr]
    held = dict.fromkeys(what for what in _once(claim).values() if what not in cuts) if claim.swaps else {}
    lines = ((what, places.get(what), side.signature(side.program.nodes[what], cuts, labels, places)) for what in held)
    return (*sides, *lines)


def _cut(side: Side, name: str) -> tuple[Any, Any]:
    """What tells the value that a claim begins with at a node: of an input that is taken as it is, also what it holds."""
    return name, (side.shape(name), side.leaves[name].content()) if _as_it_is(side, name) else side.shape(name)


def _swapped(side: Side, claim: Claim, other: str, cuts: Mapping[str, tuple[Any, Any]]) -> tuple[Any, Any]:
    kind, what = claim.bindings[other]
    return (("fresh", other), (side.shape(what), _held(side, what))) if kind == "fresh" else cuts.get(what, (what, side.shape(what)))


def _held(side: Side, name: str) -> Any:
    """What the numbers of a leaf are that is not arbitrary; others in its place are made of them."""
    leaf = side.leaves.get(name)
    return leaf.content() if leaf is not None and leaf.kind in ("ids", "plain") else None


def masks_read(side: Side, claim: Claim) -> set[str]:
    """The nodes of the inputs taken as they are that a claim's values are computed from."""
    nodes = side.program.nodes
    ends = {nodes[name] for name in _begins(side, claim) if not _as_it_is(side, name)}
    bound = [nodes[what] for kind, what in claim.bindings.values() if kind == "node"]
    leaves = {node.name for node in needed(bound, ends) if node.op == "placeholder"}
    return {name for name in leaves if side.leaves[name].kind == "plain" and side.program.leaves[name].kind == "input"}
