"""A program's graph for proofs: equal expressions as one node, sizes as numbers, and signatures by which equal regions are proved once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from rewrite.program import Program
from rewrite.run import needed
from verify.interpret import PYTHON
from verify.leaves import LeafValue
from verify.shadow import Case

Numbering = dict[Any, int]


class Side:
    """One of the two programs: `graph` holds each expression once under the name of its first node, `leaf` what the leaves are worth."""

    def __init__(self, program: Program, leaves: Mapping[str, LeafValue], case: Case) -> None:
        self.program, self.leaves, self.case = program, leaves, case
        self.sizes = _sizes(program, case)
        self._sizes: dict[Any, int] = {}  # of expressions
        self._regions: dict[Any, set[fx.Node]] = {}
        self.graph, self.representative = self._canonical()
        self.nodes = {node.name: node for node in self.graph.nodes}

    def _canonical(self) -> tuple[fx.Graph, dict[str, str]]:
        """The graph with equal expressions merged, and the name that each of the program's nodes has in it."""
        graph = fx.Graph()
        image: dict[fx.Node, fx.Node] = {}
        known: dict[Any, fx.Node] = {}
        for node in self.program.graph.nodes:
            if node.op == "output":
                continue
            args, kwargs = at_home(fx.map_arg((node.args, node.kwargs), lambda n: image[n]))  # type: ignore[misc]
            key = self._key(node, args, kwargs)
            if key not in known:
                made = known[key] = graph.create_node(
                    node.op, node.target if node.op != "placeholder" else node.name, args, kwargs, name=node.name
                )
                made.meta = node.meta
            image[node] = known[key]
        return graph, {node.name: made.name for node, made in image.items()}

    def _key(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op != "placeholder":
            return node.target, frozen(args), frozen(kwargs)
        leaf = self.leaves[node.name]
        if leaf.kind in ("random", "ids"):
            return leaf.kind, leaf.label, leaf.shape
        return node.name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a node's value for the inputs at hand."""
        return tuple(self.size(s) for s in self.program.nodes[name].meta["val"].shape)

    def size(self, size: Any) -> int:
        """A size as a number."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._sizes:
            found = expression.subs(self.sizes)
            if not found.is_number:
                raise KeyError(f"size {expression} is not given by the inputs")
            self._sizes[expression] = int(found)
        return self._sizes[expression]

    def known_number(self, node: fx.Node) -> int | None:
        """What a node that holds a size is worth, by its own arithmetic from sizes of tensors; None for any other node."""
        value = node.meta.get("val")
        if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
            return None
        if node not in self._known:
            self._known[node] = self._number(node)
        return self._known[node]

    def _number(self, node: fx.Node) -> int | None:
        try:
            if node.target is torch.ops.aten.sym_size.int:
                tensor, axis = node.args
                held = self.case.get(tensor.name)  # type: ignore[union-attr]
                return held.shape[axis] if isinstance(held, Tensor) else self.size(tensor.meta["val"].shape[axis])  # type: ignore[union-attr]
            if node.target not in PYTHON:
                return None
            given = [self.known_number(x) if isinstance(x, fx.Node) else x for x in node.args]
            return None if None in given else node.target(*given)  # type: ignore[operator]
        except KeyError:
            return None

    @cached_property
    def _known(self) -> dict[fx.Node, int | None]:
        return {}

    @cached_property
    def varying(self) -> frozenset[str]:
        """The program's nodes that depend on an input."""
        found: set[str] = set()
        for node in self.program.graph.nodes:
            leaf = self.program.leaves.get(node.name)
            if (leaf is not None and leaf.kind == "input") or any(n.name in found for n in node.all_input_nodes):
                found.add(node.name)
        return frozenset(found)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The nodes of the graph that are sizes."""
        found = {node.name: self.known_number(node) for node in self.graph.nodes if node.op == "call_function"}
        return {name: number for name, number in found.items() if number is not None}

    def region(self, want: str, cuts: Mapping[str, Any]) -> set[fx.Node]:
        """The nodes of the graph that `want` is computed from, up to the nodes in `cuts`."""
        place = (want, frozenset(cuts))
        if place not in self._regions:
            known = {self.nodes[name] for name in (*cuts, *self.numbers)}
            self._regions[place] = needed([self.nodes[want]], known)
        return self._regions[place]

    @cached_property
    def _contents(self) -> dict[str, Any]:
        return {}

    def signature(
        self, want: fx.Node, cuts: Mapping[str, tuple[Any, tuple[int, ...]]], labels: Numbering, places: Numbering
    ) -> tuple[Any, ...]:
        """What the region of `want` computes, up to the names of its leaves and cuts, which are numbered as they are met.

        `cuts`: node name -> (what tells the cut from others, shape). Two regions of equal signatures, under one numbering each, are one
        statement. `want` is a node of the program's graph or of this one.
        """
        return trail(want, lambda node: self.end(node, cuts, labels, places))

    def end(self, node: fx.Node, cuts: Mapping[str, tuple[Any, tuple[int, ...]]], labels: Numbering, places: Numbering) -> Any:
        """The line of a node at which a region ends, None elsewhere."""
        if node.name in cuts:
            which, shape = cuts[node.name]
            return "cut", places.setdefault(which, len(places)), shape, node.meta["val"].dtype
        number = self.known_number(node)
        if number is not None:
            return "size", number
        return self._leaf_line(node.name, labels) if node.op == "placeholder" else None

    def _leaf_line(self, name: str, labels: Numbering) -> Any:
        leaf = self.leaves[name]
        if leaf.kind == "random":
            return "random", labels.setdefault(leaf.label, len(labels)), leaf.shape, leaf.dtype
        if name not in self._contents:
            self._contents[name] = leaf.content()
        return leaf.kind, labels.setdefault(leaf.label, len(labels)) if leaf.kind == "ids" else 0, self._contents[name]


def shared(a: Side, x: str, cuts_a: Mapping[str, Any], b: Side, y: str, cuts_b: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The nodes of two regions that are one expression of the same leaves and cuts: those nearest to the ends, floating ones."""
    labels, places, classes = Numbering(), Numbering(), Numbering()
    first, of = (
        _expressions(side.nodes[want], lambda node, s=side, c=cuts: s.end(node, c, labels, places), classes)  # type: ignore[misc]
        for side, want, cuts in ((a, x, cuts_a), (b, y, cuts_b))
    )
    twins = {number: node.name for node, number in first.items()}
    found: list[tuple[str, str]] = []
    stack, seen = [b.nodes[y]], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node in seen or node not in of:
            continue
        seen.add(node)
        if of[node] in twins and floating(node):
            found.append((twins[of[node]], node.name))
        else:
            stack += node.all_input_nodes
    return found


def _expressions(top: fx.Node, edge: Callable[[fx.Node], Any], classes: Numbering) -> dict[fx.Node, int]:
    """For each node inside the region of `top` the number of its expression: equal ones have the same."""
    ends: dict[fx.Node, Any] = {}
    number: dict[fx.Node, int] = {}
    for node in _postorder(top, lambda n: ends.setdefault(n, edge(n)) is not None):
        line = ends[node]
        if line is None:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: Local(number[n]))  # type: ignore[misc]
            line = node.target, frozen(args), frozen(kwargs)
        number[node] = classes.setdefault(line, len(classes))
    return {node: n for node, n in number.items() if ends[node] is None}


def trail(top: fx.Node, edge: Callable[[fx.Node], Any]) -> tuple[Any, ...]:
    """The expression of `top` as one line a node, each told once; `edge` gives the line of a node where it ends, None elsewhere."""
    ends: dict[fx.Node, Any] = {}

    def stops(node: fx.Node) -> bool:
        if node not in ends:
            ends[node] = edge(node)
        return ends[node] is not None

    local: dict[fx.Node, int] = {}
    lines: list[Any] = []
    for node in _postorder(top, stops):
        if ends[node] is not None:
            lines.append(ends[node])
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: Local(local[n]))  # type: ignore[misc]
            value = node.meta.get("val")
            lines.append((str(node.target), frozen(args), frozen(kwargs), value.dtype if isinstance(value, Tensor) else None))
        local[node] = len(local)
    return tuple(lines)


class Local(int):
    """A node of a region by its number there, not to be taken for a number of the program."""

    def __repr__(self) -> str:
        return f"%{int(self)}"


def at_home(value: Any) -> Any:
    """Arguments of an op with the device literals turned into the CPU, where exact arithmetic is done."""
    return map_aggregate(value, lambda x: torch.device("cpu") if isinstance(x, torch.device) else x)


def home_graph(graph: fx.Graph) -> fx.Graph:
    """The graph itself if it names no device but the CPU, else a copy that does not; node names stay."""
    if not any(isinstance(x, torch.device) and x.type != "cpu" for node in graph.nodes for x in (*node.args, *node.kwargs.values())):
        return graph
    copy, image = fx.Graph(), {}
    for node in graph.nodes:
        args, kwargs = at_home(fx.map_arg((node.args, node.kwargs), lambda n: image[n]))  # type: ignore[misc]
        image[node] = copy.create_node(node.op, node.target, args, kwargs, name=node.name)
        image[node].meta = node.meta
    return copy


def frozen(value: Any) -> Any:
    """A hashable key of an op's arguments: 1, 1.0 and True are told apart, and so are 0.0 and -0.0."""
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    if isinstance(value, dict):
        return tuple(sorted((name, frozen(item)) for name, item in value.items()))
    if isinstance(value, slice):
        return "slice", frozen(value.start), frozen(value.stop), frozen(value.step)
    return (type(value).__name__, repr(value)) if isinstance(value, (int, float)) else value


def _postorder(top: fx.Node, stop: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """The nodes that `top` is computed from, arguments first and in their order, whatever the order of the graph."""
    done: dict[fx.Node, None] = {}
    stack: list[tuple[fx.Node, bool]] = [(top, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            done.setdefault(node)
        elif node not in done:
            stack.append((node, True))
            if not stop(node):
                stack.extend((n, False) for n in reversed(node.all_input_nodes) if n not in done)
    return list(done)


def _sizes(program: Program, case: Case) -> dict[Any, int]:
    """What each symbolic size of the program's inputs is in `case`."""
    found: dict[Any, int] = {}
    for name, leaf in program.leaves.items():
        value, like = case.get(name), program.nodes[name].meta.get("val")
        if leaf.kind != "input" or not isinstance(like, Tensor) or not isinstance(value, Tensor):
            continue
        for size, symbolic in zip(value.shape, like.shape, strict=True):
            if isinstance(symbolic, torch.SymInt) and symbolic.node.expr.is_symbol:
                found.setdefault(symbolic.node.expr, size)
    return found


def floating(node: fx.Node) -> bool:
    """True if the node's value is a floating point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
