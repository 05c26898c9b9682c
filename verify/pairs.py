"""Pairs of nodes, one of each of two programs, that may compute the same: by their addresses, which are hints and no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from rewrite.program import Program
from rewrite.run import needed
from verify.structure import floating

aten = torch.ops.aten
ADDITIVE = (aten.add.Tensor, aten.sub.Tensor, aten.alias.default, aten.neg.default)


@dataclass(frozen=True)
class Pair:
    """Two nodes to compare, under the name to report; `made` are the numbers made of them, if the programs give these instead."""

    name: str
    a: str
    b: str
    stream: bool = False  # a sum, such as the residual stream
    made: tuple[str, str] | None = None

    @property
    def run(self) -> tuple[str, str, str]:
        """(name, node of a, node of b) of what runs compare: other tensors may make the same number."""
        return self.name, *(self.made or (self.a, self.b))


def candidates(a: Program, b: Program, every: bool = False) -> list[Pair]:
    """Pairs worth trying as cuts, in the order of both graphs; with `every`, all of equal address, not only residual writes and sums."""
    order_b = {name: i for i, name in enumerate(b.nodes)}
    order_a = {name: i for i, name in enumerate(a.nodes)}
    live_a, live_b = needed(a.outputs), needed(b.outputs)
    found: dict[tuple[str, str], Pair] = {}
    for address, site in b.sites_by_address.items():
        other = a.sites_by_address.get(address)
        if other is None or site.kind != "output" or other.kind != "output":
            continue
        x, y = a.nodes[other.node], b.nodes[site.node]
        stream = x.target in ADDITIVE or y.target in ADDITIVE
        # where the original only passes a value to the stream, the rewrite may compute it by a sum of terms: still a write
        writes = x.target not in ADDITIVE and _reaches_add(x)
        if x in live_a and y in live_b and x.op == y.op == "call_function" and floating(x) and floating(y) and (every or stream or writes):
            found.setdefault((x.name, y.name), Pair(address, x.name, y.name, x.target in ADDITIVE))
    pairs = sorted(found.values(), key=lambda p: order_b[p.b])
    return list(_increasing(pairs, order_a))


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
        if order_a[pair.a] >= last:
            last = order_a[pair.a]
            yield pair
