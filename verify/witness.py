"""The search for a witness: values on which two programs, run in float64, differ by more than rounding explains.

Only a witness makes an inequality of the exact tier a refutation. The search looks at the model's inputs first, then at the inputs of the
first region that differs; it knows the numbers that either graph compares with, the rows that either graph treats apart, and scales.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewrite.program import Program
from rewrite.run import needed
from verify.cases import redrawn, rows_read
from verify.gap import Gap, gap
from verify.ladder import DIFFERENT, Sides
from verify.roles import Role
from verify.shadow import CannotLift, Case, sweep

SCALES = (1.0, 2.0**-10, 2.0**10, 2.0**-20, 2.0**20)
MOST_IDS, ASCENT = 512, 24


@dataclass(frozen=True)
class Witness:
    """Values on which the two differ: of the model's inputs, or of the inputs of a region (`reachable` False)."""

    values: Mapping[str, Tensor]
    gap: Gap
    how: str
    reachable: bool = True
    region: str = ""


@dataclass
class Harvest:
    """Numbers that a graph compares or indexes with."""

    ids: set[int] = field(default_factory=set)
    numbers: set[float] = field(default_factory=set)

    def __or__(self, other: Harvest) -> Harvest:
        return Harvest(self.ids | other.ids, self.numbers | other.numbers)


def harvest(program: Program) -> Harvest:
    """The literals of a program's graph and its neighbours, and the distinguished entries of its integer and bool tables."""
    found = Harvest()
    for node in needed(program.outputs):
        if node.op == "call_function":
            for value in _numbers((node.args, tuple(node.kwargs.values()))):
                if isinstance(value, float) and math.isfinite(value) and abs(value) < 1e30:
                    found.numbers.add(value)
                elif isinstance(value, int):
                    found.numbers.add(float(value))
                    found.ids.update(range(value - 1, value + 2))
        elif node.name in program.leaves and program.leaves[node.name].name in program.tensors:
            _from_tensor(program.tensors[program.leaves[node.name].name], found)
    return found


def _numbers(value: object) -> Iterator[float | int]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _from_tensor(tensor: Tensor, found: Harvest) -> None:
    """A table's distinguished places: the rarer truth value, where a permutation moves something; small integer tensors whole."""
    if tensor.is_meta or tensor.dim() > 1 or tensor.is_floating_point():
        return
    if tensor.dtype == torch.bool:
        rare = tensor if int(tensor.sum()) * 2 <= tensor.numel() else ~tensor
        found.ids.update(torch.atleast_1d(rare).nonzero().flatten()[:MOST_IDS].tolist())
    elif tensor.numel() <= MOST_IDS:
        found.ids.update(tensor.flatten().tolist())
        found.numbers.update(map(float, tensor.flatten().tolist()))
    if tensor.dim() == 1 and tensor.dtype != torch.bool:
        found.ids.update((tensor != torch.arange(tensor.numel())).nonzero().flatten()[:MOST_IDS].tolist())


def search(sides: Sides, cases: Sequence[Case], roles: Mapping[str, Role], seed: int) -> Witness | None:
    """A witness at the model's inputs, or None. Meta tensors have no values and so no witness."""
    if any(t.is_meta for p in (sides.a, sides.b) for t in p.tensors.values()):
        return None
    known = harvest(sides.a) | harvest(sides.b)
    generator = torch.Generator().manual_seed(seed)
    tries = _tries(sides.a, cases, roles, known, generator)
    for how, case in tries:
        found = _differs(sides, case)
        if found:
            return Witness({sides.a.leaves[n].name: v for n, v in case.items() if isinstance(v, Tensor)}, found, how)
    return _climb(sides, cases[0], roles, generator)


def _differs(sides: Sides, case: Case) -> Gap | None:
    """The gap, if it is more than rounding explains."""
    try:
        found = sides.gaps([case])[0]
    except (CannotLift, RuntimeError, IndexError):
        return None
    return found if _shows(found) else None


def _shows(found: Gap) -> bool:
    """True for a finite difference beyond rounding: an overflow in one of two equal programs is no witness."""
    return found.rho > DIFFERENT and math.isfinite(found.largest)


def _tries(
    program: Program, cases: Sequence[Case], roles: Mapping[str, Role], known: Harvest, generator: torch.Generator
) -> Iterator[tuple[str, Case]]:
    for case in cases:
        yield "the inputs given", case
    for case in cases:
        for scale in SCALES:
            yield f"random inputs of scale {scale:g}", redrawn(program, case, roles, generator, scale)
    for node, leaf in program.leaves.items():
        if roles.get(leaf.name) == "ids":
            yield from _with_ids(node, leaf.name, cases[0], known, rows_read(program, node, cases[0][node]))
        elif roles.get(leaf.name) == "values":
            for value in sorted(known.numbers, key=abs):
                yield f"{leaf.name} around {value:g}, a number of the graphs", {**cases[0], node: _around(cases[0][node], value, generator)}


def _with_ids(node: str, name: str, case: Case, known: Harvest, rows: int) -> Iterator[tuple[str, Case]]:
    like: Tensor = case[node]
    wanted = sorted(i for i in known.ids | {0, rows - 1} if 0 <= i < rows)[:MOST_IDS]
    whole = [*wanted, *(i for i in range(rows) if i not in set(wanted))][: max(MOST_IDS, like.numel())]
    for start in range(0, len(whole), max(1, like.numel())):
        some = whole[start : start + like.numel()]
        row = torch.tensor((some * like.numel())[: like.numel()], dtype=like.dtype)
        yield f"{name} through ids {some[0]}, ...", {**case, node: row.view(like.shape).to(like.device)}
    for value in wanted[:64]:
        yield f"{name} all {value}", {**case, node: torch.full_like(like, value)}


def _around(like: Tensor, value: float, generator: torch.Generator) -> Tensor:
    factor = 1 + torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (value * factor + 0.1 * torch.randn(like.shape, generator=generator, dtype=torch.float64)).to(like)


def _climb(sides: Sides, case: Case, roles: Mapping[str, Role], generator: torch.Generator) -> Witness | None:
    """Gradient ascent on the size of the float64 difference, where there is any."""
    names = [n for n, leaf in sides.a.leaves.items() if leaf.kind == "input" and roles.get(leaf.name) == "values"]
    if not names:
        return None
    now = redrawn(sides.a, case, roles, generator)
    for _ in range(ASCENT):
        inputs = {n: now[n].detach().double().requires_grad_() for n in names}
        ours = sweep(sides.a, [{**now, **inputs}], [x for _, x, _ in sides.outputs], torch.float64, keep=True)[0]
        theirs = sweep(
            sides.b, [sides.of_b({**now, **inputs})], [y for _, _, y in sides.outputs], torch.float64, tensors=sides.override, keep=True
        )[0]
        gaps = [
            (theirs[y] - ours[x]).square().sum() for _, x, y in sides.outputs if isinstance(ours[x], Tensor) and ours[x].is_floating_point()
        ]
        total = torch.stack(gaps).sum() if gaps else torch.zeros(())
        if not total.requires_grad or not 0 < float(total.detach()) < math.inf:
            return None
        slopes = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
        now = dict(now)
        for (name, value), slope in zip(inputs.items(), slopes, strict=True):
            if slope is not None and bool(slope.isfinite().all()):
                step = slope / slope.square().mean().sqrt().clamp(min=1e-300) * value.detach().square().mean().sqrt()
                now[name] = (value.detach() + 0.3 * step).to(case[name])
        found = _differs(sides, now)
        if found:
            return Witness({sides.a.leaves[n].name: v for n, v in now.items() if isinstance(v, Tensor)}, found, "gradient ascent")
    return None


def search_region(
    sides: Sides, name: str, cuts: Sequence[tuple[str, str]], case: Case, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> Witness | None:
    """A witness at the cuts before the region `name`: values there (pairs of nodes, `shapes` by the node of `b`) on which outputs differ.

    It is not shown that the model's inputs can reach these values.
    """
    if any(t.is_meta for p in (sides.a, sides.b) for t in p.tensors.values()):
        return None
    generator = torch.Generator().manual_seed(seed)
    read = _read(sides, cuts)
    numbers = sorted((harvest(sides.a) | harvest(sides.b)).numbers, key=abs) if read else []
    tries = [(f"scale {s:g}", s, 0.0) for s in SCALES] + [(f"size {v:g}, a number of the graphs", abs(v), v) for v in numbers if v]
    for how, scale, centre in tries if read else ():
        drawn = {b: centre + scale * torch.randn(shapes[b], generator=generator, dtype=torch.float64) for _, b in read}
        found = _outputs_differ(sides, {**case, **{a: drawn[b] for a, b in read}}, {**sides.of_b(case), **drawn})
        if found:
            return Witness(drawn, found, f"random values of {how}", reachable=False, region=name)
    return None


def _outputs_differ(sides: Sides, ours: Case, theirs: Case) -> Gap | None:
    """The worst gap over the outputs, if it is more than rounding explains."""
    names = [[x for _, x, _ in sides.outputs], [y for _, _, y in sides.outputs]]
    try:
        p = [sweep(sides.a, [ours], names[0], d)[0] for d in (torch.float32, torch.float64)]
        q = [sweep(sides.b, [theirs], names[1], d, tensors=sides.override)[0] for d in (torch.float32, torch.float64)]
    except (CannotLift, RuntimeError, IndexError):
        return None
    total = Gap()
    for name, x, y in sides.outputs:
        total = total.worst(gap(p[0][x], q[0][y], p[1][x], q[1][y], name))
    return total if _shows(total) else None


def _read(sides: Sides, cuts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The cuts that the outputs read on either side, when all of them are cut."""
    reach = [
        {node.name for node in needed([program.nodes[top] for top in tops], {program.nodes[name] for name in known})}
        for program, tops, known in (
            (sides.a, [x for _, x, _ in sides.outputs], [a for a, _ in cuts]),
            (sides.b, [y for _, _, y in sides.outputs], [b for _, b in cuts]),
        )
    ]
    return [(a, b) for a, b in cuts if a in reach[0] or b in reach[1]]
