"""Tracks: routes held against a graph, walked from the outputs upstream.

A path of the graph is followed edge by edge (what is read, by whom). A track is a route as the edges that pass its stops, the last stop
first, and the rule for the way from each to the next; how far a path has come on it is a set of positions, because a way may meet a
stop more than once. A path that has passed all of a track's stops is on it, wherever it goes from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from rewrite.address import Address, find, indices, slices
from rewrite.errors import PassError, SiteError
from rewrite.paths import scales
from rewrite.places import Region, Span, span
from rewrite.readers import reads
from rewrite.records import Site
from rewrite.routes import Hop, Route, pointed
from rewrite.run import descendants, needed
from rewrite.splice import Splicer
from rewrite.terms import axis_dims

Edge = tuple[fx.Node, fx.Node]
Positions = frozenset[int]


@dataclass(frozen=True, eq=False)
class Passage:
    """One stop in a graph: the edges that pass it, each with the part of the value that is meant; `sites` are the values passed."""

    name: str
    edges: dict[Edge, Region]
    sites: tuple[Site, ...]


@dataclass(frozen=True, eq=False)
class Way:
    """What a path may go through between two stops: `through(node, argument)`, and never along the edges in `avoid`."""

    kind: str
    through: Callable[[fx.Node, fx.Node], bool]
    avoid: frozenset[Edge] = frozenset()
    avoided: tuple[Site, ...] = ()

    def allows(self, node: fx.Node, argument: fx.Node) -> bool:
        """True if a path may go on from `node` to what it reads."""
        return (argument, node) not in self.avoid and self.through(node, argument)


@dataclass(frozen=True, eq=False)
class Track:
    """A route of one copy in a graph: its passages from downstream to upstream, and the way to each."""

    copy: str
    route: Route
    passages: tuple[Passage, ...]
    ways: tuple[Way, ...]
    below: tuple[frozenset[fx.Node], ...]  # for each passage, the nodes that it may lie upstream of

    @property
    def end(self) -> int:
        """The position of a path that has passed every stop."""
        return len(self.passages)

    def advance(self, positions: Positions, edge: Edge, chosen: frozenset[Region]) -> Positions:
        """How far paths are that go on along `edge`, at entries that lie in the regions `chosen`."""
        argument, node = edge
        stack = [p for p in positions if p == self.end or self.ways[p].allows(node, argument)]
        found: set[int] = set()
        while stack:
            p = stack.pop()
            if p == self.end:
                return frozenset((p,))
            region = self.passages[p].edges.get(edge)
            if region is not None and (not region or region in chosen):
                stack.append(p + 1)
            if argument in self.below[p]:
                found.add(p)
        return frozenset(found)

    def furthest(self, graph: fx.Graph) -> int:
        """How many passages a path can pass in order, whether or not the next one lies on its way."""
        order = list(graph.nodes)
        open_ended = replace(self, below=(frozenset(order),) * self.end)
        reached: dict[fx.Node, Positions] = {graph.output_node(): frozenset((0,))}
        for node in reversed(order):
            for argument in node.all_input_nodes if node in reached else ():
                everywhere = frozenset(region for passage in self.passages for region in passage.edges.values())
                now = open_ended.advance(reached[node], (argument, node), everywhere)
                reached[argument] = reached.get(argument, frozenset()) | now
        return min(self.end - 1, max(p for positions in reached.values() for p in positions))


def track_of(splicer: Splicer, copy: str, route: Route, varying: set[fx.Node]) -> Track:
    """The route in the graph.

    Raises: PassError, with the stop pointed at, for one that is not there.
    """
    passages: list[Passage] = []
    ways: list[Way] = []
    hops: list[Hop | None] = [*route.hops, None]
    for stop, hop, place in reversed(list(zip(route.stops, hops, route.places, strict=True))):
        try:
            passed, inside = _passages(splicer, stop, varying)
            ways.append(_way(splicer, hop, varying))
        except SiteError as error:
            raise pointed(route.text, place, "stops of the program", stop.text, str(error)) from None
        passages += passed
        if inside is not None:
            ways.append(Way("inside", lambda node, argument, inside=inside: node in inside))
    below = tuple(frozenset(descendants(user for _, user in passage.edges)) for passage in passages)
    return Track(copy, route, tuple(passages), tuple(ways), below)


def _way(splicer: Splicer, hop: Hop | None, varying: set[fx.Node]) -> Way:
    if hop is None:
        return Way("~>", lambda node, argument: True)
    sites = tuple(site for one in hop.avoid for site in find(one, splicer.sites))
    avoid = frozenset(edge for site in sites for edge in _edges(splicer, site))
    if hop.kind == "~>":
        return Way("~>", lambda node, argument: True, avoid, sites)
    return Way("->", lambda node, argument: scales(node, argument, varying), avoid, sites)


def _edges(splicer: Splicer, site: Site) -> list[Edge]:
    node = splicer.nodes[site.node]
    return [(node, user) for user in node.users if reads(user, site)]


def _passages(splicer: Splicer, stop: Address, varying: set[fx.Node]) -> tuple[list[Passage], set[fx.Node] | None]:
    """The passages of a stop, and of a member what lies between the family's sum and its operands."""
    sites = tuple(find(stop.site, splicer.sites))
    edges: dict[Edge, Region] = {}
    for site in sites:
        region = _slice(stop, splicer.value(site)) if stop.slice is not None else ()
        edges.update(dict.fromkeys(_edges(splicer, site), region))
    if not edges:
        raise SiteError(f"{stop.text}: expected a site that something reads, got one that nothing does.")
    name = stop.text if stop.member is None else stop.text.replace(f"[{stop.member}]", "", 1)
    whole = Passage(name, edges, sites)
    if stop.member is None:
        return [whole], None
    inner: dict[Edge, Region] = {}
    inside: set[fx.Node] = set()
    for site in sites:
        found, between = _member(splicer, stop, site, varying)
        inner.update(found)
        inside |= between
    return [whole, Passage(f"{stop.site}[{stop.member}]", inner, ())], inside


def _slice(stop: Address, value: Tensor) -> Region:
    picks = slices(stop.slice or "", stop.text)
    if len(picks) > value.dim():
        raise SiteError(f"{stop.text}: expected at most {value.dim()} slices for a value of shape {list(value.shape)}, got {len(picks)}.")
    found = [span(axis, pick, value.shape[axis], stop.text) for axis, pick in enumerate(picks)]
    return tuple(one for one in found if one is not None)


def _member(splicer: Splicer, stop: Address, site: Site, varying: set[fx.Node]) -> tuple[dict[Edge, Region], set[fx.Node]]:
    """The edges from a family's operands into its sum, with the entries of some members, and the nodes of the sum."""
    record = splicer.families.get(site.address)
    if record is None:
        raise SiteError(f"{stop.text}: expected a family, got {site.address!r}, which is none. Members belong to families.")
    operands = [splicer.nodes[name] for name in record.operands]
    inside = needed([splicer.nodes[site.node]], set(operands)) - set(operands)
    members = tuple(indices(stop.member or "", record.size, stop.text))
    edges: dict[Edge, Region] = {}
    for operand, dim in zip(operands, axis_dims(record.equation, record.axis), strict=True):
        if operand not in varying:
            continue
        if dim is None:
            raise SiteError(f"{stop.text}: expected operands that carry the members' axis, got {operand.name}, which all members share.")
        region = (Span(dim % operand.meta["val"].dim(), members),)
        edges.update({(operand, user): region for user in operand.users if user in inside})
    return edges, inside


def depending(splicer: Splicer) -> set[fx.Node]:
    """The tensors that are computed from the values of inputs; sizes are not."""
    found: set[fx.Node] = set()
    for node in splicer.graph.nodes:
        leaf = splicer.leaves.get(node.name)
        given = leaf is not None and leaf.kind == "input"
        if node.op == "output" or (isinstance(node.meta.get("val"), Tensor | tuple | list) and (given or _any(node, found))):
            found.add(node)
    return found


def _any(node: fx.Node, found: set[fx.Node]) -> bool:
    return node.target is not torch.ops.aten.sym_size.int and any(n in found for n in node.all_input_nodes)


# ------------------------------------------------------------------------------------------------ all tracks together

State = tuple[Positions, ...]


@dataclass(frozen=True, eq=False)
class Tracks:
    """The tracks of all copies."""

    all: tuple[Track, ...]

    @property
    def start(self) -> State:
        """The state of a path that begins at an output."""
        return tuple(frozenset((0,)) for _ in self.all)

    def regions(self, edge: Edge) -> list[Region]:
        """The parts of the value on an edge that some stop means."""
        found = (passage.edges.get(edge) for track in self.all for passage in track.passages)
        return list(dict.fromkeys(region for region in found if region))

    def advance(self, state: State, edge: Edge, chosen: frozenset[Region], where: Callable[[fx.Node], str]) -> State:
        """The state of paths that go on along an edge; where two copies meet, the longer way that ends in the other one wins.

        Raises: PassError for two copies on one path of which neither is a part of the other.
        """
        moved = [track.advance(positions, edge, chosen) for track, positions in zip(self.all, state, strict=True)]
        done = [i for i, track in enumerate(self.all) if moved[i] == {track.end}]
        if not done:
            return tuple(moved)
        winner = self._winner(done)
        if winner is None:
            a, b = self._rivals(done)
            raise PassError(
                f"paths {a.route.text!r} ({a.copy}) and {b.route.text!r} ({b.copy}): expected paths that do not overlap, got two that "
                f"share one through {where(edge[0])}. Keep one clear with !site, or let one end in the whole of the other."
            )
        copy = self.all[winner].copy
        return tuple(positions if self._matters(i, winner, copy) else frozenset() for i, positions in enumerate(moved))

    def _winner(self, done: list[int]) -> int | None:
        """The track whose route is part of one of every other copy's."""
        for i in done:
            others = {self.all[j].copy for j in done} - {self.all[i].copy}
            if all(any(self.all[i].route.extends(self.all[j].route) for j in done if self.all[j].copy == copy) for copy in others):
                return i
        return None

    def _rivals(self, done: list[int]) -> tuple[Track, Track]:
        pairs = [(self.all[i], self.all[j]) for i in done for j in done if i < j and self.all[i].copy != self.all[j].copy]
        return next(((a, b) for a, b in pairs if not a.route.extends(b.route) and not b.route.extends(a.route)), pairs[0])

    def _matters(self, i: int, winner: int, copy: str) -> bool:
        """True if it can still change something that the paths are on this track: those that a winner ends in cannot."""
        track = self.all[i]
        if i == winner:
            return True
        if track.copy == copy:
            return any(other.copy != copy and other.route.extends(track.route) for other in self.all)
        return not self.all[winner].route.extends(track.route)

    def copy_of(self, state: State) -> str | None:
        """The copy that paths in this state read."""
        return next((track.copy for track, positions in zip(self.all, state, strict=True) if positions == {track.end}), None)
