"""Rows and memory: how many rows of examples a program is for, and what one of them takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from rewrite import Program
from rewrite.run import needed


def fixed_rows(program: Program) -> int | None:
    """The number of rows that a program of static shape is for; None if it takes any."""
    first = next(program.nodes[node].meta["val"] for node, leaf in program.leaves.items() if leaf.kind == "input")
    size = first.shape[0]
    return size if isinstance(size, int) else None


def bytes_a_row(program: Program) -> int:
    """The most bytes that are alive at a time when one row of the example's other sizes runs."""
    sizes = _sizes(program)
    live = needed(program.outputs)
    last: dict[fx.Node, fx.Node] = {}
    order = [node for node in program.graph.nodes if node in live and node.op == "call_function"]
    for node in order:
        last.update(dict.fromkeys((n for n in node.all_input_nodes if n.op == "call_function"), node))
    alive: dict[fx.Node, int] = {}
    most = 1
    for node in order:
        alive[node] = _bytes(node, sizes)
        most = max(most, sum(alive.values()))
        for done in [n for n in alive if last.get(n) is node]:
            del alive[done]
    return most


def _sizes(program: Program) -> dict[Any, int]:
    """The example's sizes by symbol, with one row."""
    values = tree_leaves(program.example)
    nodes = [program.nodes[node] for node, leaf in program.leaves.items() if leaf.kind == "input" and not leaf.copy_of]
    found: dict[Any, int] = {}
    for value, node in zip(values, nodes, strict=True):
        if isinstance(value, Tensor):
            for axis, (size, symbol) in enumerate(zip(value.shape, node.meta["val"].shape, strict=True)):
                if isinstance(symbol, torch.SymInt):
                    found[symbol.node.expr] = 1 if axis == 0 else size
    return found


def _bytes(node: fx.Node, sizes: Mapping[Any, int]) -> int:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return 0
    count = 1
    for size in value.shape:
        count *= size if isinstance(size, int) else int(size.node.expr.subs(sizes))
    return count * value.element_size()
