"""Showing: programs, sites and costs as stable text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from rewrite.address import matching
from rewrite.records import Site, SiteKind
from rewrite.run import needed

if TYPE_CHECKING:
    from rewrite.program import Program


@dataclass(frozen=True)
class Row:
    """One site in a table; `readers` is how many nodes read it."""

    address: str
    kind: SiteKind
    shape: str
    readers: int


class SiteTable(Sequence[Row]):
    """Sites as rows; prints as an aligned table."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = tuple(rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __str__(self) -> str:
        if not self._rows:
            return "no sites"
        width = max(len(row.address) for row in self._rows)
        lines = [f"{row.address:<{width}}  {row.kind:<6}  {row.shape}{'' if row.readers else '  (nobody reads it)'}" for row in self._rows]
        return "\n".join(lines)


def site_table(program: Program, glob: str, kind: SiteKind | None) -> SiteTable:
    """The sites that `glob` matches, in the order of their addresses in the program."""
    known = program.sites_by_address
    found = [known[address] for address in ([glob] if glob in known else matching(glob, known))]
    return SiteTable([_row(program, site) for site in found if kind in (None, site.kind)])


def _row(program: Program, site: Site) -> Row:
    from rewrite.readers import reads

    node = program.nodes[site.node]
    return Row(site.address, site.kind, shape_text(node), sum(reads(user, site) for user in node.users))


def shape_text(node: fx.Node) -> str:
    """A node's shape, symbols as they are."""
    value = node.meta.get("val")
    return "[" + ", ".join(str(size) for size in value.shape) + "]" if isinstance(value, Tensor) else type(value).__name__


def listing(program: Program) -> str:
    """The program as text: header, history, and every node that the outputs need with the sites that it carries."""
    header = program.header
    lines = [f"program of {header.model}; dynamic: {header.dynamic}; " + "; ".join(f"{k}: {v}" for k, v in header.checks.items())]
    lines += [f"  note: {note}" for note in (*header.switches, *header.notes)]
    for number, step in enumerate(program.steps):
        arguments = ", ".join(f"{k}={v}" for k, v in step.arguments.items())
        lines.append(f"step {number}: {step.name}({arguments}) at {', '.join(step.sites)}")
        lines += [f"  skipped {site}: {reason}" for site, reason in step.skipped.items()]
    carried: dict[str, list[str]] = {}
    for site in program.sites_by_address.values():
        carried.setdefault(site.node, []).append(site.address)
    live = needed(program.outputs)
    lines += [_line(program, node, carried.get(node.name, [])) for node in program.graph.nodes if node in live or node.name in carried]
    lines.append(f"return {', '.join(f'{name}={value}' if name else str(value) for name, value in _named_outputs(program))}")
    return "\n".join(lines)


def _named_outputs(program: Program) -> list[tuple[str, Any]]:
    return list(zip(program.calling.outputs, program.outputs, strict=True))


def _line(program: Program, node: fx.Node, addresses: list[str]) -> str:
    marks = f"    # {', '.join(addresses)}" if addresses else ""
    if node.op == "placeholder":
        leaf = program.leaves[node.name]
        return f"{node.name} = {leaf.kind} {leaf.name} {shape_text(node)}{marks}"
    name = (
        str(node.target).removeprefix("aten.").removesuffix(".default")
        if "aten" in str(node.target)
        else getattr(node.target, "__name__", "?")
    )
    arguments = [str(a) for a in node.args] + [f"{k}={v}" for k, v in node.kwargs.items()]
    return f"{node.name} = {name}({', '.join(arguments)}){marks}"


@dataclass(frozen=True)
class Cost:
    """What one run on the example takes. Units: bytes, floating point operations."""

    parameters: int
    parameter_bytes: int
    nodes: int
    flops: int

    def __str__(self) -> str:
        size = f"{self.parameters:,} parameters ({self.parameter_bytes / 2**20:,.1f} MiB)"
        return f"{size}, {self.nodes:,} nodes, {self.flops / 1e9:.3f} GFLOP on the example"


def cost(program: Program) -> Cost:
    """What one run on the example takes."""
    unique = {id(t): t for name, t in program.tensors.items()}.values()
    live = sum(node.op == "call_function" for node in needed(program.outputs))
    args, kwargs = program.example
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        program(*args, **kwargs)
    return Cost(sum(t.numel() for t in unique), sum(t.numel() * t.element_size() for t in unique), live, counter.get_total_flops())
