"""Direct paths: the factor with which a term reaches a reader through adds and scalings alone, and the equation that proves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rewrite.capture import Captured
from rewrite.errors import PassError
from rewrite.readers import reads
from rewrite.records import Claim, Site
from rewrite.routes import parse_route, pointed
from rewrite.run import needed
from rewrite.splice import Splicer
from rewrite.unedited import is_unedited

aten = torch.ops.aten
SAME = (aten.alias.default, aten.clone.default, aten.contiguous.default)
OPENERS = {"layer_norm": "norm", "rms_norm": "norm", "rsqrt": "norm", "linear": "heads or neurons", "addmm": "heads or neurons"}

Product = tuple[float, tuple[fx.Node, ...]]


@dataclass
class Additive:
    """How a term reaches a value: for each node on the way, the products of factors whose sum is the term's coefficient there."""

    term: Site
    start: fx.Node
    end: fx.Node
    products: dict[fx.Node, list[Product]]

    @property
    def coefficient(self) -> list[Product]:
        """The coefficient at the end."""
        return self.products[self.end]


def additive(splicer: Splicer, term: Site, end: fx.Node) -> Additive:
    """How `term` reaches `end` through adds and scalings alone.

    Raises: PassError naming what stands in the way if it does not.
    """
    start = splicer.nodes[term.node]
    way = needed([end])
    products: dict[fx.Node, list[Product]] = {}
    varying = varying_nodes(way, _inputs(splicer))
    for node in sorted((n for n in way if n.op == "call_function" and start < n), key=lambda n: n._sort_key):
        found = _products(node, lambda arg, reader=node: _of(products, start, arg, reader, term), varying)
        if found:
            products[node] = found
    if end not in products:
        raise PassError(
            f"{term.address}: expected a path of adds and scalings to {end.name}, got {_obstacle(splicer, term, products, way)}"
        )
    return Additive(term, start, end, products)


def _inputs(splicer: Splicer) -> frozenset[str]:
    return frozenset(name for name, leaf in splicer.leaves.items() if leaf.kind == "input")


def _of(products: dict[fx.Node, list[Product]], start: fx.Node, arg: Any, reader: fx.Node, term: Site) -> list[Product]:
    if arg is start:
        return [(1.0, ())] if reads(reader, term) else []
    return products.get(arg, []) if isinstance(arg, fx.Node) else []


def varying_nodes(nodes: Iterable[fx.Node], inputs: frozenset[str]) -> set[fx.Node]:
    """What depends on inputs, but for what is frozen: an un-edited copy is as fixed as a weight."""
    found: set[fx.Node] = set()
    for node in sorted(nodes, key=lambda n: n._sort_key):
        if is_unedited(node):
            continue
        if (node.op == "placeholder" and node.name in inputs) or any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def _products(node: fx.Node, of: Any, varying: set[fx.Node]) -> list[Product]:
    """The coefficient at `node`, given those of its arguments; empty if the term does not arrive additively."""
    args: Any = node.args
    if node.target in SAME:
        return of(args[0])
    if node.target is aten.neg.default:
        return scaled(of(args[0]), -1.0)
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        sign = -1.0 if node.target is aten.sub.Tensor else 1.0
        return of(args[0]) + scaled(of(args[1]), sign * node.kwargs.get("alpha", 1))  # type: ignore[operator]
    if node.target is aten.mul.Tensor:
        for value, factor in (args, args[::-1]):
            if of(value) and factor not in varying:
                return scaled(of(value), factor)
    if node.target is aten.div.Tensor and isinstance(args[1], int | float):
        return scaled(of(args[0]), 1.0 / args[1]) if dyadic(args[1]) else []
    return []


def dyadic(value: float) -> bool:
    """True if dividing by `value` is multiplying by a number that floats hold exactly."""
    return (value != 0 and (1.0 / value) * value == 1.0 and float(value).as_integer_ratio()[0] in (1, -1)) or (
        float(value).is_integer() and (int(value) & (int(value) - 1)) == 0
    )


def scaled(products: list[Product], factor: Any) -> list[Product]:
    """The products with one more factor, a number or node."""
    if isinstance(factor, fx.Node):
        return [(number, (*nodes, factor)) for number, nodes in products]
    return [(number * factor, nodes) for number, nodes in products]


def _obstacle(splicer: Splicer, term: Site, products: dict[fx.Node, list[Product]], way: set[fx.Node]) -> str:
    start = splicer.nodes[term.node]
    if start not in way:
        return "a reader that does not depend on it. Choose a reader downstream."
    frontier = [u for n in (start, *products) for u in n.users if u in way and u not in products]
    if not frontier:
        return "a reader of its own. Choose a reader downstream."
    blocking = max(frontier, key=lambda n: n._sort_key)
    name = getattr(blocking.target, "_schema", blocking.target)
    op = str(getattr(name, "name", name)).split("::")[-1]
    opener = OPENERS.get(op)
    advice = f"The pass {opener} opens it." if opener else "Name a reader before it, or use ~> once it is there."
    return f"{op} ({blocking.name}) on the way. {advice}"


def factor_nodes(splicer: Splicer, found: Additive, anchor: fx.Node, scope: tuple[str, ...]) -> Any:
    """The coefficient as a number or a node; products and sums of nodes are built behind `anchor`."""
    merged: dict[tuple[fx.Node, ...], float] = {}
    for number, nodes in found.coefficient:
        merged[nodes] = merged.get(nodes, 0.0) + number
    total: Any = None
    for nodes, number in merged.items():
        value: Any = number
        for node in nodes:
            value = node if value == 1.0 and not isinstance(value, fx.Node) else _node(splicer, anchor, aten.mul.Tensor, node, value, scope)
        total = value if total is None else _plus(splicer, anchor, total, value, scope)
    return total


def _plus(splicer: Splicer, anchor: fx.Node, a: Any, b: Any, scope: tuple[str, ...]) -> Any:
    if not isinstance(a, fx.Node):
        return a + b if not isinstance(b, fx.Node) else _node(splicer, anchor, aten.add.Tensor, b, a, scope)
    return _node(splicer, anchor, aten.add.Tensor, a, b, scope)


def _node(splicer: Splicer, anchor: fx.Node, target: Any, a: fx.Node, b: Any, scope: tuple[str, ...]) -> fx.Node:
    with splicer.mode:
        value = target(a.meta["val"], b.meta["val"] if isinstance(b, fx.Node) else b)
    behind = splicer.after([anchor, *(n for n in (a, b) if isinstance(n, fx.Node))])
    return splicer.call(behind, target, (a, b), scope, value)


def crossed(splicer: Splicer, site: Site) -> str | None:
    """The path that `site` lies on, between term and reader, where the path's factor was worked out; None if there is none."""
    node = splicer.nodes[site.node]
    for claim in (claim for claim in splicer.claims if claim.site in splicer.sites and splicer.sites[claim.site].kind == "path"):
        path = splicer.sites[claim.site]
        starts = [splicer.nodes[name] for kind, name in claim.bindings.values() if kind == "fresh"]
        if not starts:  # not about the factor
            continue
        start = starts[0]
        law = {n for n in splicer.graph.nodes if path.scope in n.meta.get("scope", ())}
        ends = {n for inner in law for n in inner.all_input_nodes} - law - {start, splicer.nodes[path.node]}
        if node in needed(ends) and start in needed([node]) and node in _carriers(splicer, start, ends):
            return path.address
    return None


def _carriers(splicer: Splicer, start: fx.Node, ends: set[fx.Node]) -> set[fx.Node]:
    """The nodes on the way to `ends` that `start` reaches through adds and scalings alone."""
    way = needed(ends)
    varying = varying_nodes(way, _inputs(splicer))
    products: dict[fx.Node, list[Product]] = {start: [(1.0, ())]}
    for node in sorted((n for n in way if n.op == "call_function" and start < n), key=lambda n: n._sort_key):
        products[node] = _products(node, lambda arg: products.get(arg, []) if isinstance(arg, fx.Node) else [], varying)
    return {node for node, found in products.items() if found and node is not start}


def scales(node: fx.Node, argument: fx.Node, varying: set[fx.Node]) -> bool:
    """True if what `argument` holds goes through `node` by an add or a scaling."""
    return bool(_products(node, lambda arg: [(1.0, ())] if arg is argument else [], varying))


def split_path(address: str) -> tuple[str, str]:
    """The term and the reader of a path address `t -> r`; a member of a family stands for its family.

    Raises: PassError if it is not one.
    """
    route = parse_route(address)
    if len(route.stops) != 2:
        where = route.places[2] if len(route.stops) > 2 else len(address)
        found = f"{len(route.stops)} stops" if len(route.stops) > 2 else "one site"
        raise pointed(address, where, "'term -> reader'", found, "Write e.g. 'h.9.mlp/fire -> ln_f@in'.")
    if route.hops[0].kind != "->" or route.hops[0].avoid or not route.stops[1].whole or route.stops[0].slice is not None:
        advice = "The pass inputs takes ~>, !site, positions and members of readers: inputs.at({'copy': path})."
        raise pointed(address, address.find("~>") if "~>" in address else route.places[0], "'term -> reader'", f"'{route}'", advice)
    return route.stops[0].site, route.stops[1].site


def path_claim(splicer: Splicer, address: str, found: Additive, law: Captured, coefficient: Any, step: int) -> Claim:
    """The claim that with the term replaced by a fresh value on this edge only, reader and rewrite agree."""
    graph = fx.Graph()
    bindings: dict[str, tuple[str, str]] = {}
    outside: dict[fx.Node, fx.Node] = {}

    def bound(node: fx.Node, kind: str = "node") -> fx.Node:
        with graph.inserting_after(next(reversed(outside.values()))) if outside else graph.inserting_before(next(iter(graph.nodes), None)):
            made = graph.placeholder(f"{kind}_{node.name}")
        made.meta.update(val=node.meta["val"], scope=())
        bindings[made.name] = (kind, node.name)
        return made

    fresh = outside[found.start] = bound(found.start, "fresh")
    image: dict[fx.Node, fx.Node] = {}
    region = sorted(found.products, key=lambda n: n._sort_key)
    region = [node for node in region if node in needed([found.end])]
    for other in {n: None for node in region for n in node.all_input_nodes if n not in found.products and n is not found.start}:
        outside[other] = bound(other)
    term = next((u for u in region if any(n is found.start and not reads(u, found.term) for n in u.all_input_nodes)), None)
    own = bound(found.start) if term is not None else None
    for node in region:
        through = reads(node, found.term)
        image[node] = graph.node_copy(node, lambda n, t=through: (fresh if t else own) if n is found.start else image.get(n) or outside[n])
        image[node].meta = {"val": node.meta["val"], "scope": ()}
    read, given = bound(found.end), bound(found.start)
    wanted = [read, given, fresh, *([outside.get(coefficient) or bound(coefficient)] if isinstance(coefficient, fx.Node) else [])]
    copied = dict(zip(law.inputs, wanted, strict=True))
    for node in law.graph.nodes:
        if node.op == "call_function":
            copied[node] = graph.node_copy(node, lambda n: copied[n])
            copied[node].meta = {"val": node.meta["val"], "scope": ()}
    graph.output([image[found.end], copied[law.outputs[0]]])
    sentence = "the term replaced by any value on this path only: reader and rewrite agree"
    return Claim(sentence, address, step, graph, bindings, (found.term.address,))


def same_sum(address: str, family: str, own: fx.Node, total: fx.Node, act: fx.Node, step: int) -> Claim:
    """The claim that the members of a path's own copy of a family sum to what the family sums to, whatever the coordinates are."""
    graph = fx.Graph()
    bindings: dict[str, tuple[str, str]] = {}
    sides = []
    for name, node in (("act", act), ("own", own), ("total", total)):
        sides.append(graph.placeholder(name))
        sides[-1].meta.update(val=node.meta["val"], scope=())
        bindings[sides[-1].name] = ("node", node.name)
    graph.output(sides[1:])
    return Claim("its own members sum to what the family's do", address, step, graph, bindings, (family,))
