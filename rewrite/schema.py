"""The JSON form of graphs, literals and trees: enough to write a program down, too little to make a reader run anything."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import fx

from rewrite.allowed import op, op_name
from rewrite.errors import FileError
from rewrite.records import Leaf, LeafKind

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}")
MOST_NODES, LARGEST = 1_000_000, 2**40
LEAF_KINDS: tuple[LeafKind, ...] = get_args(LeafKind)
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
        return {"device": "cpu"}  # a saved program is a CPU program: where it was does not matter where it is loaded
    for kind, name in KINDS:
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise FileError(f"save: expected plain literals in the graph, got {type(value).__name__}. Report the op that has it.")


def decode(value: Any, nodes: dict[str, fx.Node], where: str) -> Any:
    """The argument that a JSON form stands for; nodes must have come before.

    Raises: FileError for anything else.
    """
    if value is None or isinstance(value, bool | str) or (isinstance(value, float) and math.isfinite(value)):
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
        if not isinstance(content, str) or content not in nodes:
            raise bad(where, "a node that comes before", content)
        return nodes[content]
    if tag == "float" and isinstance(content, str) and content in ("inf", "-inf", "nan"):
        return float(content)
    if tag == "tuple" and isinstance(content, list):
        return tuple(decode(item, nodes, where) for item in content)
    if tag == "slice" and isinstance(content, list) and len(content) == 3:
        return slice(*(decode(item, nodes, where) for item in content))
    if tag == "device" and content == "cpu":
        return torch.device("cpu")
    if tag in SETTINGS and isinstance(content, str) and content in SETTINGS[tag]:
        return SETTINGS[tag][content]
    raise bad(where, "a literal or a tagged value", value)


# ---------------------------------------------------------------------------------------------------------------- graphs


def encode_graph(graph: fx.Graph, value: Callable[[fx.Node], Any] = lambda node: None) -> dict[str, Any]:
    """The JSON form of a graph: placeholders by name (with what `value` gives), ops by name, arguments as literals.

    Shapes are not written: those of ops follow from those of the placeholders. Raises: FileError for ops or literals that have no form.
    """
    scopes: dict[tuple[str, ...], int] = {}
    nodes = []
    for node in graph.nodes:
        if node.op == "output":
            continue
        entry: dict[str, Any] = {"name": node.name, "scope": scopes.setdefault(tuple(node.meta.get("scope", ())), len(scopes))}
        if node.op == "call_function":
            entry |= {"op": op_name(node.target), "args": [encode(arg) for arg in node.args]}
            if node.kwargs:
                entry["kwargs"] = {key: encode(arg) for key, arg in node.kwargs.items()}
        else:
            given = value(node)
            entry |= {} if given is None else {"value": given}
        nodes.append(entry)
    outputs = [encode(value) for value in graph.output_node().args[0]]  # type: ignore[union-attr]
    return {"nodes": nodes, "outputs": outputs, "scopes": [list(scope) for scope in scopes]}


def decode_graph(record: Any, value: Callable[[str, Any, str], Any], where: str) -> fx.Graph:
    """The graph; `value(name, given, where)` makes the fake value of a placeholder. Those of ops are left to the caller.

    Raises: FileError for names, ops or arguments that are not allowed.
    """
    entries = take(record, "nodes", list, where)
    scopes = [_tags(scope, where) for scope in take(record, "scopes", list, where)]
    if len(entries) > MOST_NODES:
        raise bad(where, f"at most {MOST_NODES} nodes", len(entries))
    graph, nodes = fx.Graph(), {}
    for entry in entries:
        name = take(entry, "name", str, where)
        here = f"{where}, node {name[:60]!r}"
        if not NAME.fullmatch(name) or keyword.iskeyword(name) or name in nodes:
            raise bad(where, "a node name of its own", name)
        node = _decode_op(graph, entry, nodes, here) if "op" in entry else _decode_placeholder(graph, entry, value, here)
        if node.name != name:
            raise bad(where, "a node name that Python leaves free", name)
        number = take(entry, "scope", int, here)
        if not 0 <= number < len(scopes):
            raise bad(here, "a known scope", number)
        node.meta["scope"] = scopes[number]
        nodes[name] = node
    graph.output(tuple(decode(output, nodes, f"{where}, outputs") for output in take(record, "outputs", list, where)))
    return graph


def _decode_op(graph: fx.Graph, entry: dict[str, Any], nodes: dict[str, fx.Node], where: str) -> fx.Node:
    target = op(take(entry, "op", str, where))
    args = tuple(decode(arg, nodes, where) for arg in take(entry, "args", list, where))
    given = take(entry, "kwargs", dict, where) if "kwargs" in entry else {}
    if not all(NAME.fullmatch(key) and not keyword.iskeyword(key) for key in given):
        raise bad(where, "argument names", sorted(given))
    kwargs = {key: decode(arg, nodes, where) for key, arg in given.items()}
    return graph.create_node("call_function", target, args, kwargs, name=entry["name"])


def _decode_placeholder(graph: fx.Graph, entry: dict[str, Any], value: Callable[[str, Any, str], Any], where: str) -> fx.Node:
    last = next(reversed(graph.nodes), None)
    if last is not None and last.op != "placeholder":
        raise bad(where, "placeholders before ops", entry["name"])
    node = graph.placeholder(entry["name"])
    node.target = node.name
    node.meta["val"] = value(entry["name"], entry.get("value"), where)
    return node


def _tags(scope: Any, where: str) -> tuple[str, ...]:
    if not isinstance(scope, list) or not all(isinstance(tag, str) for tag in scope):
        raise bad(where, "scopes that are lists of names", scope)
    return tuple(scope)


# ---------------------------------------------------------------------------------------------------------------- leaves


def encode_leaves(leaves: dict[str, Leaf]) -> list[Any]:
    """The JSON form of a program's leaves."""
    return [[node, leaf.kind, leaf.name, leaf.persistent, *([leaf.copy_of] if leaf.copy_of else [])] for node, leaf in leaves.items()]


def decode_leaves(record: Any, where: str) -> dict[str, Leaf]:
    """The leaves in their order, each of a name of its own.

    Raises: FileError.
    """
    leaves: dict[str, Leaf] = {}
    last = 0
    for row in take(record, "leaves", list, where):
        texts = [*row[:3], *row[4:]] if isinstance(row, list) and len(row) in (4, 5) else [None]
        if not (all(isinstance(part, str) for part in texts) and isinstance(row[3], bool)):
            raise bad(where, "leaves as [node, kind, name, persistent], of a copy also the original's name", row)
        node, kind, name, persistent = row[:4]
        if kind not in LEAF_KINDS or LEAF_KINDS.index(kind) < last:
            raise bad(where, f"leaves in the order {', '.join(LEAF_KINDS)}", row)
        last = LEAF_KINDS.index(kind)
        leaves[node] = Leaf(kind, name, persistent, *row[4:])
    if len({leaf.name for leaf in leaves.values()}) != len(record["leaves"]):
        raise bad(where, "leaves with names of their own", "one twice")
    inputs = {leaf.name for leaf in leaves.values() if leaf.kind == "input" and not leaf.copy_of}
    strays = [leaf.name for leaf in leaves.values() if leaf.copy_of and (leaf.kind != "input" or leaf.copy_of not in inputs)]
    if strays:
        raise bad(where, "copies of the model's own inputs", strays[0])
    return leaves
