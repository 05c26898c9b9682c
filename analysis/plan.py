"""Plans: passes written down in TOML, one table each.

    [[pass]]
    name = "direction"                        # a pass of the catalogue
    at = ["transformer.h.*.mlp"]              # addresses or globs
    term = "fire"                             # optional: what its terms are called
    d = "vectors.safetensors:fire"            # its arguments: numbers, strings, tensors, or weights of the model

A tensor is `file.safetensors:key` (beside the plan), a whole file is `file.safetensors`, a model's own weight is `weight:lm_head.weight`
or rows of it, `weight:lm_head.weight[3,5]`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import passes
from rewrite import Bound, InputError, Law, PassError, Program
from rewrite.errors import nearest

RESERVED = ("name", "at", "term")


def read_plan(path: Path, program: Program) -> list[Bound]:
    """The passes of a plan, bound to their addresses and arguments.

    Raises: InputError or PassError naming the table that is wrong.
    """
    try:
        plan = tomllib.loads(path.read_text())
    except OSError:
        raise InputError(f"{path}: expected a plan, got no readable file. Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected TOML, got something else: {error}.") from None
    tables = plan.get("pass")
    if set(plan) != {"pass"} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise InputError(f"{path}: expected [[pass]] tables and nothing else, got {sorted(plan)}. Begin each pass with [[pass]].")
    return [_bound(table, f"{path}, pass {number}", path.parent, program) for number, table in enumerate(tables, 1)]


def _bound(table: dict[str, Any], where: str, folder: Path, program: Program) -> Bound:
    name, at = table.get("name"), table.get("at")
    law = getattr(passes, name, None) if isinstance(name, str) and name in passes.__all__ else None
    if not isinstance(law, Law):
        raise PassError(f"{where}: expected name = one of {', '.join(passes.__all__)}, got {name!r}.{nearest(str(name), passes.__all__)}")
    addresses = [at] if isinstance(at, str) else at
    if not isinstance(addresses, list) or not addresses or not all(isinstance(a, str) for a in addresses):
        raise InputError(f"{where}: expected at = an address or a list of them, got {at!r}. List them with: tautomer sites DIR.")
    arguments = {key: _argument(value, f"{where}, {key}", folder, program) for key, value in table.items() if key not in RESERVED}
    return law.at(*addresses, name=table.get("term"), **arguments)


def _argument(value: Any, where: str, folder: Path, program: Program) -> Any:
    if not isinstance(value, str):
        return value
    weight = re.fullmatch(r"weight:([^\[\]]+)(?:\[([\d,\s]+)\])?", value)
    if weight:
        whole = program.weight(weight[1])
        rows = [int(row) for row in (weight[2] or "").split(",") if row.strip()]
        return whole[rows[0]] if len(rows) == 1 else whole[rows] if rows else whole
    tensor = re.fullmatch(r"(.+\.safetensors)(?::(.+))?", value)
    return _tensors(folder / tensor[1], tensor[2], where) if tensor else value


def _tensors(path: Path, key: str | None, where: str) -> Any:
    try:
        tensors = load_file(path)
    except Exception as error:
        raise InputError(f"{where}: expected a safetensors file at {path}, got: {str(error).splitlines()[0]}") from None
    if key is not None and key not in tensors:
        raise InputError(f"{where}: expected a tensor {key!r} in {path.name}, got none.{nearest(key, tensors)}")
    return tensors if key is None else tensors[key]
