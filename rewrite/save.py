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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, fx

from rewrite.errors import FileError
from rewrite.program import Program
from rewrite.records import Claim
from rewrite.schema import encode, encode_graph, encode_leaves
from rewrite.sizes import NamedSizes
from rewrite.trees import encode_spec, encode_values

FORMAT, MAIN = 1, "program.json"


def save(program: Program, directory: str | os.PathLike[str]) -> None:
    """Writes `program` and its origin to a folder, atomically. It is loaded on the CPU, wherever it is now.

    Raises: FileError if the folder cannot be written, or the program holds something that cannot be saved.
    """
    folder = Path(directory)
    tensors = Tensors()
    record = encode_folder(program, tensors)
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MAIN).exists() and not any(folder.glob("*.partial")):
            raise FileError(f"save to {folder}: expected a new folder or one of ours, got one with other files. Choose another one.")
        folder.mkdir(parents=True, exist_ok=True)
        old = _weights_named_by(folder)
        name, digest = _write_weights(folder, tensors)
        record["weights"] = {"file": name, "sha256": digest, "tensors": tensors.shapes()}
        try:
            write_whole(folder / MAIN, lambda path: path.write_text(json.dumps(record, allow_nan=False), encoding="utf-8"))
        except BaseException:
            if name != old:
                (folder / name).unlink(missing_ok=True)
            raise
        if old is not None and old != name:
            (folder / old).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or error
        raise FileError(f"save to {folder}: expected a folder that can be written, got: {text}. Choose another one.") from None


def encode_folder(program: Program, tensors: Tensors) -> dict[str, Any]:
    """The JSON form of a program with its origin, but for the weights file, which `tensors` collects."""
    sizes = NamedSizes()
    return {
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
        "program": encode_program(program, tensors, sizes),
        "origin": None if program.traced_from is None else encode_program(program.traced_from, tensors, sizes),
        "example": encode_values(list(program.example), lambda tensor: tensors.put(tensor, "example")),
        "sizes": sizes.rows,
    }


def encode_program(program: Program, tensors: Tensors, sizes: NamedSizes) -> dict[str, Any]:
    """The JSON form of one program; its tensors go into `tensors`, its named sizes into `sizes`."""

    def value(node: fx.Node) -> Any:
        like = node.meta.get("val")
        if program.leaves[node.name].kind not in ("input", "gate"):
            return None  # the tensor itself says it
        if isinstance(like, Tensor):
            return {"dtype": str(like.dtype).removeprefix("torch."), "shape": [sizes.encode(size) for size in like.shape]}
        return {"plain": encode(like)}

    return {
        "graph": encode_graph(program.graph, value),
        "leaves": encode_leaves(program.leaves),
        "tensors": {name: tensors.put(tensor, name) for name, tensor in program.tensors.items()},
        "sites": [[site.address, site.node, site.kind, site.scope] for site in program.sites_by_address.values()],
        "families": [asdict(family) for family in program.families.values()],
        "splits": [asdict(split) for split in program.splits],
        "gates": [asdict(gate) for gate in program.gate_records.values()],
        "steps": [asdict(step) for step in program.steps],
        **_encode_claims(program.claims),
    }


def _encode_claims(claims: tuple[Claim, ...]) -> dict[str, Any]:
    """Claims, with the graphs that many of them share written once."""
    graphs: dict[int, int] = {}
    written, rows = [], []
    for claim in claims:
        if id(claim.graph) not in graphs:
            graphs[id(claim.graph)] = len(graphs)
            written.append(encode_graph(claim.graph))
        row = {"sentence": claim.sentence, "site": claim.site, "step": claim.step, "reads": list(claim.reads)}
        swaps = {"swaps": claim.swaps} if claim.swaps else {}
        rows.append({**row, "graph": graphs[id(claim.graph)], "bindings": claim.bindings, **swaps})
    return {"claims": rows, "claim_graphs": written}


# ---------------------------------------------------------------------------------------------------------------- tensors


class Tensors:
    """Tensors to be written, each piece of memory once, under the first name that asks for it."""

    def __init__(self) -> None:
        self.by_key: dict[str, Tensor] = {}
        self._known: dict[Any, str] = {}

    def put(self, tensor: Tensor, name: str) -> str:
        """The key under which `tensor` is stored.

        Raises: FileError for a tensor that has no numbers, or not in plain memory.
        """
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            kind = (
                "without numbers" if tensor.is_meta else f"of layout {tensor.layout}" if not tensor.is_quantized else "of quantised numbers"
            )
            raise FileError(f"save: expected plain tensors, got one {kind} for {name!r}. Trace a model that has plain weights.")
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else id(tensor)
        if place not in self._known:
            key, number = name, 1
            while key in self.by_key:
                key, number = f"{name}#{number}", number + 1
            self._known[place] = key
            self.by_key[key] = tensor
        return self._known[place]

    def shapes(self) -> dict[str, Any]:
        """Of each tensor its dtype, shape, layout in memory if it is not row by row, and whether it is trained."""
        return {key: _shape_of(tensor) for key, tensor in self.by_key.items()}


def _shape_of(tensor: Tensor) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if is_permuted(tensor.shape, tensor.stride()):
        record["stride"] = list(tensor.stride())  # sums over another layout round differently
    return record | ({"trained": True} if tensor.requires_grad else {})


def is_permuted(shape: Any, stride: Any) -> bool:
    """Whether these are the strides of a dense tensor whose dimensions lie in memory in another order."""
    if len(shape) != len(stride) or 0 in shape:
        return False
    expected = 1
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size > 1):
        if step != expected:
            return False
        expected *= size
    plain = [step for step, size in zip(stride, shape, strict=True) if size > 1]
    return plain != sorted(plain, reverse=True)


def _write_weights(folder: Path, tensors: Tensors) -> tuple[str, str]:
    plain = _separate({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.by_key.items()})
    with _partial(folder, ".model-", ".partial") as partial:
        save_file(plain, partial, metadata={"format": "pt"})
        digest = file_hash(partial)
        name = f"model-{digest[:8]}.safetensors"
        _put_in_place(partial, folder / name)
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


# ---------------------------------------------------------------------------------------------------------------- files


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all: `write` fills a file beside it, which then takes its place."""
    with _partial(path.parent, f".{path.name}-", f".partial{path.suffix}") as partial:
        write(partial)
        _put_in_place(partial, path)


@contextmanager
def _partial(folder: Path, prefix: str, suffix: str) -> Iterator[Path]:
    """An empty file that is gone at the end unless it was put in its place."""
    number, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
    os.close(number)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _put_in_place(partial: Path, path: Path) -> None:
    """Makes `partial` the file at `path`, on disk before anything that comes later."""
    os.chmod(partial, 0o644)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    with suppress(OSError):  # not every system opens folders
        number = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _weights_named_by(folder: Path) -> str | None:
    try:
        name = json.loads((folder / MAIN).read_text(encoding="utf-8"))["weights"]["file"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and name == Path(name).name and name.startswith("model-") else None


def _version() -> str:
    try:
        return version("tautomer")
    except PackageNotFoundError:
        return "0"
