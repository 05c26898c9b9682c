"""Ops that only move elements: torch's own, done to the residues and to every mask beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verify.algebra import Algebra, nothing
from verify.rules.table import Rule, Table
from verify.value import Choice, Concrete, Field, Value, flat, is_value, mapped, short, some, whole

aten = torch.ops.aten
MARKS = ("hard", "soft", "undefined", "decided")


def moved(a: Algebra, op: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
    """`op` done to every tensor-like argument as residues, and to their masks."""
    if any(isinstance(v, Choice) for v in flat([*args, *kwargs.values()])):
        return _moved_choice(a, op, *args, **kwargs)
    args, kwargs = mapped(lambda v: a.field(v) if is_value(v) else v, (args, kwargs))
    fields = [v for v in flat([*args, *kwargs.values()]) if isinstance(v, Field)]
    run = lambda pick: op(*_picked(args, pick), **_picked(kwargs, pick))  # noqa: E731
    parts = [run(lambda v, i=i: v.parts[i]) for i in range(a.math.count)]
    masks = {m: run(lambda v, m=m: _mask(v, m)) for m in MARKS if any(getattr(v, m) is not None for v in fields)}
    degree = fields[0].degree
    for v in fields[1:]:
        degree = degree.plus(v.degree)
    mark = lambda masks, m: some(masks[m]) if m in masks else None  # noqa: E731
    build = lambda parts, masks: Field(  # noqa: E731
        tuple(parts),
        degree,
        mark(masks, "hard"),
        mark(masks, "soft"),
        mark(masks, "undefined"),
        fields[0].dtype,
        decided=mark(masks, "decided"),
    )
    if isinstance(parts[0], Tensor):
        out: Any = build(parts, masks)
    else:
        out = tuple(build([p[j] for p in parts], {m: t[j] for m, t in masks.items()}) for j in range(len(parts[0])))
    if all(v.tangent is None for v in fields):
        return out
    tangents = moved(a, op, *_tangents(args), **_tangents(kwargs))
    return out.moving(tangents) if isinstance(out, Field) else tuple(o.moving(t) for o, t in zip(out, tangents, strict=True))


def _tangents(tree: Any) -> Any:
    return mapped(lambda v: v.tangent or nothing(v) if isinstance(v, Field) else v, tree)


def _picked(tree: Any, pick: Callable[[Field], Tensor]) -> Any:
    return mapped(lambda v: pick(v) if isinstance(v, Field) else v, tree)


def _mask(value: Field, name: str) -> Tensor:
    mask = getattr(value, name)
    return torch.zeros(value.shape, dtype=torch.bool) if mask is None else mask


def _moved_choice(a: Algebra, op: Callable[..., Any], x: Value, *args: Any, **kwargs: Any) -> Value:
    """A choice is moved by its leading dimensions: the weights are vmapped over their last."""
    if not isinstance(x, Choice) or any(is_value(v) for v in flat([*args, *kwargs.values()])):
        a.refuse("chosen positions joined with other values")
    out = moved(a, torch.vmap(lambda t: op(t, *args, **kwargs), in_dims=-1, out_dims=-1), x.weights)
    return tuple(Choice(w) for w in out) if isinstance(out, tuple) else Choice(out)


def mover(op: Callable[..., Any]) -> Rule:
    """The rule of an op that only moves elements; those that take on another type on the way are cast."""

    def rule(a: Algebra, *args: Any, **kwargs: Any) -> Value:
        joined = lambda v: cast(a, v, a.out) if isinstance(v, (Field, Concrete)) and v.dtype != a.out else v  # noqa: E731
        args, kwargs = mapped(joined, (args, kwargs))
        return moved(a, op, *args, **kwargs)

    return rule


def same(a: Algebra, x: Value, *_: Any, **__: Any) -> Value:
    """The value itself: copies, layouts."""
    return x if isinstance(x, (Field, Choice)) else a.field(x)


def detach(a: Algebra, x: Value) -> Value:
    """The value itself, of derivative zero."""
    return x if isinstance(x, Choice) else a.still(a.field(x))


def dropout(a: Algebra, x: Value, p: float, train: bool) -> Value:
    """The value itself, out of training."""
    return a.refuse("dropout in training mode") if train else x


def cast(a: Algebra, x: Value, dtype: torch.dtype | None = None, *_: Any, **__: Any) -> Value:
    """The value itself in a type that holds it (a shorter float type is noted), else a function of it."""
    if isinstance(x, Choice):
        return x if dtype in (None, torch.int64, torch.int32) else a.refuse("chosen positions read as other numbers")
    x = a.field(x)
    if dtype is None or dtype == x.dtype:
        return x
    if dtype == torch.bool:
        return a.truth(x)
    if dtype.is_complex:
        return a.refuse("complex numbers have no place in the field")
    if not dtype.is_floating_point:
        return _whole(a, x, dtype)
    if whole(x.dtype) and short(dtype):
        return replace(a.oracle(f"rounded {dtype}", x), dtype=dtype)
    if x.dtype.is_floating_point and torch.finfo(dtype).bits < torch.finfo(x.dtype).bits:
        a.world.tally.note(a.world.tally.narrowings, a.node)
    return replace(x, dtype=dtype)


def _whole(a: Algebra, x: Field, dtype: torch.dtype) -> Field:
    if x.dtype == torch.bool or (not x.dtype.is_floating_point and holds(dtype, x.dtype)):
        return replace(x, dtype=dtype)
    x = a.steady(x)
    if not x.dtype.is_floating_point:
        out = a.oracle(f"wrapped {dtype}", x)
    else:
        out = a.oracle("trunc", x, odd=True) if dtype == torch.int64 else a.oracle(f"trunc {dtype}", x)
    return replace(out, dtype=dtype)


def holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """True if every number of the other type of whole numbers is one of this type."""
    wide, narrow = torch.iinfo(dtype), torch.iinfo(other)
    return wide.min <= narrow.min and wide.max >= narrow.max


def to_copy(a: Algebra, x: Value, *, dtype: torch.dtype | None = None, **_: Any) -> Value:
    """aten._to_copy."""
    return cast(a, x, dtype)


def padded(a: Algebra, x: Value, pad: Sequence[int], value: float = 0) -> Field:
    """x with a border of one number, which may be -inf."""
    border = a.field(float(value or 0))
    put = lambda t, fill: aten.constant_pad_nd(t, pad, fill)  # noqa: E731
    x = a.field(x)
    parts = tuple(put(part.double(), float(fill)) for part, fill in zip(x.parts, border.parts, strict=True))
    mark = lambda name: _padded_mask(x, border, name, put)  # noqa: E731
    out = Field(parts, x.degree, mark("hard"), mark("soft"), mark("undefined"), x.dtype, decided=mark("decided"))
    return out if x.tangent is None else out.moving(padded(a, x.tangent, pad))


def _padded_mask(x: Field, border: Field, name: str, put: Callable[[Tensor, Any], Tensor]) -> Tensor | None:
    fill = getattr(border, name) is not None
    return some(put(_mask(x, name), fill)) if fill or getattr(x, name) is not None else None


def pad(a: Algebra, x: Value, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """aten.pad: a border of one number, or of moved elements."""
    return padded(a, x, amounts, value or 0) if mode == "constant" else moved(a, lambda t: aten.pad(t, amounts, mode), x)


def like(op: Callable[..., Tensor]) -> Rule:
    """The rule of an op that reads only the shape and type of a value: its result is plain."""

    def rule(a: Algebra, x: Value, *args: Any, **kwargs: Any) -> Concrete:
        return Concrete(op(torch.empty(x.shape, dtype=x.dtype), *args, **kwargs))

    return rule


def blank(op: Callable[..., Tensor]) -> Rule:
    """The rule of an op whose result is not set: undefined until it is overwritten."""
    made = like(op)

    def rule(a: Algebra, x: Value, *args: Any, **kwargs: Any) -> Concrete:
        out = made(a, x, *args, **kwargs)
        return (
            Concrete(torch.full_like(out.data, torch.nan))
            if out.data.dtype.is_floating_point
            else a.refuse("whole numbers that are not set")
        )

    return rule


def viewed(a: Algebra, x: Value, shape: Sequence[int], *_: Any) -> Value:
    """view and reshape: strides have no meaning here."""
    return moved(a, lambda t: t.reshape(shape), x)


MOVERS = (
    aten.t.default, aten.transpose.int, aten.permute.default, aten.numpy_T.default, aten.mT.default, aten.movedim.intlist, aten.movedim.int,
    aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default, aten.broadcast_to.default,
    aten.flatten.using_ints, aten.unflatten.int, aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.split.Tensor,
    aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int, aten.cat.default, aten.stack.default, aten.repeat.default,
    aten.repeat_interleave.self_int, aten.tril.default, aten.triu.default, aten.roll.default, aten.flip.default, aten.diagonal.default,
    aten.slice_scatter.default, aten.select_scatter.default, aten.diagonal_scatter.default, aten.unfold.default,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.diag_embed.default, aten.tile.default, aten.swapaxes.default,
    aten.broadcast_tensors.default,
)  # fmt: skip

SHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten._reshape_alias.default)

SAME = (
    aten.clone.default, aten.alias.default, aten.contiguous.default, aten.lift_fresh_copy.default,
    aten.lift_fresh.default, aten.positive.default,
)  # fmt: skip

LIKES = (
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.new_zeros.default, aten.new_ones.default,
    aten.new_full.default,
)  # fmt: skip

TABLE: Table = {
    **{op: mover(op) for op in MOVERS},
    aten.broadcast_tensors.default: lambda a, tensors: moved(a, aten.broadcast_tensors.default, tensors),  # each keeps its type
    **dict.fromkeys(SHAPES, viewed),
    **dict.fromkeys(SAME, same),
    aten.detach.default: detach,
    **{op: like(op) for op in LIKES},
    aten.empty_like.default: blank(aten.empty_like.default),
    aten.new_empty.default: blank(aten.new_empty.default),
    aten.dropout.default: dropout,
    aten.to.dtype: cast,
    aten._to_copy.default: to_copy,
    aten.to.dtype_layout: to_copy,
    aten.to.device: lambda a, x, device, dtype, *_, **__: cast(a, x, dtype),
    aten.type_as.default: lambda a, x, y: cast(a, x, y.dtype),
    aten.expand_as.default: lambda a, x, y: moved(a, lambda t: t.expand(y.shape), x),
    aten.view_as.default: lambda a, x, y: viewed(a, x, y.shape),
    aten.copy.default: lambda a, x, y, _=False: moved(a, lambda t: t.expand(x.shape), cast(a, y, x.dtype)),
    aten.fill.Scalar: lambda a, x, value: like(aten.full_like.default)(a, x, value),
    aten.fill.Tensor: lambda a, x, value: moved(a, lambda t: t.expand(x.shape), cast(a, value, x.dtype)),
    aten.constant_pad_nd.default: padded,
    aten.pad.default: pad,
}
