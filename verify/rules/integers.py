"""Plain data that depends on token ids: torch's own result, an atom that names the expression, a shadow where it has a value.

Movement permutes atoms. Any other op hashes the op, its attributes, and its operands: atoms of ids, contents of plain tensors. A
comparison of ids is worth its true bit where it builds masks, positions and indices, and its shadow where it meets residues:
equality a random symmetric function of the two atoms, x > y a random function of both, and their complements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verify.algebra import Algebra, Refused
from verify.oracle import Lanes
from verify.rules import RULES
from verify.rules.elementwise import CHOOSING
from verify.rules.movement import LIKES, MOVERS, SAME, SHAPES, holds
from verify.value import Concrete, Field, Value, flat, mapped, short, whole

aten = torch.ops.aten
MOVED = frozenset((*MOVERS, *SHAPES, *SAME, aten.detach.default))
READ_AT = frozenset((aten.index.Tensor, aten.gather.default, aten.index_select.default))
WHERE = (aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)
SYNONYMS = {
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
    aten.min.other: aten.minimum.default,
    aten.max.other: aten.maximum.default,
}
WIDENED = (aten._to_copy.default, aten.to.dtype)


def run(a: Algebra, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    """The value of an op on plain data of which some depends on ids."""
    data = op(*_data(args), **_data(kwargs))
    op, args, kwargs = _named(op, args, kwargs, data)
    if op is aten.constant_pad_nd.default and _kept(data, args):
        return Concrete(data, _padded(a, data, *args), _shadow(a, op, args, kwargs, data))
    if not isinstance(data, Tensor):
        return _several(a, op, args, kwargs, data)
    if (op in MOVED and _kept(data, args)) or (op in READ_AT and _plain_positions(args)):
        return Concrete(data, _moved_atoms(a, op, args, kwargs, data), _shadow(a, op, args, kwargs, data))
    if op in LIKES:
        return Concrete(data)
    if op in WIDENED and _holds(data.dtype, args[0].dtype):
        return Concrete(data, args[0].atom, args[0].shadow)
    return _worth(a, args, kwargs, Concrete(data, _hashed(a, op, args, kwargs, data), _shadow(a, op, args, kwargs, data)))


def _worth(a: Algebra, args: tuple[Any, ...], kwargs: dict[str, Any], out: Concrete) -> Concrete:
    """The result, marked where it is a float mask, or is one for other ids: what is masked is so for the ids given."""
    if not out.dtype.is_floating_point:
        return out
    given = flat([*args, *kwargs.values()])
    masks = [v for v in given if isinstance(v, Concrete) and _is_mask(a, v)]
    written = _extreme(a, out.data) or any(v.atom is None for v in masks) or any(_huge(a, v, out.dtype) for v in given)
    if written:
        a.steer(*(v for v in given if isinstance(v, Concrete) and not _is_mask(a, v)))
    known = out.shadow is not None and (out.shadow.tagged or not written)
    return out if known or not (written or masks) else replace(out, shadow=a.marked(out))


def _is_mask(a: Algebra, x: Concrete) -> bool:
    return x.dtype.is_floating_point and (_extreme(a, x.data) or (x.shadow is not None and x.shadow.tagged))


def _huge(a: Algebra, x: Any, dtype: torch.dtype) -> bool:
    """True for a number that makes a mask of what it is multiplied with."""
    return isinstance(x, (int, float)) and any(abs(x) >= -low for low in a.world.lowest(dtype))


def _named(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """An op by the one name that it has here, as atoms hold the names of ops."""
    if op in WHERE:
        return aten.where.self, tuple(v if isinstance(v, Concrete) else Concrete(torch.tensor(v, dtype=data.dtype)) for v in args), kwargs
    if op in FILLS:
        x, mask, value = args
        return _named(aten.where.ScalarSelf, (mask, value, x), kwargs, data)
    if op is aten.floor_divide.default:
        return aten.div.Tensor_mode, args, {"rounding_mode": "floor"}
    if op is aten.nan_to_num.default:
        x, nan, high, low = (*args, *[None] * (4 - len(args)))
        ends = torch.finfo(data.dtype) if data.dtype.is_floating_point else torch.iinfo(data.dtype)
        return op, (x, nan or 0.0, ends.max if high is None else high, ends.min if low is None else low), kwargs
    if op is aten.pad.default:
        _, amounts, mode, value = (*args, *("constant", None)[len(args) - 2 :])
        if mode == "constant" and not kwargs:
            return aten.constant_pad_nd.default, (args[0], amounts, value or 0), kwargs
    if op in (aten.type_as.default, *WIDENED):
        return aten._to_copy.default, args[:1], {"dtype": data.dtype}
    return SYNONYMS.get(op, op), args, kwargs


def _padded(a: Algebra, data: Tensor, x: Value, amounts: Sequence[int], value: float = 0) -> Lanes:
    """The atoms of x with a border of the atom of one number."""
    border = atoms(a, Concrete(torch.tensor(value, dtype=data.dtype)))
    lanes = atoms(a, x) if isinstance(x, Concrete) else a.refuse("a border of values")
    return tuple(aten.constant_pad_nd(lane, amounts, int(fill)) for lane, fill in zip(lanes, border, strict=True))


def _data(tree: Any) -> Any:
    return mapped(lambda v: v.data if isinstance(v, Concrete) else v, tree)


def _extreme(a: Algebra, data: Tensor) -> bool:
    return bool(data.isinf().any()) or any(bool((data == low).any()) for low in a.world.lowest(data.dtype))


def _rounded(data: Tensor, args: Sequence[Any]) -> bool:
    """True if whole numbers became ones of a short float type on the way."""
    return short(data.dtype) and any(isinstance(v, Concrete) and whole(v.dtype) for v in flat(args))


def _kept(data: Tensor, args: Sequence[Any]) -> bool:
    """True if every number that is moved is one of the result's type: what is written into another tensor takes on its type."""
    return all(v.dtype == data.dtype or _fits(v.dtype, data.dtype) for v in flat(args) if isinstance(v, Concrete))


def _fits(narrow: torch.dtype, wide: torch.dtype) -> bool:
    if wide.is_floating_point:
        return not short(wide) if whole(narrow) else torch.promote_types(narrow, wide) == wide
    return whole(wide) and (narrow == torch.bool or _holds(wide, narrow))


def _holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    return whole(dtype) and whole(other) and holds(dtype, other)


def _plain_positions(args: tuple[Any, ...]) -> bool:
    return all(not isinstance(v, Concrete) or v.atom is None for v in flat(args[1:]))


def _several(a: Algebra, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], data: Any) -> Value:
    if not isinstance(data, (list, tuple)):
        a.refuse("a number that the program's shape or course may depend on is read from token ids")
    each = lambda j: lambda *x, **y: op(*x, **y)[j]  # noqa: E731
    if op in MOVED:
        shadows = _ruled(a, op, args, kwargs, data[0]) if data else None
        return tuple(Concrete(t, _moved_atoms(a, each(j), args, kwargs, t), shadows and shadows[j]) for j, t in enumerate(data))
    return tuple(_worth(a, args, kwargs, Concrete(t, _whole_hash(a, f"{op} {j}", args, kwargs, t))) for j, t in enumerate(data))


def atoms(a: Algebra, x: Concrete) -> Lanes:
    """The atom of plain data: its content, where it does not depend on ids."""
    if x.atom is not None:
        return x.atom
    if x.data.dtype.is_floating_point:
        return a.world.oracles.integers("content of floats", x.data.double().view(torch.int64))
    return a.world.oracles.integers("content", x.data)


def _moved_atoms(a: Algebra, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], data: Tensor) -> Lanes:
    first = flat(args[:1] if op in READ_AT else [*args, *kwargs.values()])
    named = {id(v): atoms(a, v) for v in first if isinstance(v, Concrete)}

    def lane(j: int) -> Tensor:
        swap = lambda v: named[id(v)][j] if id(v) in named else (v.data if isinstance(v, Concrete) else v)  # noqa: E731
        return op(*mapped(swap, args), **mapped(swap, kwargs)).expand(data.shape)

    return tuple(map(lane, range(a.world.oracles.lanes)))


def _hashed(a: Algebra, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data: Tensor) -> Lanes:
    """Element by element for a pointwise op, else with everything that went in."""
    by_element = op in CHOOSING or torch.Tag.pointwise in getattr(op, "tags", ())
    if not by_element or any(v.shape and v.data.dim() > data.dim() for v in flat(args) if isinstance(v, Concrete)):
        return _whole_hash(a, str(op), args, kwargs, data)
    values = [v for v in flat([*args, *kwargs.values()]) if isinstance(v, Concrete)]
    joined = a.world.oracles.absorb(
        "pointwise", a.world.oracles.constant(_text(op, args, kwargs, sizes=False)), *(atoms(a, v) for v in values)
    )
    return tuple(lane.expand(data.shape) for lane in joined)


def _whole_hash(a: Algebra, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], data: Tensor) -> Lanes:
    oracles = a.world.oracles
    total: Any = oracles.constant(_text(name, args, kwargs))
    for v in (v for v in flat([*args, *kwargs.values()]) if isinstance(v, Concrete)):
        place = oracles.integers("place", torch.arange(v.data.numel()).view(v.shape))
        summed = tuple(lane.sum() for lane in oracles.absorb("whole", atoms(a, v), place))
        total = oracles.absorb("operand", total, summed)
    position = oracles.integers("result", torch.arange(data.numel()).view(data.shape))
    return tuple(lane.expand(data.shape) for lane in oracles.absorb("element", total, position))


def _text(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: bool = True) -> str:
    """An op and its attributes: all that an atom's name holds beside the operands."""
    shape = lambda v: tuple(v.shape) if sizes else ""  # noqa: E731
    shown = mapped(lambda v: f"<{v.dtype} {shape(v)}>" if isinstance(v, Concrete) else v, (args, sorted(kwargs.items())))
    return f"{op} {shown}"


def _shadow(a: Algebra, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data: Tensor) -> Field | None:
    """What the result is worth among residues, if its operands are worth something there."""
    if op in COMPARISONS:
        return COMPARISONS[op](a, *args)
    out = _ruled(a, op, args, kwargs, data)
    return out if isinstance(out, Field) else None


def _ruled(a: Algebra, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data: Tensor) -> Value:
    """What the rule of the op gives, None if there is nothing that it would be worth."""
    values = [v for v in flat([*args, *kwargs.values()]) if isinstance(v, Concrete)]
    if (
        op not in RULES
        or (op not in WIDENED and _rounded(data, args))
        or not (op is aten.one_hot.default or data.dtype.is_floating_point or any(v.shadow is not None for v in values))
    ):
        return None
    try:
        return RULES[op](a, *args, **kwargs)
    except Refused:
        return None  # the atom still names it


def _pair(a: Algebra, x: Value, y: Value) -> tuple[Concrete, Concrete, tuple[int, ...]]:
    both = [v if isinstance(v, Concrete) else Concrete(torch.tensor(v)) for v in (x, y)]
    return both[0], both[1], tuple(torch.broadcast_shapes(both[0].shape, both[1].shape))


def _equal(a: Algebra, x: Value, y: Value) -> Field:
    x, y, shape = _pair(a, x, y)
    total = tuple((s + t).expand(shape) for s, t in zip(atoms(a, x), atoms(a, y), strict=True))
    return _of_alike(a, x, y, 1.0, a.world.atom_value("equal ids", a.world.oracles.permuted("equal ids", total), x.data == y.data))


def _above(a: Algebra, x: Value, y: Value) -> Field:
    x, y, shape = _pair(a, x, y)
    total = a.world.oracles.absorb("above", atoms(a, x), atoms(a, y))
    return _of_alike(a, x, y, 0.0, a.world.atom_value("compared ids", tuple(t.expand(shape) for t in total), x.data > y.data))


def _of_alike(a: Algebra, x: Concrete, y: Concrete, known: float, value: Field) -> Field:
    """The value of a comparison, which is known where both sides are one expression of whole numbers: floats may be NaN."""
    if x.dtype.is_floating_point or y.dtype.is_floating_point:
        return value
    alike = torch.stack([s.eq(t).expand(value.shape) for s, t in zip(atoms(a, x), atoms(a, y), strict=True)]).all(0)
    return replace(value, parts=tuple(part.masked_fill(alike, known) for part in value.parts)) if bool(alike.any()) else value


def _comparisons() -> dict[Any, Callable[..., Field]]:
    table = {}
    six = {
        "eq": _equal,
        "ne": lambda a, x, y: a.sub(1, _equal(a, x, y)),
        "gt": _above,
        "lt": lambda a, x, y: _above(a, y, x),
        "le": lambda a, x, y: a.sub(1, _above(a, x, y)),
        "ge": lambda a, x, y: a.sub(1, _above(a, y, x)),
    }
    for name, rule in six.items():
        table[getattr(aten, name).Tensor] = table[getattr(aten, name).Scalar] = rule
    return table


COMPARISONS = _comparisons()
