"""Un-sharing: one copy of the model's inputs for each of some path sets, in one graph.

The graph is walked from its outputs upstream together with the tracks of all paths: a node is needed once for each state in which paths
arrive at it, and two states that read the same copies give one node, so that it is there once for each distinct assignment of copies
that it sees. What no path tells apart stays the node that it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.capture import Captured, capture, value_key
from rewrite.copy_claims import claims_of
from rewrite.errors import PassError
from rewrite.law import Bound
from rewrite.places import Region, apart, here
from rewrite.routes import parse_route
from rewrite.run import descendants, needed
from rewrite.splice import Splicer
from rewrite.tracks import Edge, State, Track, Tracks, depending, track_of

aten = torch.ops.aten
NAME = re.compile(r"[A-Za-z_]\w*")
Cell = tuple[Region, State]  # a part of a value, and the state of the paths there; of the parts that hold an entry, the last counts


@dataclass(frozen=True, eq=False)
class Passed:
    """A stop of a track passed in the new graph: `whole` is the original value, `own` the copy's, `read` what is read there for it."""

    track: Track
    position: int
    whole: fx.Node
    region: Region
    own: fx.Node
    read: fx.Node
    before: fx.Node  # what was read there otherwise


@dataclass
class Unsharing:
    """One application of `inputs`."""

    splicer: Splicer
    bound: Bound
    tracks: Tracks
    varying: set[fx.Node]
    leaves: dict[str, dict[fx.Node, fx.Node]]  # copy -> model input -> its placeholder
    plan: dict[fx.Node, dict[State, dict[fx.Node, list[Cell]]]] = field(default_factory=dict)
    image: dict[tuple[fx.Node, State], fx.Node] = field(default_factory=dict)
    made: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)  # original node -> the nodes made of it
    passed: dict[tuple[Track, int, fx.Node], Passed] = field(default_factory=dict)
    known: dict[Any, fx.Node] = field(default_factory=dict)
    captured: dict[Any, Captured] = field(default_factory=dict)
    returned: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def run(self) -> None:
        """Makes the copies, and lets the program return what reads them."""
        order = list(self.splicer.graph.nodes)
        output = self.splicer.graph.output_node()
        self.plan = {node: {} for node in order}
        self.plan[output][self.tracks.start] = {}
        for node in reversed(order):
            for state in self.plan[node]:
                self._look_upstream(node, state)
        for node in order:
            for state in self.plan[node]:
                if node is not output:
                    self.image[node, state] = self._made(node, self._arguments(node, state), state)
        self._check_all_met()
        self.returned = self._arguments(output, self.tracks.start)
        self.splicer.return_instead(self.returned)
        self._move_sites()

    # What is needed

    def _look_upstream(self, node: fx.Node, state: State) -> None:
        for argument in node.all_input_nodes:
            if argument in self.varying:
                cells = self._cells((argument, node), state)
                self.plan[node][state][argument] = cells
                for _, reached in cells:
                    self.plan[argument].setdefault(reached, {})

    def _cells(self, edge: Edge, state: State) -> list[Cell]:
        """The parts of what an edge reads that paths in `state` tell apart."""
        chosen: list[tuple[Region, frozenset[Region]]] = [((), frozenset())]
        for region in self.tracks.regions(edge):
            chosen += [((*place, *region), before | {region}) for place, before in chosen if not apart(place, region)]
        cells: list[Cell] = []
        for place, regions in chosen:
            reached = self.tracks.advance(state, edge, regions, self._where)
            if not cells or reached != cells[0][1] or any(not apart(place, other) for other, _ in cells[1:]):
                cells.append((place, reached))
        return cells

    def _where(self, node: fx.Node) -> str:
        """The address of the value, or of the next one behind it that has one."""
        named = {site.node: site.address for site in reversed(list(self.splicer.sites.values()))}
        waiting = [node]
        for found in waiting:
            if found.name in named:
                return named[found.name]
            waiting += [user for user in found.users if user not in waiting]
        return node.name

    # What is made

    def _arguments(self, node: fx.Node, state: State) -> dict[fx.Node, fx.Node]:
        """What `node` reads in the place of each of its arguments."""
        return {argument: self._read((argument, node), state, cells) for argument, cells in self.plan[node][state].items()}

    def _read(self, edge: Edge, state: State, cells: list[Cell]) -> fx.Node:
        argument = edge[0]
        values = [(place, self._landed(edge, state, reached)) for place, reached in cells]
        read = values[0][1]
        steps = []
        for place, own in values[1:]:
            before = read
            read = self._chosen(read, own, place, argument) if own is not read or steps else read
            steps.append((place, own, before))
        self._pass(edge, state, cells[0][1], (), values[0][1], values[0][1], values[0][1])
        for (place, own, before), (_, reached) in zip(steps, cells[1:], strict=True):
            self._pass(edge, state, reached, place, own, read, before)
        return read

    def _landed(self, edge: Edge, state: State, reached: State) -> fx.Node:
        """The value of an argument; a model input, where paths have just come in on a copy, as a node of its own."""
        value = self.image[edge[0], reached]
        if value.op != "placeholder" or self.tracks.copy_of(reached) == self.tracks.copy_of(state):
            return value
        key = ("own", value)
        if key not in self.known:
            self.known[key] = self.splicer.call(self.splicer.after([value]), aten.alias.default, (value,), (), value.meta["val"])
        return self.known[key]

    def _pass(self, edge: Edge, state: State, reached: State, place: Region, own: fx.Node, read: fx.Node, before: fx.Node) -> None:
        """Notes the stops that paths pass on this edge."""
        argument, node = edge
        for track, positions, now in zip(self.tracks.all, state, reached, strict=True):
            here = {p for p in positions if p < track.end and track.ways[p].allows(node, argument)}
            for p in range(track.end if own is not argument else 0):
                region = track.passages[p].edges.get(edge)
                if p in here and region is not None and (not region or region == place) and not now.isdisjoint((p + 1, track.end)):
                    here.add(p + 1)
                    self.passed.setdefault((track, p, own), Passed(track, p, argument, place, own, read, before))

    def _made(self, node: fx.Node, arguments: Mapping[fx.Node, fx.Node], state: State) -> fx.Node:
        if node.op == "placeholder":
            copy = self.tracks.copy_of(state)
            return node if copy is None else self.leaves[copy].get(node, node)
        changed = {old: new for old, new in arguments.items() if old is not new}
        if not changed:
            return node
        key = (node, tuple(changed.items()))
        if key not in self.known:
            self.known[key] = self.splicer.again(node, changed)
            self.made.setdefault(node, []).append(self.known[key])
        return self.known[key]

    def _chosen(self, read: fx.Node, own: fx.Node, place: Region, argument: fx.Node) -> fx.Node:
        """`own` in some places, else `read`: one node, inside the module that all readers are in."""
        key = (read, own, place)
        if key not in self.known:
            image: dict[fx.Node, Any] = {}
            captured = self._captured(read, own, place)
            passages = (passage for track in self.tracks.all for passage in track.passages)
            scopes = [user.meta.get("scope", ()) for passage in passages for whole, user in passage.edges if whole is argument]
            self.splicer.paste(captured, [read, own], [captured.outputs[0]], _shared(scopes), image)
            self.known[key] = image[captured.outputs[0]]
        return self.known[key]

    def chosen(self, one: Passed) -> fx.Node:
        """The node that chooses what is read at a stop."""
        return self.known[one.before, one.own, one.region]

    def _captured(self, read: fx.Node, own: fx.Node, place: Region) -> Captured:
        values = [read.meta["val"], own.meta["val"]]
        key = (*map(value_key, values), place)
        if key not in self.captured:
            law = self.bound.law.function
            self.captured[key] = capture(
                lambda x, y: [law(x, y, here(x, place))], values, self.splicer.mode, f"{self.bound.law.name} at {read.name}"
            )
        return self.captured[key]

    # What becomes of names

    def _check_all_met(self) -> None:
        """Raises: PassError for a path that leads nowhere."""
        for number, track in enumerate(self.tracks.all):
            if not any(track.end in state[number] for states in self.plan.values() for state in states):
                met = track.furthest(self.splicer.graph)
                way, reader = track.ways[met], track.passages[met - 1].name if met else "an output"
                clear = f" clear of {', '.join(site.address for site in way.avoided)}" if way.avoided else ""
                advice = self._way_out(track, met, reader)
                raise PassError(
                    f"path {track.route.text!r}: expected a way {way.kind} from {track.passages[met].name} to {reader}{clear}, got none. "
                    f"{advice}"
                )

    def _way_out(self, track: Track, met: int, reader: str) -> str:
        """What may help where no way leads from a stop to the next one."""
        behind = descendants(node for _, node in track.passages[met].edges)
        if met and not any(argument in behind for argument, _ in track.passages[met - 1].edges):
            return f"{reader} is not downstream of it: stops are named from upstream on."
        if f"{reader}@in" in self.splicer.sites:
            return f"Did you mean {reader}@in, what {reader} reads?"
        return "Go on with ~>, or open it with a pass (norm, heads)." if track.ways[met].kind == "->" else "Avoid fewer sites."

    def _move_sites(self) -> None:
        """A site that nothing is computed from any more, and that has one successor, is its name from now on; so are claims about it."""
        live = needed(self.splicer.graph.output_node().all_input_nodes)
        for address, site in list(self.splicer.sites.items()):
            node = self.splicer.nodes[site.node]
            now = [made for made in self.made.get(node, []) if made in live]
            if node not in live and len(now) == 1 and site.kind != "family":
                self.splicer.move_site(address, now[0])
                own = needed([now[0]])
                self.splicer.rebind_claims_of(address, lambda n, own=own: next((m for m in self.made.get(n, ()) if m in own), n))


def _shared(scopes: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What the scopes begin with, all of them."""
    first, last = min(scopes), max(scopes)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))]


def unshare(splicer: Splicer, bound: Bound) -> list[str]:
    """Gives each path set of `bound` its own copy of the model's inputs; the paths, and whose they are, as text.

    Raises: PassError for paths that are not there, or that overlap.
    """
    taken = next((leaf.name for leaf in splicer.leaves.values() if leaf.copy_of), None)
    if taken:
        raise PassError(
            f"{bound.law.name}: expected a program without copies of inputs, got one that has {taken!r}. Name all paths at once."
        )
    varying = depending(splicer)
    copies = {name: list(_texts(bound, name, paths)) for name, paths in _pairs(bound)}
    found = Tracks(tuple(track_of(splicer, name, parse_route(text), varying) for name, texts in copies.items() for text in texts))
    originals = [splicer.nodes[node] for node, leaf in splicer.leaves.items() if leaf.kind == "input"]
    originals = [node for node in originals if isinstance(node.meta.get("val"), Tensor)]
    leaves = {name: {node: splicer.copy_of_input(node.name, name) for node in originals} for name in copies}
    job = Unsharing(splicer, bound, found, varying, leaves)
    job.run()
    for claim in claims_of(splicer, job, len(splicer.steps)):
        splicer.add_claim(claim)
    return [f"{text} @ {name}" for name, texts in copies.items() for text in texts]


def _pairs(bound: Bound) -> list[tuple[str, Any]]:
    pairs = [one for one in bound.where if isinstance(one, tuple) and len(one) == 2]
    if len(pairs) < len(bound.where):
        raise PassError(f"{bound.law.name}.at: expected a dict of paths by copy, got {bound.where[0]!r}. Write at({{'copy': path}}).")
    names = [name for name, _ in pairs]
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in ("in", "act") or names.count(name) > 1:
            raise PassError(
                f"{bound.law.name}.at: expected names of copies, letters and digits, each once, got {name!r}. Call it otherwise."
            )
    return pairs


def _texts(bound: Bound, name: str, paths: Any) -> Iterable[str]:
    texts = [paths] if isinstance(paths, str) else list(paths) if isinstance(paths, Iterable) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise PassError(
            f"{bound.law.name}.at: expected a path or a list of them for {name!r}, got {paths!r}. Write e.g. 'attn -> ln_f@in'."
        )
    return texts
