"""What a graph treats apart: the numbers it compares with, the rows of its tables that stand out, the ids it waits for at positions.

A trigger has to be written down somewhere in the graph or its tables; what is written down can be tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.program import Program
from rewrite.run import needed
from verify.ladder import Sides
from verify.rules import movement
from verify.shadow import REFUSALS, CannotLift, Case, sweep

aten = torch.ops.aten
MOST_IDS, MOST_GOALS, MOST_ROWS, MOST_WAYS = 512, 256, 4096, 8
COMPARED = (aten.eq.Tensor, aten.eq.Scalar, aten.ne.Tensor, aten.ne.Scalar, aten.sub.Tensor, aten.bitwise_xor.Tensor)
MOVED = frozenset(movement.TABLE)
Wish = dict[int, int]  # ids by their position in the flat input


@dataclass
class Harvest:
    """Numbers that a graph compares or indexes with, and its lists of whole numbers."""

    ids: set[int] = field(default_factory=set)
    numbers: set[float] = field(default_factory=set)
    lists: set[tuple[int, ...]] = field(default_factory=set)

    def __or__(self, other: Harvest) -> Harvest:
        return Harvest(self.ids | other.ids, self.numbers | other.numbers, self.lists | other.lists)


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
    if tensor.is_meta or tensor.is_floating_point() or tensor.is_complex() or not tensor.numel():
        return
    if tensor.dtype == torch.bool:
        if tensor.dim() <= 1:
            rare = tensor if int(tensor.sum()) * 2 <= tensor.numel() else ~tensor
            found.ids.update(torch.atleast_1d(rare).nonzero().flatten()[:MOST_IDS].tolist())
        return
    if tensor.numel() <= MOST_IDS:
        found.ids.update(tensor.flatten().tolist())
        found.numbers.update(map(float, tensor.flatten().tolist()))
        found.lists |= {tuple(row) for row in tensor.reshape(-1, tensor.shape[-1] if tensor.dim() else 1).tolist()}
    if tensor.dim() == 1:
        found.ids.update((tensor != torch.arange(tensor.numel())).nonzero().flatten()[:MOST_IDS].tolist())


def rows_apart(sides: Sides) -> list[int]:
    """The rows in which tables of equal name differ between two programs: ids that choose them."""
    found: dict[int, None] = {}
    for x, y in sides.matching.pairs:
        ours, theirs = sides.a.tensors[x], sides.override.get(y, sides.b.tensors[y])
        if ours is theirs or ours.shape != theirs.shape or ours.dim() not in (1, 2):
            continue
        rows = (ours != theirs).flatten(1).any(1) if ours.dim() == 2 else ours != theirs
        if int(rows.sum()) * 2 <= rows.numel():
            found.update(dict.fromkeys(rows.nonzero().flatten()[:MOST_IDS].tolist()))
    return list(found)[:MOST_IDS]


# Conjunctions: what a graph compares ids with, position by position


def wishes(programs: Sequence[tuple[Program, str, Case]], rows: int) -> list[Wish]:
    """Ids at positions that would make as many comparisons of ids as can be true at once; what clashes goes into further wishes.

    `programs` are (program, the node of its ids, a case of it). Comparisons read ids moved about, never ids that were calculated with.
    """
    found: list[Wish] = []
    for number, wish in enumerate(wish for one in programs for wish in _goals(*one)):
        if number == MOST_ROWS:
            break
        if not wish or not all(0 <= value < rows for value in wish.values()):
            continue
        place = next((w for w in found if all(w.get(at, value) == value for at, value in wish.items())), None)
        if place is not None:
            place.update(wish)
        elif len(found) < MOST_WAYS:
            found.append(dict(wish))
    return found


def _goals(program: Program, node: str, case: Case) -> Iterator[Wish]:
    """For each comparison of ids with known numbers, and each row of it, the ids that meet it. Shapes: the last axis is one row."""
    moved, varying = _moved(program, node)
    live, tried = needed(program.outputs), 0
    for user in program.graph.nodes:
        if user.target not in COMPARED or user not in live or len(user.args) < 2 or tried == MOST_GOALS:
            continue
        for one, other in (user.args[:2], user.args[1::-1]):
            if one in moved and other not in varying:
                tried += 1
                yield from _rows(program, node, case, one, other)


def _moved(program: Program, node: str) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes that hold ids, copied or moved about at most, and all that depend on ids."""
    moved = {program.nodes[node]}
    varying = set(moved)
    for other in program.graph.nodes:
        if not varying.isdisjoint(other.all_input_nodes):
            varying.add(other)
            if other.target in MOVED and all(n in moved or n not in varying for n in other.all_input_nodes):
                moved.add(other)
    return moved, varying


def _rows(program: Program, node: str, case: Case, moved: Any, other: object) -> Iterator[Wish]:
    count = case[node].numel()
    places = torch.arange(count).view(case[node].shape).to(case[node])
    cases = [{**case, node: places}, {**case, node: places + count}]
    try:
        one, two = (run[moved.name] for run in sweep(program, cases, [moved.name]))
        wanted = sweep(program, [case], [other.name])[0][other.name] if isinstance(other, fx.Node) else other
        value = torch.as_tensor(wanted, device=one.device).expand(one.shape)
    except (CannotLift, KeyError, *REFUSALS):
        return
    read, row = two - one == count, one.shape[-1] if one.dim() else 1  # what moves along with the ids is one of them
    for at, want, known in zip(*(x.reshape(-1, row)[:MOST_ROWS].tolist() for x in (one, value, read)), strict=True):
        wish = {int(a): int(w) for a, w, k in zip(at, want, known, strict=True) if k and w == int(w)}
        if len(wish) == sum(known):
            yield wish
