"""Witnesses in files: one safetensors file, the values as tensors and the rest as JSON among its metadata. Reading runs nothing of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rewrite.errors import FileError
from rewrite.save import write_whole
from rewrite.schema import bad, take
from verify.gap import Gap
from verify.witnesses.witness import Witness

FORMAT, LARGEST = 1, 2**34  # Units: bytes
LONGEST = 2**22  # of the JSON; Units: characters
TEXTS = ("how", "region", "site", "key", "subject")
FIGURES = ("rho", "amplification", "ulp", "largest")


def save(witness: Witness, path: str | os.PathLike[str]) -> None:
    """Writes a witness, whole or not at all.

    Raises: FileError if it cannot be written.
    """
    file = Path(path)
    tensors = {f"{kind}/{name}": value.detach().cpu().clone().contiguous() for kind, name, value in _tensors(witness)}
    record = {
        "format": FORMAT,
        "tautomer": _version(),
        "torch": torch.__version__,
        **{name: getattr(witness, name) for name in TEXTS},
        "reachable": witness.reachable,
        "any_weights": witness.any_weights,
        "left": list(witness.left),
        "gap": {"at": witness.gap.at, **{name: str(getattr(witness.gap, name)) for name in FIGURES}},
    }
    try:
        write_whole(file, lambda partial: save_file(tensors, partial, metadata={"tautomer": json.dumps(record, allow_nan=False)}))
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or error
        raise FileError(f"{file}: expected a place for a file, got: {text}. Choose another one.") from None


def _tensors(witness: Witness) -> list[tuple[str, str, Tensor]]:
    return [
        *(("value", name, value) for name, value in witness.values.items()),
        *(("input", name, value) for name, value in witness.inputs.items()),
    ]


def load(path: str | os.PathLike[str]) -> Witness:
    """The witness in a file, on the CPU; nothing of it is run.

    Raises: FileError for a file that is missing, broken or none of ours.
    """
    file = Path(path)
    if not file.is_file():
        raise FileError(f"{file}: expected a witness, got {'a folder' if file.is_dir() else 'nothing there'}. Check the path.")
    try:
        if file.stat().st_size > LARGEST:
            raise bad(str(file), f"at most {LARGEST} bytes", file.stat().st_size)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, UnicodeError) as error:
        raise FileError(f"{file}: expected a safetensors file, got something else ({str(error)[:60]}). It is broken or not ours.") from None
    return _witness(_record(metadata, str(file)), tensors, str(file))


def _record(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    text = metadata.get("tautomer")
    if text is None:
        raise FileError(f"{where}: expected a witness, got tensors alone. Write it with report.witness.save, or verify --witness.")
    try:
        record = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise bad(where, "JSON among the metadata", text)
    number = take(record, "format", int, where)
    if number != FORMAT:
        raise FileError(f"{where}: expected format {FORMAT}, got {str(number)[:20]}. Use the tautomer that wrote it.")
    return record


def _witness(record: dict[str, Any], tensors: Mapping[str, Tensor], where: str) -> Witness:
    parts: dict[str, dict[str, Tensor]] = {"value": {}, "input": {}}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind not in parts or not name:
            raise bad(where, "tensors named value/... and input/...", key)
        parts[kind][name] = tensor
    texts = {name: take(record, name, str, where) for name in TEXTS}
    left = take(record, "left", list, where)
    if not all(isinstance(line, str) for line in left):
        raise bad(f"{where}, left", "lines of text", left)
    reachable, any_weights = (take(record, name, bool, where) for name in ("reachable", "any_weights"))
    if not parts["value"] or (reachable and parts["input"]):
        raise bad(where, "values, and inputs beside those of a region only", list(tensors)[:4])
    return Witness(
        parts["value"], _gap(take(record, "gap", dict, where), where), reachable=reachable, inputs=parts["input"], left=tuple(left),
        any_weights=any_weights, **texts,
    )  # fmt: skip


def _gap(record: dict[str, Any], where: str) -> Gap:
    figures = {name: take(record, name, str, f"{where}, gap") for name in FIGURES}
    try:
        found = {name: float(text) for name, text in figures.items()}
    except ValueError:
        raise bad(f"{where}, gap", "numbers", figures) from None
    if any(math.isnan(number) for number in found.values()):
        raise bad(f"{where}, gap", "numbers", figures)
    return Gap(found["rho"], found["amplification"], found["ulp"], found["largest"], at=take(record, "at", str, f"{where}, gap"))


def _version() -> str:
    try:
        return version("tautomer")
    except PackageNotFoundError:
        return "0"
