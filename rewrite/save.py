"""Saving: a folder of `program.json` and one safetensors file.

`program.json` is the commit point: it names the weights file and its hash. The weights are written first, under a name of their own
content; then `program.json` is replaced; then weights files that only the replaced `program.json` named are removed. Whatever
happens on the way, the folder holds a whole program, the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rewrite.errors import FileError
from rewrite.program import Program
from rewrite.records import Claim
from rewrite.schema import encode_graph, encode_leaves, encode_value
from rewrite.trees import encode_spec, encode_values

FORMAT, MAIN = 1, "program.json"


def save(program: Program, directory: str | os.PathLike[str]) -> None:
    """Writes `program` and its origin to a folder, atomically.

    Raises: FileError if the folder cannot be written, or the program holds something that cannot be saved.
    """
    folder = Path(directory)
    tensors = Tensors()
    record = {
        "format": FORMAT,
        "tautomer": _version(),
        "torch": torch.__version__,
        "calling": {
            "parameters": list(program.calling.parameters),
            "inputs": encode_spec(program.calling.in_spec),
            "outputs": encode_spec(program.calling.out_spec),
            "names": list(program.calling.outputs),
        },
        "header": asdict(program.header),
        "example": encode_values(list(program.example), tensors.put),
        "program": encode_program(program, tensors),
        "origin": None if program.traced_from is None else encode_program(program.traced_from, tensors),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = _weights_named_by(folder)
        name, digest = _write_weights(folder, tensors)
        record["weights"] = {"file": name, "sha256": digest, "tensors": tensors.shapes()}
        write_whole(folder / MAIN, lambda path: path.write_text(json.dumps(record, allow_nan=False)))
        if old is not None and old != name:
            (folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"save to {folder}: expected a folder that can be written, got: {error.strerror or error}. Choose another one."
        ) from None


def encode_program(program: Program, tensors: Tensors) -> dict[str, Any]:
    """The JSON form of one program; its tensors go into `tensors`."""
    return {
        "graph": encode_graph(program.graph),
        "leaves": encode_leaves(program.leaves),
        "tensors": {name: tensors.put(tensor, name) for name, tensor in program.tensors.items()},
        "sites": [[s.address, s.node, s.kind, s.scope] for s in program.sites_by_address.values()],
        "families": [asdict(family) for family in program.families.values()],
        "splits": [asdict(split) for split in program.splits],
        "gates": [asdict(gate) for gate in program.gate_records.values()],
        "steps": [asdict(step) for step in program.steps],
        **_encode_claims(program.claims),
    }


def _encode_claims(claims: tuple[Claim, ...]) -> dict[str, Any]:
    """Claims, with the graphs that many of them share written once."""
    graphs: dict[int, int] = {}
    written = []
    for claim in claims:
        if id(claim.graph) not in graphs:
            graphs[id(claim.graph)] = len(graphs)
            written.append(encode_graph(claim.graph))
    rows = [
        {
            "sentence": c.sentence,
            "site": c.site,
            "step": c.step,
            "graph": graphs[id(c.graph)],
            "bindings": c.bindings,
            "reads": list(c.reads),
        }
        for c in claims
    ]
    return {"claims": rows, "claim_graphs": written}


class Tensors:
    """Tensors to be written, each piece of memory once, under the first name that asks for it."""

    def __init__(self) -> None:
        self.by_key: dict[str, Tensor] = {}
        self._known: dict[Any, str] = {}

    def put(self, tensor: Tensor, name: str = "example") -> str:
        """The key under which `tensor` is stored."""
        if tensor.is_meta:
            raise FileError(
                f"save: expected weights, got a tensor without numbers for {name!r}. A program traced on the meta device cannot be saved."
            )
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else id(tensor)
        if place not in self._known:
            key, number = name, 1
            while key in self.by_key:
                key, number = f"{name}#{number}", number + 1
            self._known[place] = key
            self.by_key[key] = tensor
        return self._known[place]

    def shapes(self) -> dict[str, Any]:
        """Dtype and shape of each tensor, to be held against the file."""
        return {key: encode_value(tensor.detach().to("meta").contiguous()) for key, tensor in self.by_key.items()}


def _write_weights(folder: Path, tensors: Tensors) -> tuple[str, str]:
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.by_key.items()}
    separate = _separate(plain)
    partial = Path(tempfile.mkstemp(dir=folder, prefix=".model-", suffix=".partial")[1])
    try:
        save_file(separate, partial)
        digest = file_hash(partial)
        _sync(partial)
        name = f"model-{digest[:8]}.safetensors"
        os.replace(partial, folder / name)
        os.chmod(folder / name, 0o644)
    finally:
        partial.unlink(missing_ok=True)
    return name, digest


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with no memory shared: views of one storage (tied weights are one entry already) are copied."""
    seen: set[int] = set()
    result = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        result[key] = tensor if whole and storage not in seen else tensor.clone()
        seen.add(storage)
    return result


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all: `write` fills a file beside it, which then takes its place."""
    partial = Path(tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=f".partial{path.suffix}")[1])
    try:
        write(partial)
        _sync(partial)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _weights_named_by(folder: Path) -> str | None:
    try:
        name = json.loads((folder / MAIN).read_text())["weights"]["file"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and name == Path(name).name and name.startswith("model-") else None


def _version() -> str:
    try:
        return version("tautomer")
    except PackageNotFoundError:
        return "0"
