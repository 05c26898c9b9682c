"""Which axes of a value hold examples and which positions: those whose size is that of the first input's first and second axis.

Free sizes have names, so the axes of a program that is dynamic in them are known; of fixed sizes they are guessed: axes 0 and 1 of the
same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rewrite.program import Program


def first_sizes(program: Program) -> tuple[Any, Any]:
    """The sizes of the first tensor input's first and second axis: SymInts, numbers, or None where it has no such axis."""
    for name, leaf in program.leaves.items():
        value = program.nodes[name].meta.get("val")
        if leaf.kind == "input" and isinstance(value, Tensor) and value.dim():
            return value.shape[0], value.shape[1] if (value.dim() > 1 and not value.is_floating_point()) or value.dim() > 2 else None
    return None, None


def axes_of(program: Program, node: str) -> tuple[int | None, int | None]:
    """The axes of examples and of positions in the value of a node; None where there is none, or more than one."""
    shape = program.nodes[node].meta["val"].shape
    examples, positions = first_sizes(program)
    return axis_of(shape, examples, 0), axis_of(shape, positions, 1)


def axis_of(shape: Any, size: Any, guess: int) -> int | None:
    """The one axis of `shape` whose size is `size`; of numbers, axis `guess` if it is."""
    if size is None:
        return None
    if not isinstance(size, torch.SymInt):
        return guess if len(shape) > guess and isinstance(shape[guess], int) and shape[guess] == size else None
    found = [axis for axis, one in enumerate(shape) if isinstance(one, torch.SymInt) and one.node.expr == size.node.expr]
    return found[0] if len(found) == 1 else None
