"""Whether a difference is one of functions, or only of rounding.

A comparison or an argmax jumps where two numbers are equal; rounding then decides, and two correct programs may end up on either side.
And where float32 loses a value altogether (y beside a far larger f, in f + (y - f)), its error says nothing of what float64 keeps. So both
programs are run again with rounding errors drawn at random: what differs by rounding alone moves with them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from rewrite.program import Program
from rewrite.run import needed
from verify.ladder import Sides
from verify.rules import movement
from verify.shadow import Case, sweep
from verify.structure import floating

aten = torch.ops.aten
DRAWS = 16
NOISE = 2.0**-48  # relative, for every op: about what float64 loses in a few
STEPS = (
    aten.floor.default, aten.ceil.default, aten.round.default, aten.trunc.default, aten.frac.default, aten.sign.default, operator.floordiv,
    operator.mod,
)  # fmt: skip
EXACT = frozenset((*movement.TABLE, aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.embedding.default))


def jumps(program: Program) -> bool:
    """True if a program can jump: a float number decides about something that is none, or is cut to a whole one."""
    return any(
        node.target in STEPS or (any(map(_continuous, node.all_input_nodes)) and _decides(node.meta.get("val")))
        for node in needed(program.outputs)
        if node.op == "call_function"
    )


def _continuous(node: fx.Node) -> bool:
    return floating(node) or isinstance(node.meta.get("val"), torch.SymFloat)


def _decides(value: Any) -> bool:
    whole = lambda one: not one.is_floating_point() if isinstance(one, Tensor) else isinstance(one, torch.SymInt | torch.SymBool)  # noqa: E731
    return any(map(whole, tree_leaves(value)))


def steady(sides: Sides, ours: Case, theirs: Case) -> bool:
    """True if some output differs by more than random rounding errors move it, in every run, at the same elements.

    `ours` and `theirs` are what either program is given.
    """
    p = _runs(sides.a, ours, [x for _, x, _ in sides.outputs], {})
    q = _runs(sides.b, theirs, [y for _, _, y in sides.outputs], sides.override)
    return any(_apart([run[x] for run in p], [run[y] for run in q]) for _, x, y in sides.outputs)


def _runs(program: Program, case: Case, want: Sequence[str], tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    plain = sweep(program, [case], want, torch.float64, tensors=tensors)
    generator = torch.Generator().manual_seed(0)
    return plain + [
        sweep(program, [case], want, torch.float64, tensors=tensors, after=_blurred(generator))[0] for _ in range(DRAWS)
    ]  # fmt: skip


def _blurred(generator: torch.Generator) -> Callable[[fx.Node, Any], Any]:
    """What adds a rounding error to each number that an op calculated; whole numbers are taken for exact."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        error = (torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 1).to(value.device) * NOISE
        return torch.where(value.isfinite() & (value != value.round()), value * (1 + error), value)

    return lambda node, value: value if node.target in EXACT else tree_map(one, value)


def _apart(p: Sequence[Any], q: Sequence[Any]) -> bool:
    """True if some element of two values differs in every run by more than it moves from run to run."""
    if not all(isinstance(x, Tensor) for x in (*p, *q)):
        return any(x != y for x, y in zip(p, q, strict=True))
    if p[0].shape != q[0].shape:
        return True
    one, other = torch.stack([x.double() for x in p]), torch.stack([y.double() for y in q])
    moved = (one - one[0]).abs().amax(0) + (other - other[0]).abs().amax(0)
    return bool(((one - other).abs().amin(0) > 4 * moved).any())
