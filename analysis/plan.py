"""Plans: a list of passes as a TOML file, so that a rewrite is data that can be kept beside its result.

    [[pass]]
    name = "direction"                      # a pass of the catalogue
    at = "transformer.h.*.mlp"              # an address, a glob, or a list of them
    term = "fire"                           # what its term is called; the pass's name if left out
    d = "directions.safetensors:fire"       # its arguments: numbers, words, tensors of a file beside the plan
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import torch

import passes
from analysis.spec import read_tensors
from rewrite import Bound, FileError, Law, PassError
from rewrite.errors import nearest

TENSOR = re.compile(r"(?P<file>.+\.safetensors)(:(?P<key>.+))?")


def read_plan(path: Path) -> list[Bound]:
    """The passes of a plan, in order.

    Raises: FileError or PassError naming the table that is wrong.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: expected a plan, got none that can be read ({getattr(error, 'strerror', None) or error}). Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path}: expected TOML, got {error}. Write one [[pass]] table per pass.") from error
    unknown = [key for key in tables if key != "pass"]
    listed = tables.get("pass")
    if unknown or not isinstance(listed, list) or not listed:
        found = f"the table {unknown[0]!r}" if unknown else "no pass"
        raise FileError(f"{path}: expected [[pass]] tables only, got {found}. Write one [[pass]] table per pass.")
    return [_bound(dict(table), f"{path} pass {number}", path.parent) for number, table in enumerate(listed, 1)]


def _bound(table: dict[str, Any], where: str, folder: Path) -> Bound:
    name, at, term = table.pop("name", None), table.pop("at", None), table.pop("term", None)
    catalogue = {known: getattr(passes, known) for known in passes.__all__}
    if name not in catalogue:
        raise PassError(f"{where}: expected name = one of {', '.join(catalogue)}, got {name!r}.{nearest(str(name), catalogue)}")
    if not at or not all(isinstance(one, str) for one in ([at] if isinstance(at, str) else at)):
        raise PassError(f"{where} ({name}): expected at = an address or a list of them, got {at!r}. See tautomer sites.")
    law: Law = catalogue[name]
    try:
        return law.at(at, name=term, **{key: _value(value, folder) for key, value in table.items()})
    except (PassError, FileError) as error:
        raise type(error)(f"{where}: {error}") from error


def _value(value: Any, folder: Path) -> Any:
    """An argument as the pass takes it: a file's tensor, or all of its tensors by name; a list of numbers is a tensor too."""
    if isinstance(value, list):
        numbers = value and all(isinstance(one, int | float) or _is_row(one) for one in value)
        return torch.tensor(value, dtype=torch.float32) if numbers else [_value(one, folder) for one in value]
    found = TENSOR.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    tensors = read_tensors(folder / found["file"])
    if found["key"] is None:
        return tensors
    if found["key"] not in tensors:
        raise FileError(f"{value}: expected a tensor {found['key']!r} in the file, got {len(tensors)} others.{nearest(found['key'], tensors)}")
    return tensors[found["key"]]


def _is_row(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int | float) for one in value)
