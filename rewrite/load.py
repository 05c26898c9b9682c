"""Loading: from a folder to a program, without running anything that the folder says.

Everything is checked against the schema first; shapes of ops are not read but derived again on tensors without data, so a file cannot
lie about them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rewrite.call import bind
from rewrite.derive import derive
from rewrite.errors import FileError, InputError
from rewrite.program import Program
from rewrite.records import Calling, Header, Leaf
from rewrite.save import FORMAT, MAIN, file_hash, is_permuted
from rewrite.schema import bad, decode, decode_graph, decode_leaves, take
from rewrite.sizes import Sizes
from rewrite.tables import with_tables
from rewrite.trees import decode_spec, decode_values

LONGEST = 2**28  # Units: bytes; ten thousand splits take a tenth of it


def load(directory: str | os.PathLike[str]) -> Program:
    """The program saved in a folder, with its origin, on the CPU; nothing of it is run.

    Outputs have the model's own type if its class is one of `transformers.modeling_outputs`, or imported already; else they are dicts.

    Raises: FileError for a folder that is missing, broken, or not to be trusted.
    """
    folder = Path(directory)
    try:
        return _load(folder)
    except RecursionError:
        raise FileError(f"{folder / MAIN}: expected flat lists, got deeply nested ones. The file is broken or not ours.") from None


def _load(folder: Path) -> Program:
    record, where = _read(folder), str(folder / MAIN)
    sizes = Sizes(record.get("sizes"), f"{where}, sizes")
    tensors = LoadedTensors(*_tensors(folder, record, where), where)
    parts = _Parts(
        tensors,
        sizes,
        _calling(take(record, "calling", dict, where), f"{where}, calling"),
        _header(take(record, "header", dict, where), f"{where}, header"),
        _example(record.get("example"), tensors, f"{where}, example"),
    )
    origin = None
    if record.get("origin") is not None:
        origin = decode_program(record["origin"], parts, None, f"{where}, origin")
    program = decode_program(take(record, "program", dict, where), parts, origin, f"{where}, program")
    if program.steps and origin is None:
        raise bad(where, f"the origin of a program of {len(program.steps)} steps", "none")
    return program


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MAIN
    try:
        if not path.is_file():  # a pipe or a device may never end
            raise FileError(f"load {folder}: expected a folder with {MAIN}, got none that can be read. Save a program there first.")
        if path.stat().st_size > LONGEST:
            raise bad(str(path), f"at most {LONGEST} bytes", path.stat().st_size)
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FileError(f"load {folder}: expected a folder with {MAIN}, got none that can be read. Save a program there first.") from None
    except ValueError as error:
        raise FileError(f"{path}: expected JSON, got something else ({str(error)[:60]}). The file is broken or not ours.") from None
    number = take(record, "format", int, str(path))
    if number != FORMAT:
        writer = str(record.get("tautomer"))[:20]
        raise FileError(f"{path}: expected format {FORMAT}, got {str(number)[:20]}. Load it with the tautomer that wrote it: {writer}.")
    return record


# ---------------------------------------------------------------------------------------------------------------- tensors


class LoadedTensors:
    """The tensors of the weights file; parameters are made once, so that tied ones stay tied."""

    def __init__(self, tensors: dict[str, Tensor], trained: set[str], where: str):
        self._tensors, self._trained, self._where = tensors, trained, where
        self._parameters: dict[str, nn.Parameter] = {}

    def get(self, key: str) -> Tensor:
        """The tensor stored under `key`. Raises: FileError."""
        if key not in self._tensors:
            raise bad(self._where, "the name of a tensor in the weights file", key)
        return self._tensors[key]

    def parameter(self, key: str) -> Tensor:
        """The same as a parameter."""
        if key not in self._parameters:
            self._parameters[key] = nn.Parameter(self.get(key), requires_grad=key in self._trained)
        return self._parameters[key]


def _tensors(folder: Path, record: dict[str, Any], where: str) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors, and the names of the trained ones."""
    weights = take(record, "weights", dict, where)
    name, digest = take(weights, "file", str, where), take(weights, "sha256", str, where)
    if not re.fullmatch(r"[0-9a-f]{64}", digest) or name != f"model-{digest[:8]}.safetensors":
        raise bad(where, "a weights file model-<hash>.safetensors in the same folder", name)
    path = folder / name
    if not path.is_file():
        raise FileError(f"{path}: expected the weights file that {MAIN} names, got none. Copy the whole folder.")
    try:
        if file_hash(path) != digest:
            raise FileError(
                f"{path}: expected the content that {MAIN} names (SHA-256), got another one. The file is broken or was replaced."
            )
        found = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(f"{path}: expected a safetensors file, got something else ({str(error)[:60]}). It is broken or not ours.") from None
    told = take(weights, "tensors", dict, where)
    if set(told) != set(found):
        raise bad(f"{path}", f"the tensors that {MAIN} lists", sorted(set(told) ^ set(found))[:4])
    for key, like in told.items():
        found[key] = _as_told(found[key], like, f"{path}, {key[:60]!r}")
    return found, {key for key, like in told.items() if like.get("trained") is True and found[key].is_floating_point()}


def _as_told(tensor: Tensor, like: Any, where: str) -> Tensor:
    """A copy of `tensor`, aligned and laid out as it was: products round differently on other memory. Raises: FileError."""
    dtype, shape = take(like, "dtype", str, where), take(like, "shape", list, where)
    if f"torch.{dtype}" != str(tensor.dtype) or shape != list(tensor.shape):
        raise bad(where, f"{dtype[:20]} {str(shape)[:60]}", f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
    if "stride" not in like:
        return tensor.clone()
    stride = take(like, "stride", list, where)
    if not all(type(step) is int and 0 < step <= tensor.numel() for step in stride) or not is_permuted(shape, stride):
        raise bad(where, "the strides of a dense tensor", stride)
    return torch.empty_strided(shape, stride, dtype=tensor.dtype).copy_(tensor)


# ---------------------------------------------------------------------------------------------------------------- programs


@dataclass(frozen=True)
class _Parts:
    """What the program and its origin share."""

    tensors: LoadedTensors
    sizes: Sizes
    calling: Calling
    header: Header
    example: tuple[tuple[Any, ...], dict[str, Any]]


def decode_program(record: Any, parts: _Parts, origin: Program | None, where: str) -> Program:
    """One program. Raises: FileError."""
    leaves = decode_leaves(record, where)
    keys = take(record, "tensors", dict, where)
    held: dict[str, Tensor] = {}
    for leaf in leaves.values():
        if leaf.kind != "input":
            key = take(keys, leaf.name, str, f"{where}, tensors")
            held[leaf.name] = parts.tensors.parameter(key) if leaf.kind == "parameter" else parts.tensors.get(key)

    def value(name: str, given: Any, here: str) -> Any:
        leaf = leaves.get(name)
        if leaf is None:
            raise bad(here, "a leaf for each placeholder", name)
        return _fake(leaf, given, held.get(leaf.name), parts.sizes, here)

    graph = decode_graph(take(record, "graph", dict, where), value, where)
    if list(leaves) != [node.name for node in graph.nodes if node.op == "placeholder"]:
        raise bad(where, "placeholders in the order of the leaves", "another order")
    derive(graph, parts.sizes, where)
    made = Program(graph, leaves, held, parts.calling, parts.header, parts.example, {}, traced_from=origin)
    _check_calling(made, where)
    return with_tables(made, record, parts.sizes, where)


def _fake(leaf: Leaf, given: Any, tensor: Tensor | None, sizes: Sizes, where: str) -> Any:
    """The fake value of a placeholder: of a weight, what the weight is; of an input, what the file says; of a gate, both."""
    if tensor is not None and leaf.kind != "gate":
        return sizes.like(tensor)
    if isinstance(given, dict) and set(given) == {"plain"} and leaf.kind == "input":
        return decode(given["plain"], {}, where)
    value = sizes.placeholder(given, where)
    if tensor is not None and tensor.dtype != value.dtype:  # a gate may have been set to a tensor of another shape
        raise bad(where, f"a gate of {value.dtype}", tensor.dtype)
    return value


def _check_calling(program: Program, where: str) -> None:
    calling, inputs = program.calling, sum(leaf.kind == "input" and not leaf.copy_of for leaf in program.leaves.values())
    counts = (calling.in_spec.num_leaves, calling.out_spec.num_leaves, len(calling.outputs))
    if counts != (inputs, len(program.outputs), len(program.outputs)):
        raise bad(where, f"as many inputs and outputs as its calling convention: {counts[:2]}", (inputs, len(program.outputs)))
    try:
        bind(program, *program.example)
    except InputError as error:
        raise bad(f"{where}, example", "inputs that fit", str(error)) from None


def _calling(record: dict[str, Any], where: str) -> Calling:
    spec = decode_spec(record.get("inputs"), f"{where}, inputs")
    if spec.type is not tuple or [child.type for child in spec.children()] != [tuple, dict]:
        raise bad(f"{where}, inputs", "(arguments, arguments by name)", str(spec))
    return Calling(
        strings(record, "parameters", where), spec, decode_spec(record.get("outputs"), f"{where}, outputs"), strings(record, "names", where)
    )


def _header(record: dict[str, Any], where: str) -> Header:
    checks = take(record, "checks", dict, where)
    model, dynamic, version = (take(record, key, str, where) for key in ("model", "dynamic", "torch"))
    texts = {key: str(value) for key, value in checks.items()}
    return Header(model, dynamic, texts, strings(record, "switches", where), strings(record, "notes", where), version)


def _example(record: Any, tensors: LoadedTensors, where: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    found = decode_values(record, tensors.get, where)
    if not (isinstance(found, list) and len(found) == 2 and isinstance(found[0], tuple) and isinstance(found[1], dict)):
        raise bad(where, "arguments, and arguments by name", found)
    return found[0], found[1]


def strings(record: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """`record[key]`, a list of strings. Raises: FileError."""
    found = take(record, key, list, where)
    if not all(isinstance(item, str) for item in found):
        raise bad(f"{where}, {key}", "a list of strings", found)
    return tuple(found)
