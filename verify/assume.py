"""Assumptions: what a user vouches for, by name, and what a proof that needed it then says.

"mylib::gate is elementwise" (or row-wise: over the last axis, or linear) gives a meaning to an op without a rule; it is tried on floats
before it is used. "literals are roots" reads a literal within one ulp of a root of a small fraction as that root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx

from rewrite.errors import InputError
from verify.rules import RULES
from verify.rules.declared import spelled, with_holes
from verify.structure import Side
from verify.value import mapped

Kind = Literal["elementwise", "row-wise", "linear"]
ROOTS = "literals are roots"
FORMS = f"'library::op is {', is '.join(get_args(Kind))}', '{ROOTS}'"
SCALES = (1.0, 1e-2, 30.0)  # of the numbers that a declaration is tried on


@dataclass(frozen=True)
class Assumed:
    """What may be assumed: what ops are, and whether literals may be read as roots."""

    ops: Mapping[Any, Kind] = field(default_factory=dict)
    roots: bool = False


NOTHING = Assumed()


def read(sentences: Sequence[str]) -> Assumed:
    """The assumptions that sentences make.

    Raises: InputError for other sentences, for ops that do not exist, and for ops that have a rule already.
    """
    if isinstance(sentences, str):
        sentences = [sentences]
    ops: dict[Any, Kind] = {}
    for sentence in sentences or ():
        if not isinstance(sentence, str):
            raise InputError(f"assuming: expected one of {FORMS}, got {sentence!r}.")
        found = re.fullmatch(r"(\w+)(?:::|\.)(\w+)(?:\.(\w+))? is (\S+)", sentence.strip())
        if sentence.strip() != ROOTS and (found is None or found[4] not in get_args(Kind)):
            raise InputError(f"assuming: expected one of {FORMS}, got {sentence!r}.")
        if found is not None:
            ops[_op(found[1], found[2], found[3] or "default")] = found[4]  # type: ignore[assignment]
    return Assumed(ops, any(sentence.strip() == ROOTS for sentence in sentences or ()))


def _op(library: str, name: str, overload: str) -> Any:
    packet = getattr(getattr(torch.ops, library), name, None)
    op = getattr(packet, overload, None)
    if not isinstance(op, torch._ops.OpOverload):
        raise InputError(f"assuming: expected an op that torch knows, got {library}::{name}.{overload}. Import what registers it first.")
    if op in RULES:
        raise InputError(f"assuming: expected an op without a rule, got {op}, whose meaning is known. Leave it out.")
    return op


# Declarations are tried on floats where the programs call the op: with its own attributes, at its own shapes


def try_declarations(assumed: Assumed, sides: Sequence[Side]) -> None:
    """Raises: InputError with a counterexample where an op is not what it is said to be."""
    for side in sides:
        for node in side.graph.nodes:
            if node.op == "call_function" and node.target in assumed.ops:
                kind, spoken = assumed.ops[node.target], spelled(node.target)
                for seed, scale in enumerate(SCALES):
                    wrong = _counterexample(kind, *_at_node(side, node), torch.Generator().manual_seed(seed), scale)
                    if wrong:
                        raise InputError(
                            f"assuming {spoken} is {kind}: expected {REQUIRED[kind]}, got {wrong} at {node.name}"
                            f" (random numbers of seed {seed} and size {scale:g}). It is not {kind}."
                        )


def _at_node(side: Side, node: fx.Node) -> tuple[Callable[..., Tensor], list[tuple[int, ...]], torch.dtype]:
    """The op as a function of its tensors alone, and their shapes and type."""
    read: list[fx.Node] = []

    def hole(leaf: Any) -> Any:
        number = side.known_number(leaf) if isinstance(leaf, fx.Node) else None
        if number is not None or not isinstance(leaf, fx.Node):
            return leaf if number is None else number
        read.append(leaf)
        return leaf

    args, kwargs = mapped(hole, (tuple(node.args), dict(node.kwargs)))
    shapes = [side.shape(n.name) for n in read]
    op: Any = node.target
    return with_holes(op, args, kwargs, lambda leaf: isinstance(leaf, fx.Node)), shapes, read[0].meta["val"].dtype


def _counterexample(
    kind: Kind, op: Callable[..., Tensor], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, generator: torch.Generator, scale: float
) -> str:
    """What contradicts a declaration on random numbers; empty if nothing does."""
    one, other = ([(torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(dtype) for s in shapes] for _ in range(2))
    if kind != "elementwise" and len(shapes) != 1:
        return f"{len(shapes)} tensors"
    if not isinstance(op(*one), Tensor):
        return "several results"
    if kind == "linear":
        return _compared(op(2 * one[0] - 3 * other[0]), 2 * op(one[0]) - 3 * op(other[0]), "op(2x - 3y) and 2 op(x) - 3 op(y)")
    return _strays(kind, op, one, other, generator)


def _strays(kind: Kind, op: Callable[..., Tensor], one: Sequence[Tensor], other: Sequence[Tensor], generator: torch.Generator) -> str:
    """What shows that an element, or a row, of a result depends on others, or on its place; empty if nothing does."""
    wide, more = (list(torch.broadcast_tensors(*tensors)) for tensors in (one, other))
    shape = wide[0].shape if kind == "elementwise" else wide[0].shape[:-1]
    if op(*one).shape[: len(shape)] != shape or (kind == "elementwise" and op(*one).shape != shape):
        return f"a result of shape {list(op(*one).shape)} of tensors of shape {list(wide[0].shape)}"
    unit = "element" if kind == "elementwise" else "row"
    rows = lambda t: t.reshape(shape.numel(), -1)  # noqa: E731
    kept = torch.rand(shape.numel(), generator=generator) < 0.5
    order = torch.randperm(shape.numel(), generator=generator)
    mixed = [torch.where(kept[:, None], rows(s), rows(t)).view(s.shape) for s, t in zip(wide, more, strict=True)]
    turned = [rows(t)[order].view(t.shape) for t in wide]
    first = rows(op(*one))
    return _compared(first[kept], rows(op(*mixed))[kept], f"one {unit} of it before and after only others changed") or (
        _compared(first[order], rows(op(*turned)), f"each {unit} of it at its place and at another one")
    )


def _compared(x: Tensor, y: Tensor, what: str) -> str:
    size = float(x.abs().nan_to_num().max()) if x.numel() else 0.0
    apart = ~torch.isclose(x, y, rtol=0, atol=2.0**10 * torch.finfo(x.dtype).eps * size, equal_nan=True)
    if not bool(apart.any()):
        return ""
    at = tuple(apart.nonzero()[0].tolist())
    return f"{float(x[at]):.6g} and {float(y[at]):.6g} for {what}"


REQUIRED: dict[Kind, str] = {
    "elementwise": "each element of the result to depend on the elements at its own place alone",
    "row-wise": "each row of the result to depend on its own row alone",
    "linear": "op(2x - 3y) to be 2 op(x) - 3 op(y)",
}
