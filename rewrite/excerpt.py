"""Excerpts: a part of a program's graph as code of its own, which is given what other parts computed."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite.axes import first_sizes
from rewrite.layout import Layout, at_positions, selecting
from rewrite.poke import with_edits
from rewrite.positionwise import is_size, region
from rewrite.records import Leaf
from rewrite.run import Runner, needed

if TYPE_CHECKING:
    from rewrite.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class Taken:
    """A value of the plain run that an excerpt is given; `selected`: at the positions asked for only."""

    name: str
    selected: bool


@dataclass(frozen=True)
class Fork:
    """A program's graph with edits in it: `extras` are the placeholders of the edits' functions, `behind` is what depends on them."""

    graph: fx.Graph
    leaves: Mapping[str, Leaf]
    extras: tuple[str, ...] = ()

    @classmethod
    def of(cls, program: Program, edited: Sequence[str] = ()) -> Fork:
        """The fork with edits at these addresses."""
        if not edited:
            return cls(program.graph, program.leaves)
        splicer, extras = with_edits(program, edited)
        return cls(splicer.graph, splicer.leaves, tuple(extras))

    @cached_property
    def outputs(self) -> tuple[Any, ...]:
        """The flat output leaves."""
        return tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]

    @cached_property
    def functions(self) -> list[fx.Node]:
        """The placeholders of the edits' functions, in the order of the addresses."""
        named = {node.name: node for node in self.graph.nodes if node.name in self.extras}
        return [named[name] for name in self.extras]

    @cached_property
    def behind(self) -> set[fx.Node]:
        """What depends on an edit, the functions' placeholders included."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node.name in self.extras or any(n in found for n in node.all_input_nodes):
                found.add(node)
        return found

    def value_edited(self, number: int) -> Any:
        """The fake value that the edit of that number is given."""
        (user,) = self.functions[number].users
        return user.args[1].meta.get("val")  # type: ignore[union-attr]


def positionwise(fork: Fork, program: Program, each: bool, whole: Sequence[fx.Node] = (), more: Sequence[fx.Node] = ()) -> set[fx.Node]:
    """The nodes of a fork that can run at the positions alone that its outputs are read at; none where sizes are fixed.

    `each`: at other positions for each example. `whole` are read at all positions, `more` are read too.
    """
    examples, places = first_sizes(program)
    if not isinstance(places, torch.SymInt):
        return set()
    size, needs = places.node.expr, needed([*fork.outputs, *whole, *more])

    def told_apart(node: fx.Node) -> bool:
        where = [selecting(one, examples, places) for one in (node, *node.all_input_nodes)]
        return all(one is None or one[1] is not None for one in where)

    mixed = {node for node in needs if node.op == "call_function" and not told_apart(node)} if each else set()
    return region(fork.outputs, [node for node in fork.graph.nodes if node in needs], size, mixed | set(whole))


class Excerpt:
    """What computes the outputs, and the values `also`, of a fork from values that are given.

    `mine` limits what is computed here; what else is needed is taken from the plain run, unless it depends on no input: then it is
    computed here too. None: all is computed here. The nodes `inside` run at some positions only; with `select` outputs are read there.
    """

    def __init__(
        self,
        program: Program,
        fork: Fork,
        mine: set[fx.Node] | None,
        inside: set[fx.Node],
        *,
        select: bool,
        also: Sequence[Taken] = (),
    ):
        self.program, self.fork, self.mine, self.inside = program, fork, mine, inside
        self.examples, self.places = first_sizes(program)
        self.taken: dict[Taken, str] = {}  # -> the name of its placeholder
        self._graph, self._leaves = fx.Graph(), {}
        self._sized: dict[tuple[Any, bool], tuple[fx.Node, Any]] = {}
        self._image: dict[Any, fx.Node] = {}
        self._known = _sizes_of_inputs(program)
        self._varying = self._with_inputs()
        self._build(select, also)

    def __call__(self, given: Mapping[str, Any], layout: Layout) -> tuple[Any, ...]:
        """The wanted values; `given` are inputs, taken values and functions by the names of their placeholders."""
        numbers = {node.name: layout.number(size, inside) for (_, inside), (node, size) in self._sized.items()}
        index = dict.fromkeys(self._index, layout.index)
        return self._runner(self.program.tensors, {**given, **numbers, **index})

    def peak(self, layout: Layout) -> int:
        """What the values computed here take at most at one time. Units: bytes."""
        last: dict[Any, int] = {}
        roots: dict[Any, Any] = {}
        order = [node for node in self._graph.nodes if node.op == "call_function"]
        for at, node in enumerate(order):
            source = node.all_input_nodes[0] if node.all_input_nodes and _is_view(node) else node
            roots[node] = roots.get(source, source)
            for used in (node, *node.all_input_nodes):
                last[roots.get(used, used)] = at
        now = most = 0
        ends: dict[int, int] = {}
        for at, node in enumerate(order):
            size = layout.bytes(node, node.meta.get("inside", False)) if roots[node] is node else 0
            ends[last[roots[node]]] = ends.get(last[roots[node]], 0) + size
            now += size
            most = max(most, now)
            now -= ends.pop(at, 0)
        return most

    # ------------------------------------------------------------------------------------------------ choosing

    def _number(self, node: fx.Node) -> bool:
        """True if the node is a size known from the inputs."""
        size = node.meta.get("val")
        known = not isinstance(size, torch.SymInt) or size.node.expr.free_symbols <= self._known
        return node.op == "call_function" and is_size(node) and known

    def _with_inputs(self) -> set[fx.Node]:
        """The nodes that depend on what is in an input, not on its sizes alone."""
        found: set[fx.Node] = set()
        for node in self.fork.graph.nodes:
            leaf = self.fork.leaves.get(node.name) if node.op == "placeholder" else None
            if (leaf is not None and leaf.kind == "input") or (not self._number(node) and any(n in found for n in node.all_input_nodes)):
                found.add(node)
        return found

    def _given(self, node: fx.Node) -> bool:
        """True if the node is taken from the plain run."""
        if self.mine is None or node in self.mine or node not in self._varying or node.name not in self.program.nodes:
            return False
        return node.op == "placeholder" or isinstance(node.meta.get("val"), Tensor)

    def _computed_here(self, wanted: Sequence[Any]) -> set[fx.Node]:
        found: set[fx.Node] = set()
        stack = [node for node in wanted if isinstance(node, fx.Node)]
        while stack:
            node = stack.pop()
            if node not in found and not self._number(node) and not self._given(node):
                found.add(node)
                stack += node.all_input_nodes
        return found

    # ------------------------------------------------------------------------------------------------ building

    def _build(self, select: bool, also: Sequence[Taken]) -> None:
        wanted = [(one, select) for one in self.fork.outputs]
        wanted += [(self.program.nodes[one.name], one.selected) for one in also]
        ours = self._computed_here([one for one, _ in wanted])
        for node in self.fork.graph.nodes:
            if node in ours:
                self._image[node] = self._emitted(node)
        outputs = [self._read(one, selected) if isinstance(one, fx.Node) else one for one, selected in wanted]
        self.functions = [self._image[node].name for node in self.fork.functions]
        self._index = [self._image["index"].name] if "index" in self._image else []
        extra = [*self.taken.values(), *self.functions, *(node.name for node, _ in self._sized.values()), *self._index]
        self._graph.output(tuple(outputs))
        self._runner = Runner(self._graph, outputs, self._leaves, extra)

    def _emitted(self, node: fx.Node) -> fx.Node:
        inside = node in self.inside
        if node.op == "placeholder":
            made = self._placeholder(node.name, node.meta)
            if node.name not in self.fork.extras:
                self._leaves[made.name] = self.fork.leaves[node.name]
            return made
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: self._read(one, inside))  # type: ignore[misc]
        made = self._graph.create_node(node.op, node.target, args, kwargs, name=node.name)
        made.meta = {**node.meta, "inside": inside}
        return made

    def _placeholder(self, name: str, meta: Mapping[str, Any]) -> fx.Node:
        made = self._graph.placeholder(name)
        made.target = made.name  # a clash is resolved in the name only, and code is generated from the target
        made.meta = dict(meta)
        return made

    def _read(self, node: fx.Node, inside: bool) -> fx.Node:
        """What a reader of `node` reads; one `inside` reads some positions only."""
        if self._number(node):
            return self._size(node.meta["val"], inside)
        where = selecting(node, self.examples, self.places) if inside else None
        if self._given(node):
            return self._from_plain_run(node, where is not None)
        return self._image[node] if where is None or node in self.inside else self._selected(node, where)

    def _size(self, size: Any, inside: bool) -> Any:
        if not isinstance(size, torch.SymInt):
            return int(size)
        key = (size.node.expr, inside)
        if key not in self._sized:
            self._sized[key] = (self._placeholder("size", {"val": size, "scope": ()}), size)
        return self._sized[key][0]

    def _from_plain_run(self, node: fx.Node, selected: bool) -> fx.Node:
        key = Taken(node.name, selected)
        if key not in self.taken:
            made = self._image[key] = self._placeholder(f"{node.name}_taken", {**node.meta, "inside": selected})
            self.taken[key] = made.name
        return self._image[key]

    def _selected(self, node: fx.Node, where: tuple[int, int | None, bool]) -> fx.Node:
        key = ("at", node)
        if key not in self._image:
            if "index" not in self._image:
                self._image["index"] = self._placeholder("index", {"val": None, "scope": ()})
            length = self._size(self.places, False) if where[2] else None
            made = self._graph.call_function(at_positions, (self._image[node], self._image["index"], *where, length))
            made.meta = {**node.meta, "inside": True}
            self._image[key] = made
        return self._image[key]


def _is_view(node: fx.Node) -> bool:
    target: Any = node.target
    return target in (aten.reshape.default, operator.getitem) or (isinstance(target, torch._ops.OpOverload) and target.is_view)


def _sizes_of_inputs(program: Program) -> set[Any]:
    values = [program.nodes[name].meta.get("val") for name, leaf in program.leaves.items() if leaf.kind == "input"]
    shapes = [value.shape for value in values if isinstance(value, Tensor)]
    return {size.node.expr for shape in shapes for size in shape if isinstance(size, torch.SymInt)}
