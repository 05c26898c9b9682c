"""What is claimed of copies of inputs: that each is read on its paths, and on no other.

For every copy, (1) what its paths pass first is the original's value with the copy in the place of the inputs, (2) apart from that no
output depends on it, and (3) for every stretch of its paths, what is read at the lower end changes as the original would if what is
passed at the upper end changed on this stretch alone. All are equations over nodes of the program, computed once more with other values
in some places: they hold of what the graph is, not of how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite.capture import capture
from rewrite.paths import additive, factor_nodes
from rewrite.places import here
from rewrite.readers import reads
from rewrite.records import Claim, Site
from rewrite.run import needed
from rewrite.splice import Splicer
from rewrite.tracks import Track

if TYPE_CHECKING:
    from rewrite.unshare import Passed, Unsharing

aten = torch.ops.aten


@dataclass
class _Equation:
    """A claim being written: its placeholders by what they stand for."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    bindings: dict[str, tuple[str, str]] = field(default_factory=dict)
    swaps: dict[str, dict[str, str]] = field(default_factory=dict)
    _known: dict[tuple[str, str], fx.Node] = field(default_factory=dict)

    def node(self, node: fx.Node, kind: str = "node") -> fx.Node:
        """The node's value, or with kind "fresh" an arbitrary one like it."""
        if (kind, node.name) not in self._known:
            self._known[kind, node.name] = self._placeholder(f"{kind}_{node.name}", node, kind)
        return self._known[kind, node.name]

    def fresh(self, node: fx.Node) -> fx.Node:
        """An arbitrary value in the place of a node's; of whole numbers, which cannot be arbitrary, the node's own."""
        return self.node(node, "fresh" if _floating(node) or node.op == "placeholder" else "node")

    def again(self, node: fx.Node, swaps: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """The node's value computed with other values (placeholders) in the place of some nodes'."""
        swaps = {old: new for old, new in swaps.items() if self.bindings[new.name] != ("node", old.name)}
        if node in swaps:
            return swaps[node]
        if not swaps:
            return self.node(node)
        made = self._placeholder(f"again_{node.name}", node, "node")
        self.swaps[made.name] = {old.name: new.name for old, new in swaps.items()}
        return made

    def _placeholder(self, name: str, like: fx.Node, kind: str) -> fx.Node:
        made = self.graph.placeholder(name)
        made.target = made.name
        made.meta.update(val=like.meta["val"], scope=())
        self.bindings[made.name] = (kind, like.name)
        return made

    def call(self, target: Any, value: Any, *args: Any) -> fx.Node:
        """An op's result."""
        made = self.graph.call_function(target, args)
        made.meta.update(val=value, scope=())
        return made

    def claim(self, sentence: str, site: str, step: int, left: fx.Node, right: fx.Node) -> Claim:
        """The claim that both sides are equal."""
        self.graph.output([left, right])
        return Claim(sentence, site, step, self.graph, self.bindings, (site,), self.swaps)


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def claims_of(splicer: Splicer, job: Unsharing, step: int) -> list[Claim]:
    """The claims of one application of `inputs`; the values passed get sites to speak of, `<stop>@<copy>`."""
    return [claim for copy in job.leaves for claim in _Claims(splicer, job, step, copy).all()]


@dataclass
class _Claims:
    """The claims about one copy."""

    splicer: Splicer
    job: Unsharing
    step: int
    copy: str
    names: dict[fx.Node, str] = field(default_factory=dict)

    def all(self) -> Iterator[Claim]:
        """All of them; nothing of a copy that is read nowhere, all its paths being claimed by others."""
        passed = [one for one in self.job.passed.values() if one.track.copy == self.copy]
        landed = [one for one in passed if one.position == one.track.end - 1]
        for one in sorted(passed, key=lambda one: -one.position):
            self._name(one)
        for one in _unique(landed):
            yield self._same_function(one)
        if landed:
            yield from self._nowhere_else(landed)
        for one in passed:
            if one.read is not one.own:
                yield self._chosen(one)
        for track in dict.fromkeys(one.track for one in passed):
            yield from self._stretches(track, [one for one in passed if one.track is track])

    def _name(self, one: Passed) -> None:
        if one.own not in self.names:
            address = f"{one.track.passages[one.position].name}@{self.copy}"
            number = 1
            while address in self.splicer.sites:
                number += 1
                address = f"{one.track.passages[one.position].name}@{self.copy}#{number}"
            self.splicer.name_site(address, one.own, "copy")
            self.names[one.own] = address

    @property
    def own(self) -> dict[fx.Node, fx.Node]:
        """This copy of each input."""
        return self.job.leaves[self.copy]

    def _parts(self) -> set[str]:
        """The copies whose paths end in one of this copy's."""
        mine = [track for track in self.job.tracks.all if track.copy == self.copy]
        return {t.copy for t in self.job.tracks.all if t.copy != self.copy and any(t.route.extends(m.route) for m in mine)}

    def _same_function(self, one: Passed) -> Claim:
        equation = _Equation()
        copies = {original: equation.node(leaf) for original, leaf in self.own.items()}
        parts = {leaf: copies[original] for part in self._parts() for original, leaf in self.job.leaves[part].items()}
        left, right = equation.again(one.own, parts), equation.again(one.whole, copies)
        return equation.claim(f"it reads the copy {self.copy}", self.names[one.own], self.step, left, right)

    def _nowhere_else(self, landed: Sequence[Passed]) -> Iterator[Claim]:
        for output in self.job.returned.values():
            equation = _Equation()
            held = {one.own: equation.fresh(one.own) for one in landed}
            other = {leaf: equation.node(leaf, "fresh") for leaf in self.own.values()}
            left, right = equation.again(output, held), equation.again(output, {**held, **other})
            yield equation.claim(f"nothing else reads the copy {self.copy}", self.names[landed[0].own], self.step, left, right)

    def _chosen(self, one: Passed) -> Claim:
        """What is read where members or positions are chosen."""
        equation = _Equation()
        law, splicer = self.job.bound.law.function, self.splicer
        inputs = [one.before, one.own]
        captured = capture(
            lambda x, y: [torch.where(here(x, one.region), y, x)], [n.meta["val"] for n in inputs], splicer.mode, law.__name__
        )
        image = dict(zip(captured.inputs, map(equation.node, inputs), strict=True))
        found = equation.node(self.job.chosen(one))
        for node in captured.graph.nodes:
            if node.op == "call_function":
                image[node] = equation.graph.node_copy(node, lambda n: image[n])
                image[node].meta = {"val": node.meta["val"], "scope": ()}
        return equation.claim("it is read there, and only there", self.names[one.own], self.step, found, image[captured.outputs[0]])

    # Stretches of paths

    def _stretches(self, track: Track, passed: Sequence[Passed]) -> Iterator[Claim]:
        ends = [replace(passed[0], position=-1, whole=old, own=new) for old, new in self.job.returned.items()]
        for lower in [*ends, *passed]:
            upper = [one for one in passed if one.position == lower.position + 1]
            if not upper:
                continue
            way, equation = track.ways[lower.position + 1], _Equation()
            if way.kind == "->":
                yield from self._direct(equation, track, lower, upper)
            elif all(self._alone(one, track, lower.whole) for one in upper) and self._whole(way.avoided, lower.whole):
                yield self._any_way(equation, lower, upper, [self.splicer.nodes[site.node] for site in way.avoided])

    def _originals(self, equation: _Equation) -> dict[fx.Node, fx.Node]:
        """Every copy as the original."""
        return {leaf: equation.node(original) for leaves in self.job.leaves.values() for original, leaf in leaves.items()}

    def _any_way(self, equation: _Equation, lower: Passed, upper: Sequence[Passed], avoided: Sequence[fx.Node]) -> Claim:
        originals = self._originals(equation)
        values = {one: equation.fresh(one.read) for one in upper}
        left = equation.again(lower.own, {**originals, **{one.read: value for one, value in values.items()}})
        kept = {node: equation.node(node) for node in avoided}
        right = equation.again(lower.whole, {**{one.whole: value for one, value in values.items()}, **kept})
        name = self.names[lower.own if lower.position >= 0 else upper[0].own]
        return equation.claim("what is behind it reads it as the original does", name, self.step, left, right)

    def _direct(self, equation: _Equation, track: Track, lower: Passed, upper: Sequence[Passed]) -> Iterator[Claim]:
        originals = self._originals(equation)
        values = {one: equation.fresh(one.read) for one in upper}
        left = equation.again(lower.own, {**originals, **{one.read: value for one, value in values.items()}})
        right, like = equation.node(lower.whole), lower.whole.meta["val"]
        for one, value in values.items():
            change = equation.call(aten.sub.Tensor, one.whole.meta["val"], value, equation.node(one.whole))
            coefficient = self._coefficient(track, one, lower.whole)
            if isinstance(coefficient, fx.Node):
                coefficient = equation.node(coefficient)
            if not (isinstance(coefficient, float) and coefficient == 1.0):
                change = equation.call(aten.mul.Tensor, like, change, coefficient)
            right = equation.call(aten.add.Tensor, like, right, change)
        yield equation.claim("it holds what comes by adds and scalings, times their factor", self.names[lower.own], self.step, left, right)

    def _coefficient(self, track: Track, one: Passed, end: fx.Node) -> Any:
        site = next(site for site in track.passages[one.position].sites if site.node == one.whole.name)
        if end is one.whole:
            return 1.0
        return factor_nodes(self.splicer, additive(self.splicer, site, end), self.splicer.after([end]), ())

    def _alone(self, one: Passed, track: Track, end: fx.Node) -> bool:
        """True if all that reads the value on the way to `end` reads it as this stop."""
        way = needed([end])
        edges = track.passages[one.position].edges
        return all((one.whole, user) in edges for user in one.whole.users if user in way)

    def _whole(self, sites: Sequence[Site], end: fx.Node) -> bool:
        way = needed([end])
        return all(reads(user, site) for site in sites for user in self.splicer.nodes[site.node].users if user in way)


def _unique(passed: Sequence[Passed]) -> list[Passed]:
    return list({one.own: one for one in passed}.values())
