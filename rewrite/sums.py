"""Sums in a graph: a value as a sum of what was written into it, however deep the adds are nested, and the affine map behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.affine import Affine, affine, is_affine, is_tensor
from rewrite.ops import linear, same_shape
from rewrite.paths import SAME, Product, dyadic, scaled, varying_nodes
from rewrite.records import Site
from rewrite.run import needed
from rewrite.splice import Splicer
from rewrite.terms import Skip

aten = torch.ops.aten
RANK = ("family", "term", "path", "part", "output", "input")  # whose name a summand that has several gets


@dataclass(frozen=True)
class Summand:
    """One summand of a sum: its name, node, coefficient, and the site that it is read as."""

    name: str
    node: fx.Node
    products: tuple[Product, ...]
    site: Site | None

    def value(self, values: Callable[[fx.Node], Any]) -> Tensor:
        """What it adds to the sum."""
        total = None
        for number, nodes in self.products:
            part = values(self.node)
            for node in nodes:
                part = part * values(node)
            part = part if number == 1.0 else -part if number == -1.0 else part * number
            total = part if total is None else total + part
        assert total is not None
        return total


@dataclass(frozen=True)
class Sum:
    """A site as an affine map of a sum."""

    summands: tuple[Summand, ...]
    map: Affine

    @property
    def inputs(self) -> list[fx.Node]:
        """Every node that the terms are computed from."""
        factors = [node for one in self.summands for _, nodes in one.products for node in nodes]
        whole = not self.map.homogeneous or any(not self.full(one) for one in self.summands)  # its shape is asked for
        return list(
            dict.fromkeys([*(one.node for one in self.summands), *factors, *self.map.outside, *([self.map.start] if whole else [])])
        )

    def full(self, one: Summand) -> bool:
        """True if the summand is of the sum's shape, not broadcast to it."""
        return same_shape(one.node.meta["val"].shape, self.map.start.meta["val"].shape)


def sum_behind(splicer: Splicer, site: Site, over: str | None) -> Sum | Skip:
    """The sum that `site` is an affine map of: the value at `over`, or the furthest one there is before something is not affine."""
    end = splicer.nodes[site.node]
    inputs = frozenset(name for name, leaf in splicer.leaves.items() if leaf.kind == "input")
    varying = varying_nodes(needed([end]), inputs)
    if over is None:
        start = _furthest(splicer, end, varying)
        if isinstance(start, Skip):
            return start
    else:
        start = splicer.nodes[splicer.site(over).node]
    found = affine(start, end)
    if isinstance(found, Skip):
        return found
    products = _summands(splicer, start, varying)
    if len(products) < 2:
        return Skip(f"{over or start.name} is not a sum")
    named = [_named(splicer, node, tuple(products[node])) for node in sorted(products, key=lambda n: n._sort_key)]
    return Sum(tuple(named), found)


def _furthest(splicer: Splicer, end: fx.Node, varying: set[fx.Node]) -> fx.Node | Skip:
    region, best = {end}, end if len(_summands(splicer, end, varying)) > 1 else None
    if not is_affine(end, varying):
        found = affine(max((n for n in end.all_input_nodes if n in varying), key=lambda n: n._sort_key, default=end), end)
        return best or (found if isinstance(found, Skip) else Skip("no sum lies before it"))
    while True:
        frontier = {n for node in region for n in node.all_input_nodes if n in varying and is_tensor(n)} - region
        if len(frontier) == 1 and len(_summands(splicer, next(iter(frontier)), varying)) > 1:
            (best,) = frontier
        latest = max(frontier, key=lambda n: n._sort_key, default=None)
        if latest is None or not is_affine(latest, varying):
            break
        region.add(latest)
    if best is not None:
        return best
    found = affine(latest.all_input_nodes[0], end) if latest is not None and latest.all_input_nodes else None
    return found if isinstance(found, Skip) else Skip("no sum lies before it")


def _summands(splicer: Splicer, node: fx.Node, varying: set[fx.Node]) -> dict[fx.Node, list[Product]]:
    """The summands of `node` with their coefficients; those that cancel are left out."""
    named = {site.node for site in splicer.sites.values() if site.kind in ("term", "family", "path") or site.address in splicer.gates}
    found: dict[fx.Node, list[Product]] = {}
    waiting: list[tuple[fx.Node, Product]] = [(node, (1.0, ()))]
    while waiting:
        at, product = waiting.pop()
        parts = None if at.name in named and at is not node else _parts(at, varying)
        if parts is None:
            found.setdefault(at, []).append(product)
            continue
        waiting += [(inner, (product[0] * number, (*product[1], *nodes))) for inner, (number, nodes) in parts]
    merged = {at: _merged(products) for at, products in found.items()}
    return {at: products for at, products in merged.items() if products}


def _merged(products: list[Product]) -> list[Product]:
    totals: dict[tuple[fx.Node, ...], float] = {}
    for number, nodes in products:
        totals[nodes] = totals.get(nodes, 0.0) + number
    return [(number, nodes) for nodes, number in totals.items() if number]


def _parts(node: fx.Node, varying: set[fx.Node]) -> list[tuple[fx.Node, Product]] | None:
    """What `node` is the scaled sum of, None if it is written by another op. An add that is a linear op's bias belongs to that op."""
    args: Any = node.args
    if node.op != "call_function":
        return None
    if node.target in SAME:
        return [(args[0], (1.0, ()))]
    if node.target is aten.neg.default:
        return [(args[0], (-1.0, ()))]
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and all(isinstance(a, fx.Node) for a in args):
        if not isinstance(linear(node), Skip):
            return None
        sign = -1.0 if node.target is aten.sub.Tensor else 1.0
        return [(args[0], (1.0, ())), (args[1], (sign * float(node.kwargs.get("alpha", 1)), ()))]  # type: ignore[arg-type]
    if node.target is aten.mul.Tensor:
        for value, factor in (args, args[::-1]):
            if isinstance(value, fx.Node) and factor not in varying and (value in varying or isinstance(factor, int | float)):
                return [(value, scaled([(1.0, ())], factor)[0])]
    if node.target is aten.div.Tensor and isinstance(args[1], int | float) and dyadic(args[1]):
        return [(args[0], (1.0 / args[1], ()))]
    return None


def _named(splicer: Splicer, node: fx.Node, products: tuple[Product, ...]) -> Summand:
    """A summand under the name of its site, the outermost module's if it is the output of several."""
    sites = [site for site in splicer.sites.values() if site.node == node.name]
    sites.sort(key=lambda site: (RANK.index(site.kind) if site.kind in RANK else len(RANK), len(site.address)))
    site = next(iter(sites), None)
    leaf = splicer.leaves.get(node.name)
    return Summand(site.address if site else leaf.name if leaf else node.name, node, products, site)
