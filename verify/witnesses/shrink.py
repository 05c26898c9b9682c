"""Making a witness smaller: fewer rows and positions, then plainer values, for as long as the two programs still differ on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rewrite.program import Program
from verify.gap import Gap
from verify.roles import Role
from verify.runs import Setting, Values, lead
from verify.witnesses.pattern import IRREGULAR, axis_names
from verify.witnesses.witness import Witness

RUNS = 256  # of both programs
DIGITS = (1, 2, 3)  # to round floats to
SHOWN = 4  # elements that are told one by one


def shrink(setting: Setting, witness: Witness, roles: Mapping[str, Role], runs: int = RUNS) -> Witness:
    """A witness at most as large, found with about so many runs of both programs at most; `left` says what is left of it.

    Roles are those of the inputs; the values of a region are numbers.
    """
    trial = _Trial(setting, dict(witness.values), witness.gap, runs)
    if witness.reachable:
        for axes, least in free_sizes(setting.sides.a):
            _fewer(trial, axes, least)
    told = {name: roles.get(name, "values" if not witness.reachable else None) for name in trial.values}
    needed = {name: _plainer(trial, name, role) for name, role in told.items() if role in ("ids", "values")}
    if trial.kept and setting.parts(trial.values) is None:
        return witness
    sizes = lead(setting.ends(trial.values)[0])
    left = [_left(name, trial.values[name], told[name] == "ids", sure, sizes) for name, sure in needed.items()]
    how = witness.how if trial.kept == 0 else f"{witness.how}, made smaller"
    return replace(witness, values=trial.values, gap=trial.gap, how=how, left=tuple(left))


@dataclass
class _Trial:
    """The smallest values so far, and how many runs are left."""

    setting: Setting
    values: dict[str, Tensor]
    gap: Gap
    left: int
    kept: int = field(default=0)

    def take(self, values: Values) -> bool:
        """True, and the values are kept, if they are still a witness."""
        if self.left <= 0:
            return False
        self.left -= 1
        found = self.setting.differs(values)
        if found is None:
            return False
        self.values, self.gap, self.kept = dict(values), found, self.kept + 1
        return True

    def put(self, name: str, value: Tensor) -> bool:
        """The same for one of the values."""
        return self.take({**self.values, name: value})


# Shapes


def free_sizes(program: Program) -> Iterator[tuple[list[tuple[str, int]], int]]:
    """For each size that the inputs leave free, the (input, axis) that have it, and the least that it may be."""
    found: dict[object, list[tuple[str, int]]] = {}
    fixed: set[object] = set()
    least: dict[object, int] = {}
    for node, leaf in program.leaves.items():
        like = program.nodes[node].meta.get("val")
        for axis, size in enumerate(like.shape) if leaf.kind == "input" and isinstance(like, Tensor) else ():
            if isinstance(size, torch.SymInt):
                expression = size.node.expr
                found.setdefault(expression, []).append((leaf.name, axis))
                if expression.is_symbol:
                    least[expression] = max(1, int(size.node.shape_env.var_to_range[expression].lower))
                else:
                    fixed |= expression.free_symbols
    for symbol, smallest in least.items():
        if symbol not in fixed:
            yield found[symbol], smallest


def _fewer(trial: _Trial, axes: list[tuple[str, int]], least: int) -> None:
    """Drops what comes last along some axes, then what comes first, by halves."""

    def kept(values: Values, start: int, length: int) -> dict[str, Tensor]:
        return {**values, **{name: values[name].narrow(axis, start, length) for name, axis in axes}}

    for first in (False, True):
        values, (name, axis) = dict(trial.values), axes[0]
        size = values[name].shape[axis]
        low, middle, high = least, least, size
        while low < high:
            holds = trial.take(kept(values, size - middle if first else 0, middle))
            low, high = (low, middle) if holds else (middle + 1, high)
            middle = (low + high) // 2


# Values


def _plainer(trial: _Trial, name: str, role: Role | None) -> bool:
    """Sets elements to 0 where that keeps the difference, and rounds the others; True if each of those left was seen to matter."""
    sure = _zeroed(trial, name)
    value = trial.values[name]
    if role == "ids":
        if int((value != 0).sum()) * 2 > value.numel() > 1:
            trial.put(name, value.flatten().mode().values.expand_as(value).clone())
    elif bool((value != 0).any()):
        tries = (torch.where(value != 0, torch.ones_like(value), value), *(_rounded(value, digits) for digits in DIGITS))
        next((one for one in tries if not torch.equal(one, value) and trial.put(name, one)), None)
    return sure


def _zeroed(trial: _Trial, name: str) -> bool:
    """Sets parts of a tensor to 0, all of it first, then halves, quarters and so on; True if each element left was tried last."""
    live = trial.values[name].flatten().nonzero().flatten()
    size = len(live)
    while size:
        before = len(live)
        for part in live.split(size):
            value = trial.values[name].flatten().clone()
            value[part] = 0
            if trial.put(name, value.view(trial.values[name].shape)):
                live = live[~torch.isin(live, part)]
        if trial.left <= 0:
            return False
        if size == 1 and len(live) == before:
            return True
        size = min(max(1, size // 2), len(live))
    return True


def _rounded(value: Tensor, digits: int) -> Tensor:
    """The numbers to so many significant digits."""
    wide = value.double()
    unit = 10.0 ** (wide.abs().clamp(min=1e-300).log10().floor() - digits + 1)
    return torch.where(wide.isfinite() & (wide != 0), (wide / unit).round() * unit, wide).to(value.dtype)


# What is left


def _left(name: str, value: Tensor, ids: bool, sure: bool, sizes: tuple[int | None, int | None]) -> str:
    axes = axis_names(value.shape, *sizes)
    shape = ", ".join(counted(size, axis) for size, axis in zip(value.shape, axes, strict=True))
    if value.numel() > 1 and bool((value == value.flatten()[0]).all()):
        return f"{name}: {shape}, all {_number(value.flatten()[0])}"
    live = value.nonzero().tolist() if value.dim() else [[]] * int(bool(value))
    before = f"{name}: {shape}, " if shape else f"{name}: "
    if not live:
        return f"{before}0"
    what = counted(len(live), "id" if ids else "number") + (f" that matter{'s' * (len(live) == 1)}" if sure else " not 0")
    at = "; ".join(_element(value, index, axes) for index in live[:SHOWN]) + ("; ..." if len(live) > SHOWN else "")
    return f"{before}{what}: {at}" + (", the rest 0" if len(live) < value.numel() else "")


def counted(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what if count == 1 else IRREGULAR.get(what, what + 's')}"


def _element(value: Tensor, index: list[int], axes: tuple[str, ...]) -> str:
    where = ", ".join(f"{axis} {i}" for axis, i, size in zip(axes, index, value.shape, strict=True) if size > 1)
    return f"{where} = {_number(value[tuple(index)])}" if where else _number(value[tuple(index)])


def _number(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())
