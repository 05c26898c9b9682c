"""Plans: the passes of a rewrite as a TOML file, data that can be kept beside its result.

    [[pass]]
    name = "direction"                        # a pass of the catalogue
    at = "transformer.h.*.mlp"                # an address, a glob, or a list of them
    term = "fire"                             # what its term is called; the pass's own name if left out
    d = "vectors.safetensors:fire"            # its arguments

An argument is a number, a word, a list of numbers (a tensor), `file.safetensors:key` (a tensor of a file beside the plan),
`file.safetensors` (all of its tensors by name), or `weight:lm_head.weight[3]` (the model's own weight, or rows of it).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import torch

import passes
from analysis.source import read_tensors
from rewrite import Bound, FileError, Law, PassError, Program, TautomerError
from rewrite.errors import nearest

KEYS = ("name", "at", "term")
TENSOR = re.compile(r"(?P<file>.+\.safetensors)(:(?P<key>.+))?")
WEIGHT = re.compile(r"weight:(?P<name>[^\[\]]+)(\[(?P<rows>\d+(\s*,\s*\d+)*)\])?")


def read_plan(path: Path, program: Program) -> list[Bound]:
    """The passes of a plan, in order, their arguments read.

    Raises: TautomerError naming the table that is wrong.
    """
    try:
        plan = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: expected TOML, got something else: {error}. Write one [[pass]] table per pass.") from error
    except OSError as error:
        raise FileError(f"{path}: expected a plan, got none that can be read ({error.strerror}). Check the path.") from error
    tables = plan.get("pass")
    if set(plan) != {"pass"} or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FileError(f"{path}: expected [[pass]] tables only, got {sorted(plan) or 'nothing'}. Begin each pass with [[pass]].")
    bound = []
    for number, table in enumerate(tables, 1):
        try:
            bound.append(_bound(dict(table), path.parent, program))
        except TautomerError as error:
            raise type(error)(f"{path}, pass {number}: {error}") from error
    return bound


def _bound(table: dict[str, Any], folder: Path, program: Program) -> Bound:
    name, at, term = table.pop("name", None), table.pop("at", None), table.pop("term", None)
    law = getattr(passes, name) if name in passes.__all__ else None
    if name is None and table:
        raise PassError(f"expected name, at, term and the pass's arguments, got {next(iter(table))!r}.{nearest(next(iter(table)), KEYS)}")
    if not isinstance(law, Law):
        raise PassError(f"expected name = one of {', '.join(passes.__all__)}, got {name!r}.{nearest(str(name), passes.__all__)}")
    where = [at] if isinstance(at, str) else at
    if not where or not isinstance(where, list) or not all(isinstance(one, str) for one in where):
        raise PassError(f"{name}: expected at = an address or a list of them, got {at!r}. List them with: tautomer sites DIR.")
    if not isinstance(term, str | None):
        raise PassError(f"{name}: expected term = a name in quotes, got {term!r}. Leave it out for the pass's own name.")
    return law.at(*where, name=term, **{key: _argument(value, folder, program) for key, value in table.items()})


def _argument(value: Any, folder: Path, program: Program) -> Any:
    if isinstance(value, list):
        return _tensor(value) if _is_numeric(value) else [_argument(one, folder, program) for one in value]
    if not isinstance(value, str):
        return value
    if found := WEIGHT.fullmatch(value):
        weight = program.weight(found["name"])
        rows = [int(row) for row in found["rows"].split(",")] if found["rows"] else []
        size = weight.value.shape[0] if weight.value.dim() else 0
        if any(row >= size for row in rows):
            raise PassError(f"{value}: expected rows from 0 to {size - 1}, got {max(rows)}. The weight has {size} rows.")
        return weight if not rows else weight[rows[0]] if len(rows) == 1 else weight[rows]
    if found := TENSOR.fullmatch(value):
        return _from_file(folder / found["file"], found["key"])
    return value


def _from_file(path: Path, key: str | None) -> Any:
    tensors = read_tensors(path)
    if key is None:
        return tensors
    if key not in tensors:
        raise FileError(f"{path}: expected a tensor {key!r} in it, got none among {len(tensors)}.{nearest(key, tensors)}")
    return tensors[key]


def _is_numeric(value: Any) -> bool:
    return all(map(_is_numeric, value)) and bool(value) if isinstance(value, list) else isinstance(value, int | float)


def _tensor(value: list[Any]) -> torch.Tensor:
    try:
        return torch.tensor(value, dtype=torch.float32)
    except ValueError as error:
        raise PassError(f"expected rows of one length, got {value}. A list of numbers is a tensor.") from error
