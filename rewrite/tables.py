"""The tables of a loaded program: sites, families, splits, gates, steps and claims, each held against the graph that it speaks of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, fx

from rewrite.derive import derive
from rewrite.errors import PassError
from rewrite.program import Program
from rewrite.records import Claim, FamilyRecord, GateRecord, Site, SiteKind, SplitRecord, Step
from rewrite.schema import bad, decode_graph, take
from rewrite.sizes import Sizes
from rewrite.terms import axis_dims, check_equation

Made = TypeVar("Made")
TEXTS = ("texts", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value))
TEXT = ("text", lambda value: isinstance(value, str))
NUMBER = ("number", lambda value: type(value) is int)
NUMBER_OR_NONE = ("number or null", lambda value: value is None or type(value) is int)
TABLE = ("table of texts", lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()))
Fields = dict[str, tuple[str, Callable[[Any], bool]]]

FAMILY: Fields = {"address": TEXT, "equation": TEXT, "operands": TEXTS, "axis": TEXT, "act": NUMBER, "total": TEXT, "size": NUMBER}
SPLIT: Fields = {"site": TEXT, "whole": TEXT, "total": TEXT, "terms": TEXTS, "step": NUMBER}
GATE: Fields = {"address": TEXT, "g": TEXT, "h": TEXT, "r": TEXT, "size": NUMBER_OR_NONE}
STEP: Fields = {"name": TEXT, "arguments": TABLE, "sites": TEXTS, "skipped": TABLE}
CLAIM: Fields = {
    "sentence": TEXT,
    "site": TEXT,
    "step": NUMBER,
    "reads": TEXTS,
    "graph": NUMBER,
    "bindings": ("table", lambda v: isinstance(v, dict)),
    "swaps": ("table of tables of texts", lambda v: isinstance(v, dict) and all(TABLE[1](swaps) for swaps in v.values())),
}


def with_tables(program: Program, record: Any, sizes: Sizes, where: str) -> Program:
    """`program` with the tables of its record. Raises: FileError for one that speaks of what is not there."""
    program = replace(program, sites_by_address=_sites(record, set(program.nodes), where))
    nodes, addresses, tensors = set(program.nodes), set(program.sites_by_address), set(program.tensors)
    families = _rows(record, "families", FamilyRecord, FAMILY, lambda f: _is_family(f, program), where)
    splits = _rows(record, "splits", SplitRecord, SPLIT, lambda s: {s.whole, s.total} <= nodes and set(s.terms) <= addresses, where)
    gates = _rows(record, "gates", GateRecord, GATE, lambda g: {g.g, g.h, g.r} <= tensors, where)
    steps = _rows(record, "steps", Step, STEP, lambda s: True, where)
    program = replace(
        program,
        families={family.address: family for family in families},
        splits=tuple(splits),
        gate_records={gate.address: gate for gate in gates},
        steps=tuple(steps),
    )
    return replace(program, claims=tuple(_claims(record, program, sizes, where)))


def _sites(record: Any, nodes: set[str], where: str) -> dict[str, Site]:
    found: dict[str, Site] = {}
    for row in take(record, "sites", list, where):
        fits = isinstance(row, list) and len(row) == 4 and all(isinstance(part, str) for part in row[:3])
        if not fits or row[1] not in nodes or row[2] not in get_args(SiteKind) or not isinstance(row[3], str | None) or row[0] in found:
            raise bad(where, "sites as [address, node, kind, scope]", row)
        found[row[0]] = Site(*row)
    return found


def _rows(record: Any, key: str, make: Callable[..., Made], fields: Fields, check: Callable[[Made], bool], where: str) -> list[Made]:
    made = []
    for row in take(record, key, list, where):
        _check_fields(row, fields, f"{where}, {key}")
        one = make(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
        if not check(one):
            raise bad(f"{where}, {key}", "a record that speaks of nodes and tensors that exist", row)
        made.append(one)
    return made


def _check_fields(row: Any, fields: Fields, where: str) -> None:
    if not isinstance(row, dict) or set(row) != set(fields):
        raise bad(where, f"the fields {', '.join(fields)}", row)
    for name, (kind, fits) in fields.items():
        if not fits(row[name]):
            raise bad(f"{where}, {name}", kind, row[name])


def _is_family(family: FamilyRecord, program: Program) -> bool:
    """Whether the record fits its nodes: an einsum over them, whose axis has the size that it says."""
    if not all(name in program.nodes for name in (*family.operands, family.total)) or family.address not in program.sites_by_address:
        return False
    try:
        check_equation(family.equation, len(family.operands), family.axis, family.act if 0 <= family.act < len(family.operands) else None)
    except PassError:
        return False
    values = [program.nodes[name].meta["val"] for name in family.operands]
    dims = zip(values, axis_dims(family.equation, family.axis), strict=True)
    return all(
        isinstance(value, Tensor) and (dim is None or (-value.dim() <= dim < value.dim() and value.shape[dim] == family.size))
        for value, dim in dims
    )


# ---------------------------------------------------------------------------------------------------------------- claims


def _claims(record: Any, program: Program, sizes: Sizes, where: str) -> list[Claim]:
    written = take(record, "claim_graphs", list, where)
    graphs: dict[int, fx.Graph] = {}
    claims = []
    for row in take(record, "claims", list, where):
        here = f"{where}, claims"
        row = {"swaps": {}, **row} if isinstance(row, dict) else row
        _check_fields(row, CLAIM, here)
        values = {name: _bound_value(pair, program, sizes, here) for name, pair in row["bindings"].items()}
        number = row["graph"]
        if not 0 <= number < len(written) or not all(term in program.sites_by_address for term in row["reads"]):
            raise bad(here, "a claim about terms that exist", row)
        if number not in graphs:
            graphs[number] = _claim_graph(written[number], values, sizes, f"{where}, claim graph {number}")
        _check_bindings(graphs[number], values, here)
        bindings = {name: (kind, what) for name, (kind, what) in row["bindings"].items()}
        _check_swaps(row["swaps"], bindings, program, here)
        claims.append(Claim(row["sentence"], row["site"], row["step"], graphs[number], bindings, tuple(row["reads"]), row["swaps"]))
    if len(graphs) != len(written):
        raise bad(where, "claim graphs that a claim speaks of", sorted(set(range(len(written))) - set(graphs))[:4])
    return claims


def _bound_value(pair: Any, program: Program, sizes: Sizes, where: str) -> Any:
    """The fake value of what a claim's placeholder is bound to. Raises: FileError."""
    if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
        kind, what = pair
        if kind in ("node", "fresh") and what in program.nodes:
            return program.nodes[what].meta["val"]
        if kind == "member" and what in program.families:
            with sizes.mode:
                return torch.empty((), dtype=torch.int64)
    raise bad(where, "placeholders bound to nodes, or to members of families, that exist", pair)


def _claim_graph(record: Any, values: dict[str, Any], sizes: Sizes, where: str) -> fx.Graph:
    def value(name: str, given: Any, here: str) -> Any:
        if name not in values or given is not None:
            raise bad(here, "a placeholder that the claim binds", name)
        return values[name]

    graph = decode_graph(record, value, where)
    derive(graph, sizes, where)
    sides: Any = graph.output_node().args[0]
    if len(sides) != 2 or not all(isinstance(side, fx.Node) and isinstance(side.meta.get("val"), Tensor) for side in sides):
        raise bad(where, "the two sides of an equation", sides)
    return graph


def _check_bindings(graph: fx.Graph, values: dict[str, Any], where: str) -> None:
    """Claims that share a graph speak of values of the same shapes. Raises: FileError."""
    placeholders = {node.name: node.meta["val"] for node in graph.nodes if node.op == "placeholder"}
    if set(placeholders) != set(values) or any(_kind(like) != _kind(values[name]) for name, like in placeholders.items()):
        raise bad(where, "values of the shapes of the claim's graph", sorted(values))


def _check_swaps(swaps: dict[str, dict[str, str]], bindings: dict[str, tuple[str, str]], program: Program, where: str) -> None:
    """What is computed once more is a node, with values of the same kind, computed once, in the place of nodes. Raises: FileError."""
    for name, swapped in swaps.items():
        if bindings.get(name, ("", ""))[0] != "node":
            raise bad(where, "swaps of placeholders bound to nodes", name)
        for node, other in swapped.items():
            kind, what = bindings.get(other, ("", ""))
            if node not in program.nodes or kind not in ("node", "fresh") or other in swaps:
                raise bad(where, "nodes, and placeholders whose values take their place", [node, other])
            if _kind(program.nodes[node].meta["val"]) != _kind(program.nodes[what].meta["val"]):
                raise bad(where, "values of one shape and type for each other", [node, other])


def _kind(value: Any) -> tuple[str, ...]:
    return (str(tuple(value.shape)), str(value.dtype)) if isinstance(value, Tensor) else (type(value).__name__, str(value))
