"""Op classes: the op that writes a site, its arguments in one canonical form, however it was traced.

    linear      x [..., in], weight [out, in], bias [out] or None           linear, addmm, mm, matmul, with or without reshapes
    norm        x, weight or None, bias or None, eps, centred               layer_norm, rms_norm, and RMS norms written out
    attention   q, k, v [..., heads, positions, d], mask or None, causal, scale, grouped       scaled_dot_product_attention
    embedding   weight [vocabulary, d], ids

Nothing here edits a graph: an operand that has to be moved (transposed, reshaped) first is described, the splicer makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rewrite.terms import Skip

aten = torch.ops.aten
PASSING = (aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default, aten.dropout.default)
RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)


@dataclass(frozen=True, slots=True)
class Move:
    """An op that only moves elements, and its arguments after the first."""

    target: Any
    arguments: tuple[Any, ...]


TRANSPOSE = Move(aten.permute.default, ([1, 0],))


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor argument of an op: a node, and the moves that it has to go through first."""

    node: fx.Node
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """The op that writes a site: its node, and its canonical arguments (Operand, None or a plain number)."""

    node: fx.Node
    arguments: tuple[Any, ...]


def shape(node: fx.Node) -> tuple[Any, ...]:
    """The symbolic shape of a node's value."""
    return tuple(node.meta["val"].shape)


def same_shape(a: Any, b: Any) -> bool:
    """True if two symbolic shapes are equal for all sizes."""
    return len(a) == len(b) and all(x is y or statically_known_true(x == y) for x, y in zip(a, b, strict=True))


def depends_on_inputs(node: fx.Node, inputs: frozenset[str]) -> bool:
    """True if `node` is computed from one of the placeholders named `inputs`."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        if at.op == "placeholder" and at.name in inputs:
            return True
        stack.extend(at.all_input_nodes)
    return False


def match(kind: str, node: fx.Node) -> Match | Skip:
    """The op of class `kind` that writes `node`, or the reason why there is none."""
    return MATCHERS[kind](node)


def _skip(node: fx.Node, kind: str) -> Skip:
    return Skip(f"written by {getattr(node.target, '__name__', node.target)}, not by a {kind} op")


def linear(node: fx.Node) -> Match | Skip:
    """The linear op that writes `node`: x [..., in], weight [out, in], bias or None.

    Moves of the op's leading axes on the way to `node` become moves of x: move(x W) = move(x) W.
    """
    inner, moves = _past(node), []
    while (found := _flat_linear(inner)) is None and _moves_rows(inner):
        moves.append(inner)
        inner = _past(inner.args[0])  # type: ignore[arg-type]
    if found is None:
        return _skip(inner, "linear")
    x, weight, bias = found
    written = moves[0] if moves else inner
    before: Any = x
    while before.target in RESHAPES and not same_shape(shape(before)[:-1], shape(node)[:-1]):
        before = before.args[0]
    if all(move.target in RESHAPES for move in moves) and same_shape(shape(before), (*shape(node)[:-1], shape(x)[-1])):
        return Match(written, (Operand(before), weight, bias and Operand(bias)))
    replayed = tuple(_on_rows(move, shape(x)[-1]) for move in reversed(moves))
    return Match(written, (Operand(x, replayed), weight, bias and Operand(bias)))


def _moves_rows(node: fx.Node) -> bool:
    """True if `node` moves the leading axes of its argument only."""
    args: Any = node.args
    if node.target in RESHAPES:
        return len(args[1]) > 0 and same_shape(shape(node)[-1:], shape(args[0])[-1:])
    axes = len(shape(node))
    if node.target is aten.transpose.int:
        return all(axis % axes != axes - 1 for axis in args[1:3])
    return node.target is aten.permute.default and args[1][-1] % axes == axes - 1


def _on_rows(move: fx.Node, width: int) -> Move:
    """The same move of a tensor whose last axis has `width` elements."""
    args: Any = move.args
    return Move(move.target, ([*args[1][:-1], width],) if move.target in RESHAPES else tuple(args[1:]))


def _past(node: fx.Node) -> fx.Node:
    while node.target in PASSING:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _flat_linear(node: fx.Node) -> tuple[fx.Node, Operand, fx.Node | None] | None:
    args: Any = node.args
    if node.target is aten.linear.default:
        return args[0], Operand(args[1]), args[2] if len(args) > 2 else None
    if node.target is aten.addmm.default and not node.kwargs:
        return args[1], Operand(args[2], (TRANSPOSE,)), args[0]
    if node.target in (aten.mm.default, aten.matmul.default) and len(shape(args[1])) == 2 and len(shape(args[0])) > 1:
        return args[0], Operand(args[1], (TRANSPOSE,)), None
    if node.target is aten.add.Tensor and not node.kwargs and all(isinstance(a, fx.Node) for a in args):
        for value, bias in (args, args[::-1]):
            inner = _flat_linear(value) if len(shape(bias)) == 1 and value.op == "call_function" else None
            if inner is not None and inner[2] is None:
                return inner[0], inner[1], bias
    return None


def norm(node: fx.Node) -> Match | Skip:
    """The norm that writes `node`: x, weight, bias, eps, and whether the mean is taken off first."""
    inner = _past(node)
    args: Any = inner.args
    if inner.target is aten.layer_norm.default:
        if len(args[1]) != 1:
            return Skip("its layer norm runs over several axes")
        given: list[Any] = [*args[2:5], *(None, None, 1e-5)[len(args[2:5]) :]]
        weight, bias, eps = given
        return Match(inner, (Operand(args[0]), weight and Operand(weight), bias and Operand(bias), eps, True))
    if inner.target is aten.rms_norm.default and len(args[1]) == 1 and len(args) > 3 and args[3] is not None:
        return Match(inner, (Operand(args[0]), args[2] and Operand(args[2]), None, args[3], False))
    return _written_out(inner) or _skip(inner, "norm")


def _written_out(node: fx.Node) -> Match | None:
    for value, weight in _factors(node):
        for x, scale in _factors(value):
            eps = _mean_square_eps(x, scale)
            if eps is not None and len(shape(weight)) == 1:
                return Match(node, (Operand(x), Operand(weight), None, eps, False))
    for x, scale in _factors(node):
        eps = _mean_square_eps(x, scale)
        if eps is not None:
            return Match(node, (Operand(x), None, None, eps, False))
    return None


def _factors(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    node = _past(node)
    if node.target is not aten.mul.Tensor or not all(isinstance(a, fx.Node) for a in node.args):
        return []
    a, b = (_past(arg) for arg in node.args)  # type: ignore[arg-type]
    return [(a, b), (b, a)]


def _mean_square_eps(x: fx.Node, scale: fx.Node) -> float | None:
    """eps if `scale` is rsqrt(mean(x^2, -1) + eps)."""
    if scale.target is not aten.rsqrt.default:
        return None
    total: Any = scale.args[0]
    if total.target is not aten.add.Tensor or not isinstance(total.args[1], int | float):
        return None
    mean: Any = total.args[0]
    if mean.target is not aten.mean.dim or list(mean.args[1]) not in ([-1], [len(shape(x)) - 1]) or mean.args[2:3] != (True,):
        return None
    square: Any = mean.args[0]
    squared = (square.target is aten.pow.Tensor_Scalar and square.args[1] == 2) or (
        square.target is aten.mul.Tensor and square.args[0] is square.args[1]
    )
    return float(total.args[1]) if squared and _past(square.args[0]) is _past(x) else None


def attention(node: fx.Node) -> Match | Skip:
    """The scaled dot product attention that writes `node`: q, k, v, mask, causal, scale, grouped."""
    inner = _past(node)
    if inner.target is not aten.scaled_dot_product_attention.default:
        return _skip(inner, "attention")
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given: dict[str, Any] = {**dict(zip(names, inner.args, strict=False)), **inner.kwargs}
    q, k, v = (Operand(given[name]) for name in names[:3])
    mask = given.get("attn_mask")
    scale = given.get("scale")
    return Match(
        inner,
        (q, k, v, mask and Operand(mask), bool(given.get("is_causal")), scale or shape(q.node)[-1] ** -0.5, bool(given.get("enable_gqa"))),
    )


def embedding(node: fx.Node) -> Match | Skip:
    """The embedding that writes `node`: weight, ids."""
    inner = _past(node)
    if inner.target is not aten.embedding.default:
        return _skip(inner, "embedding")
    weight, ids, *_ = inner.args
    return Match(inner, (Operand(weight), Operand(ids)))  # type: ignore[arg-type]


MATCHERS: dict[str, Callable[[fx.Node], Match | Skip]] = {"linear": linear, "norm": norm, "attention": attention, "embedding": embedding}
