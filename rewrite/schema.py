"""The JSON form of graphs, literals and trees: enough to write a program down, too little to make a reader run anything."""

from __future__ import annotations

import keyword
import math
import re
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.allowed import op, op_name
from rewrite.errors import FileError
from rewrite.records import Leaf

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}\Z")
MOST_NODES, LARGEST = 2_000_000, 2**40
SETTINGS: dict[str, dict[str, Any]] = {
    "dtype": {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
    "layout": {str(value).removeprefix("torch."): value for value in (torch.strided,)},
    "memory": {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.memory_format)},
}
KINDS = ((torch.dtype, "dtype"), (torch.layout, "layout"), (torch.memory_format, "memory"))


def bad(where: str, expected: str, found: Any) -> FileError:
    """The error for something in a file that is not what it should be."""
    text = repr(found)
    return FileError(f"{where}: expected {expected}, got {text if len(text) < 80 else text[:77] + '...'}. The file is broken or not ours.")


def take(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`record[key]`, of that type. Raises: FileError."""
    if not isinstance(record, dict) or key not in record:
        raise bad(where, f"a field {key!r}", sorted(record)[:8] if isinstance(record, dict) else record)
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise bad(f"{where}, {key}", getattr(kind, "__name__", str(kind)), value)
    return value


# ---------------------------------------------------------------------------------------------------------------- literals


def encode(value: Any) -> Any:
    """The JSON form of an op's argument.

    Raises: FileError for a value that has none.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, slice):
        return {"slice": [encode(value.start), encode(value.stop), encode(value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, name in KINDS:
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise FileError(f"save: expected plain literals in the graph, got {type(value).__name__}. Report the op that has it.")


def decode(value: Any, nodes: dict[str, fx.Node], where: str) -> Any:
    """The argument that a JSON form stands for; nodes must have come before.

    Raises: FileError for anything else.
    """
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST and abs(value) not in (2**63 - 1, 2**63):
            raise bad(where, f"numbers up to 2^{LARGEST.bit_length() - 1}", value)
        return value
    if isinstance(value, list):
        return [decode(item, nodes, where) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise bad(where, "a literal or a tagged value", value)
    (tag, content), *_ = value.items()
    if tag == "node":
        if content not in nodes:
            raise bad(where, "a node that comes before", content)
        return nodes[content]
    if tag == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if tag == "tuple" and isinstance(content, list):
        return tuple(decode(item, nodes, where) for item in content)
    if tag == "slice" and isinstance(content, list) and len(content) == 3:
        return slice(*(decode(item, nodes, where) for item in content))
    if tag == "device" and isinstance(content, str) and re.fullmatch(r"(cpu|cuda|mps|meta|xpu)(:\d{1,3})?", content):
        return torch.device(content)
    if tag in SETTINGS and content in SETTINGS[tag]:
        return SETTINGS[tag][content]
    raise bad(where, "a literal or a tagged value", value)


# ---------------------------------------------------------------------------------------------------------------- graphs


def encode_graph(graph: fx.Graph) -> dict[str, Any]:
    """The JSON form of a graph: placeholders by name and shape, ops by name, arguments as literals. Other shapes follow from these."""
    scopes: dict[tuple[str, ...], int] = {}
    nodes = []
    for node in graph.nodes:
        scope = scopes.setdefault(tuple(node.meta.get("scope", ())), len(scopes))
        if node.op == "placeholder":
            nodes.append({"name": node.name, "value": encode_value(node.meta.get("val")), "scope": scope})
        elif node.op == "call_function":
            entry = {"name": node.name, "op": op_name(node.target), "args": [encode(a) for a in node.args], "scope": scope}
            nodes.append({**entry, "kwargs": {k: encode(v) for k, v in node.kwargs.items()}} if node.kwargs else entry)
    return {"nodes": nodes, "outputs": [encode(value) for value in graph.output_node().args[0]], "scopes": [list(s) for s in scopes]}  # type: ignore[union-attr]


def encode_value(value: Any) -> Any:
    """The JSON form of a placeholder's fake value: dtype, shape (numbers and names of sizes), strides if they are not plain, device."""
    if not isinstance(value, Tensor):
        return {"plain": encode(value) if isinstance(value, int | float | str | bool | None) else None}
    sizes = [size if isinstance(size, int) else str(size) for size in value.shape]
    for size in sizes:
        if isinstance(size, str) and not NAME.match(size):
            raise FileError(f"save: expected input sizes that are numbers or names, got {size}. Trace with simpler dynamic shapes.")
    record: dict[str, Any] = {"dtype": str(value.dtype).removeprefix("torch."), "shape": sizes, "device": str(value.device)}
    if all(isinstance(size, int) for size in sizes) and not value.is_contiguous():
        record["stride"] = [int(step) for step in value.stride()]
    return record


def decode_graph(record: Any, make: Any, where: str) -> fx.Graph:
    """The graph; `make(record, where)` gives the fake value of a placeholder. Fake values of ops are filled in by the caller.

    Raises: FileError for names, ops or arguments that are not allowed.
    """
    entries = take(record, "nodes", list, where)
    scopes = [_tags(scope, where) for scope in take(record, "scopes", list, where)]
    if len(entries) > MOST_NODES:
        raise bad(where, f"at most {MOST_NODES} nodes", len(entries))
    graph, nodes, past_leaves = fx.Graph(), {}, False
    for entry in entries:
        name = take(entry, "name", str, where)
        here = f"{where}, node {name!r}"
        if not NAME.match(name) or keyword.iskeyword(name) or name in nodes:
            raise bad(where, "a node name of its own", name)
        if "op" in entry:
            past_leaves = True
            target = op(take(entry, "op", str, here))
            args = tuple(decode(arg, nodes, here) for arg in take(entry, "args", list, here))
            kwargs = {str(k): decode(v, nodes, here) for k, v in entry.get("kwargs", {}).items()} if isinstance(entry.get("kwargs", {}), dict) else {}
            if not all(NAME.match(k) and not keyword.iskeyword(k) for k in kwargs):
                raise bad(here, "argument names", sorted(kwargs))
            node = graph.create_node("call_function", target, args, kwargs, name=name)
        elif past_leaves:
            raise bad(here, "placeholders before ops", name)
        else:
            node = graph.placeholder(name)
            node.target = node.name
            node.meta["val"] = make(entry.get("value"), here)
        if node.name != name:
            raise bad(where, "a node name that Python can use", name)
        number = take(entry, "scope", int, here)
        if not 0 <= number < len(scopes):
            raise bad(here, "a known scope", number)
        node.meta["scope"] = scopes[number]
        nodes[name] = node
    outputs = [decode(value, nodes, f"{where}, outputs") for value in take(record, "outputs", list, where)]
    graph.output(tuple(outputs))
    return graph


def _tags(scope: Any, where: str) -> tuple[str, ...]:
    if not isinstance(scope, list) or not all(isinstance(tag, str) for tag in scope):
        raise bad(where, "scopes that are lists of names", scope)
    return tuple(scope)


def encode_leaves(leaves: dict[str, Leaf]) -> list[Any]:
    """The JSON form of a program's leaves."""
    return [[node, leaf.kind, leaf.name, leaf.persistent] for node, leaf in leaves.items()]


def decode_leaves(record: Any, graph: fx.Graph, where: str) -> dict[str, Leaf]:
    """The leaves, one for each placeholder, in graph order.

    Raises: FileError.
    """
    kinds = ("parameter", "buffer", "constant", "gate", "input")
    if not isinstance(record, list):
        raise bad(where, "a list of leaves", record)
    leaves: dict[str, Leaf] = {}
    last = 0
    for row in record:
        if not (isinstance(row, list) and len(row) == 4 and isinstance(row[0], str) and row[1] in kinds and isinstance(row[2], str)):
            raise bad(where, "leaves as [node, kind, name, persistent]", row)
        if kinds.index(row[1]) < last:
            raise bad(where, f"leaves in the order {', '.join(kinds)}", row)
        last = kinds.index(row[1])
        leaves[row[0]] = Leaf(row[1], row[2], bool(row[3]))
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    if list(leaves) != placeholders:
        raise bad(where, "one leaf for each placeholder, in order", sorted(set(leaves) ^ set(placeholders))[:4] or "another order")
    return leaves
