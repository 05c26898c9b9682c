"""Equations: claims in words, as reports print them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from rewrite.program import Program
from rewrite.records import Claim
from verify.claims import term_nodes

LONGEST = 90  # characters of an equation
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@"}


def equation(program: Program, claim: Claim) -> str:
    """The claim's equation as text: terms by their addresses, weights by their names, other values by their nodes."""
    names = {}
    for placeholder, (kind, what) in claim.bindings.items():
        term = next((address for address in claim.reads if what in term_nodes(program, address)), None)
        leaf = program.leaves.get(what)
        names[placeholder] = "i" if kind == "member" else f"any({what})" if kind == "fresh" else term or (leaf.name if leaf else what)
    for placeholder, swaps in claim.swaps.items():
        leaves = {node: program.leaves[node].name if node in program.leaves else node for node in swaps}
        names[placeholder] += f"[{', '.join(f'{leaves[node]} := {names[other]}' for node, other in swaps.items())}]"
    left, right = claim.graph.output_node().args[0]  # type: ignore[misc]
    text = f"{_expression(left, names, 3)} = {_expression(right, names, 3)}"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _expression(value: Any, names: dict[str, str], depth: int) -> str:
    if not isinstance(value, fx.Node):
        return str(value)
    if value.op == "placeholder":
        return names.get(value.name, value.name)
    name = getattr(getattr(value.target, "overloadpacket", value.target), "__name__", str(value.target))
    if name in ("full_like", "zeros_like", "full"):
        filled = [a for a in value.args[1:] if isinstance(a, (int, float))]
        return f"{filled[0]:g}" if filled else "0"
    inner = [
        a
        for a in value.args
        if isinstance(a, (fx.Node, list, tuple)) and (isinstance(a, fx.Node) or any(isinstance(x, fx.Node) for x in a))
    ]
    if not depth:
        return f"{name}(...)"
    shown = [
        _expression(x, names, depth - 1)
        for a in inner
        for x in (a if isinstance(a, (list, tuple)) else [a])
        if isinstance(getattr(x, "meta", {}).get("val"), Tensor)
    ]
    if name in OPERATORS and len(shown) == 2:
        return f"({shown[0]} {OPERATORS[name]} {shown[1]})"
    return f"{name}({', '.join(shown)})"
