"""Loading: from a folder to a program, without running anything that the folder says.

Everything is checked against the schema first; shapes of ops are not read but derived again on tensors without data, so a file cannot
lie about them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._pytree import tree_flatten

from rewrite.errors import FileError, PassError
from rewrite.program import Program
from rewrite.records import Calling, Claim, FamilyRecord, GateRecord, Header, Site, SplitRecord, Step
from rewrite.save import FORMAT, MAIN, file_hash
from rewrite.schema import NAME, SETTINGS, bad, decode_graph, decode_leaves, take
from rewrite.terms import check_equation
from rewrite.trees import decode_spec, decode_values

LARGEST_DIMENSION, LARGEST_TENSOR, MOST_PIECES = 2**40, 2**48, 65_536


def load(directory: str | os.PathLike[str]) -> Program:
    """The program saved in a folder, with its origin; nothing of it is run.

    Raises: FileError for a folder that is missing, broken, or not to be trusted.
    """
    folder = Path(directory)
    record = _read(folder)
    where = str(folder / MAIN)
    tensors = _tensors(folder, record, where)
    shapes = Shapes()
    calling = _calling(take(record, "calling", dict, where), where)
    header = _header(take(record, "header", dict, where), where)
    example = decode_values(record.get("example"), tensors.get, f"{where}, example")
    if not (isinstance(example, list) and len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], dict)):
        raise bad(where, "an example of arguments", example)
    shapes.hints = _hints(example, record, where)
    common = (calling, header, (example[0], example[1]))
    origin = None
    if record.get("origin") is not None:
        origin = decode_program(record["origin"], tensors, shapes, common, None, f"{where}, origin")
    return decode_program(take(record, "program", dict, where), tensors, shapes, common, origin, f"{where}, program")


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MAIN
    try:
        record = json.loads(path.read_text())
    except OSError:
        raise FileError(f"load {folder}: expected a folder with {MAIN}, got none that can be read. Save a program there first.") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: expected JSON, got something else ({str(error)[:60]}). The file is broken or not ours.") from None
    number = take(record, "format", int, str(path))
    if number != FORMAT:
        raise FileError(
            f"{path}: expected format {FORMAT}, got {number}. Load it with the tautomer that wrote it: {str(record.get('tautomer'))[:20]}."
        )
    return record


# ---------------------------------------------------------------------------------------------------------------- tensors


class LoadedTensors:
    """The tensors of the weights file; parameters are made once, so that tied ones stay tied."""

    def __init__(self, tensors: dict[str, Tensor], where: str):
        self._tensors, self._where = tensors, where
        self._parameters: dict[str, nn.Parameter] = {}

    def get(self, key: str) -> Tensor:
        """The tensor stored under `key`. Raises: FileError."""
        if key not in self._tensors:
            raise bad(self._where, f"a tensor called {key!r} in the weights file", "none")
        return self._tensors[key]

    def parameter(self, key: str) -> Tensor:
        """The same as a parameter."""
        if key not in self._parameters:
            tensor = self.get(key)
            self._parameters[key] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        return self._parameters[key]


def _tensors(folder: Path, record: dict[str, Any], where: str) -> LoadedTensors:
    weights = take(record, "weights", dict, where)
    name, digest = take(weights, "file", str, where), take(weights, "sha256", str, where)
    if not re.fullmatch(r"model-[0-9a-f]{8}\.safetensors", name):
        raise bad(where, "a weights file called model-<hash>.safetensors in the same folder", name)
    path = folder / name
    if not path.is_file():
        raise FileError(f"{path}: expected the weights file that {MAIN} names, got none. Copy the whole folder.")
    if file_hash(path) != digest:
        raise FileError(f"{path}: expected the content that {MAIN} names (SHA-256), got another one. The file is broken or was replaced.")
    try:
        # a copy is aligned as torch aligns; matrix products round differently on the packed file's memory
        tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(f"{path}: expected a safetensors file, got something else ({str(error)[:60]}).") from None
    for key, like in take(weights, "tensors", dict, where).items():
        found = tensors.get(key)
        told = (take(like, "dtype", str, where), take(like, "shape", list, where))
        held = None if found is None else (str(found.dtype).removeprefix("torch."), list(found.shape))
        if held is None or told != held:
            raise bad(f"{path}, {key!r}", f"{told[0]} {told[1]}", f"{held[0]} {held[1]}" if held else "no such tensor")
    return LoadedTensors(tensors, where)


# ---------------------------------------------------------------------------------------------------------------- shapes


class Shapes:
    """The shape world of a loaded program: named sizes are symbols, ops are run on tensors without data."""

    def __init__(self) -> None:
        self.environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=False)
        self.hints: dict[str, int] = {}
        self._symbols: dict[str, Any] = {}

    def size(self, size: Any, where: str) -> Any:
        """A number, or the symbol of that name. Raises: FileError."""
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= LARGEST_DIMENSION:
            return size
        if not isinstance(size, str) or not NAME.match(size):
            raise bad(where, "sizes that are numbers or names", size)
        if size not in self._symbols:
            hint, source = self.hints.get(size, 7), ConstantSource(size)
            symbol = self.environment.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC, do_not_specialize_zero_one=True)
            self._symbols[size] = self.environment.create_symintnode(symbol, hint=hint, source=source)
        return self._symbols[size]

    def placeholder(self, record: Any, where: str) -> Any:
        """The fake value of a placeholder. Raises: FileError."""
        if isinstance(record, dict) and set(record) == {"plain"}:
            return record["plain"]
        dtype = SETTINGS["dtype"].get(take(record, "dtype", str, where))
        sizes = [self.size(size, where) for size in take(record, "shape", list, where)]
        device = take(record, "device", str, where)
        known = [size for size in sizes if isinstance(size, int)]
        if (
            dtype is None
            or len(sizes) > 64
            or _product(known) > LARGEST_TENSOR
            or not re.fullmatch(r"(cpu|cuda|mps|meta|xpu)(:\d{1,3})?", device)
        ):
            raise bad(where, "a tensor of a known dtype, sensible size and device", record)
        with self.mode:
            return torch.empty(sizes, dtype=dtype, device=device)

    def fill(self, graph: fx.Graph, where: str) -> None:
        """Derives the fake value of every op. Raises: FileError where an op does not fit its arguments."""
        values: dict[fx.Node, Any] = {node: node.meta["val"] for node in graph.nodes if node.op == "placeholder"}
        with self.mode, torch.no_grad():
            for node in graph.nodes:
                if node.op != "call_function":
                    continue
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])  # type: ignore[misc]
                self._check(node, args, where)
                try:
                    node.meta["val"] = values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                except Exception as error:
                    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    raise bad(f"{where}, node {node.name!r}", "arguments that fit its op", text) from None

    def _check(self, node: fx.Node, args: Any, where: str) -> None:
        """Stops an op that would return more pieces than memory holds."""
        schema = getattr(node.target, "_schema", None)
        if schema is not None and any("[]" in str(result.type) or "List" in str(result.type) for result in schema.returns):
            for value in args:
                if isinstance(value, Tensor) and any(isinstance(size, int) and size > MOST_PIECES for size in value.shape):
                    raise bad(f"{where}, node {node.name!r}", f"at most {MOST_PIECES} pieces", tuple(value.shape))


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _hints(example: list[Any], record: dict[str, Any], where: str) -> dict[str, int]:
    """What the named sizes are in the example."""
    flat = tree_flatten((example[0], example[1]))[0]
    program = take(record, "program", dict, where)
    nodes = {n.get("name"): n for n in take(take(program, "graph", dict, where), "nodes", list, where) if isinstance(n, dict)}
    inputs = [row[0] for row in take(program, "leaves", list, where) if isinstance(row, list) and len(row) == 4 and row[1] == "input"]
    found: dict[str, int] = {}
    for value, name in zip(flat, inputs, strict=False):
        like = nodes.get(name, {}).get("value")
        if isinstance(value, Tensor) and isinstance(like, dict) and isinstance(like.get("shape"), list):
            found.update({size: n for size, n in zip(like["shape"], value.shape, strict=False) if isinstance(size, str)})
    return found


# ---------------------------------------------------------------------------------------------------------------- programs


def decode_program(record: Any, tensors: LoadedTensors, shapes: Shapes, common: Any, origin: Program | None, where: str) -> Program:
    """One program. Raises: FileError."""
    graph = decode_graph(take(record, "graph", dict, where), shapes.placeholder, where)
    leaves = decode_leaves(take(record, "leaves", list, where), graph, where)
    keys = take(record, "tensors", dict, where)
    held: dict[str, Tensor] = {}
    for leaf in leaves.values():
        if leaf.kind != "input":
            key = take(keys, leaf.name, str, f"{where}, tensors")
            held[leaf.name] = tensors.parameter(key) if leaf.kind == "parameter" else tensors.get(key)
    _check_leaves(graph, leaves, held, where)
    shapes.fill(graph, where)
    nodes = {node.name for node in graph.nodes}
    calling, header, example = common
    made = Program(graph, leaves, held, calling, header, example, _sites(record, nodes, where), traced_from=origin)
    return _with_tables(made, record, shapes, nodes, where)


def _check_leaves(graph: fx.Graph, leaves: dict[str, Any], held: dict[str, Tensor], where: str) -> None:
    for node in graph.nodes:
        leaf = leaves.get(node.name)
        if leaf is None or leaf.kind == "input":
            continue
        like, tensor = node.meta["val"], held[leaf.name]
        gate = leaf.kind == "gate"  # a gate may have been set to a tensor of another shape
        if not isinstance(like, Tensor) or like.dtype != tensor.dtype or (not gate and tuple(like.shape) != tuple(tensor.shape)):
            raise bad(
                f"{where}, leaf {leaf.name!r}",
                f"{tensor.dtype} {list(tensor.shape)}",
                like if not isinstance(like, Tensor) else f"{like.dtype} {list(like.shape)}",
            )


def _sites(record: Any, nodes: set[str], where: str) -> dict[str, Site]:
    kinds = ("output", "input", "term", "family", "part", "path")
    found: dict[str, Site] = {}
    for row in take(record, "sites", list, where):
        fits = isinstance(row, list) and len(row) == 4 and isinstance(row[0], str) and row[1] in nodes and row[2] in kinds
        if not fits or not (row[3] is None or isinstance(row[3], str)):
            raise bad(where, "sites as [address, node, kind, scope]", row)
        found[row[0]] = Site(*row)
    return found


def _rows(record: Any, key: str, make: Callable[..., Any], check: Callable[[Any], bool], where: str) -> list[Any]:
    made = []
    for row in take(record, key, list, where):
        try:
            one = make(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
        except (TypeError, AttributeError):
            raise bad(f"{where}, {key}", "a record of known fields", row) from None
        if not check(one):
            raise bad(f"{where}, {key}", "a record that speaks of nodes and tensors that exist", row)
        made.append(one)
    return made


def _with_tables(program: Program, record: Any, shapes: Shapes, nodes: set[str], where: str) -> Program:
    names = set(program.tensors)
    families = _rows(record, "families", FamilyRecord, lambda f: _is_family(f, nodes), where)
    splits = _rows(
        record, "splits", SplitRecord, lambda s: {s.whole, s.total} <= nodes and set(s.terms) <= set(program.sites_by_address), where
    )
    gates = _rows(record, "gates", GateRecord, lambda g: {g.g, g.h, g.r} <= names, where)
    steps = _rows(
        record, "steps", Step, lambda s: isinstance(s.name, str) and isinstance(s.arguments, dict) and isinstance(s.skipped, dict), where
    )
    families_by_address = {f.address: f for f in families}
    claims = _claims(record, shapes, program, set(families_by_address), where)
    return replace(
        program,
        families=families_by_address,
        splits=tuple(splits),
        gate_records={g.address: g for g in gates},
        steps=tuple(steps),
        claims=tuple(claims),
    )


def _is_family(family: FamilyRecord, nodes: set[str]) -> bool:
    try:
        check_equation(family.equation, len(family.operands), family.axis, family.act)
    except (PassError, TypeError, AttributeError, IndexError):
        return False
    return {*family.operands, family.total} <= nodes and isinstance(family.size, int) and isinstance(family.address, str)


def _claims(record: Any, shapes: Shapes, program: Program, families: set[str], where: str) -> list[Claim]:
    graphs = [
        decode_graph(g, shapes.placeholder, f"{where}, claim graph {i}") for i, g in enumerate(take(record, "claim_graphs", list, where))
    ]
    for number, graph in enumerate(graphs):
        shapes.fill(graph, f"{where}, claim graph {number}")
    known = {"node": set(program.nodes), "fresh": set(program.nodes), "member": families}
    claims = []
    for row in take(record, "claims", list, where):
        number, bindings = take(row, "graph", int, where), take(row, "bindings", dict, where)
        pairs = {name: tuple(pair) for name, pair in bindings.items() if isinstance(pair, list) and len(pair) == 2}
        right = len(pairs) == len(bindings) and all(kind in known and what in known[kind] for kind, what in pairs.values())
        if not 0 <= number < len(graphs) or not right or set(pairs) != {n.name for n in graphs[number].nodes if n.op == "placeholder"}:
            raise bad(f"{where}, claims", "a claim about nodes that exist", row)
        reads = tuple(str(address) for address in take(row, "reads", list, where))
        claims.append(
            Claim(
                take(row, "sentence", str, where),
                take(row, "site", str, where),
                take(row, "step", int, where),
                graphs[number],
                pairs,
                reads,
            )
        )
    return claims


def _calling(record: dict[str, Any], where: str) -> Calling:
    return Calling(
        tuple(map(str, take(record, "parameters", list, where))),
        decode_spec(record.get("inputs"), f"{where}, inputs"),
        decode_spec(record.get("outputs"), f"{where}, outputs"),
        tuple(map(str, take(record, "names", list, where))),
    )


def _header(record: dict[str, Any], where: str) -> Header:
    checks = take(record, "checks", dict, where)
    return Header(
        take(record, "model", str, where),
        take(record, "dynamic", str, where),
        {str(k): str(v) for k, v in checks.items()},
        tuple(map(str, take(record, "switches", list, where))),
        tuple(map(str, take(record, "notes", list, where))),
        take(record, "torch", str, where),
    )
