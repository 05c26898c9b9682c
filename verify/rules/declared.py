"""Ops that a user says something of: functions of each element, of each row, or linear maps, and otherwise not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verify.algebra import Algebra
from verify.degree import FREE
from verify.value import Concrete, Field, flat, is_value, mapped

LARGEST = 1 << 22  # entries of the matrix of a linear op


def spelled(op: Any) -> str:
    """An op as one writes it: library::name, and the overload if it has one."""
    return str(op.name()).removesuffix(".default")


def with_holes(op: Callable[..., Any], args: Any, kwargs: Any, is_hole: Callable[[Any], bool]) -> Callable[..., Any]:
    """`op` as a function of the arguments that are holes, in their order."""

    def function(*tensors: Tensor) -> Any:
        given: Iterator[Tensor] = iter(tensors)
        filled = mapped(lambda leaf: next(given) if is_hole(leaf) else leaf, (args, kwargs))
        return op(*filled[0], **filled[1])

    return function


def declared(a: Algebra, op: Any, kind: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Field:
    """The result of an op that is said to be elementwise, row-wise or linear in its tensors."""
    values = [v for v in flat([*args, *kwargs.values()]) if is_value(v)]
    if any(not isinstance(v, (Field, Concrete)) or not v.dtype.is_floating_point for v in values):
        a.refuse("a declared op of whole numbers")
    read = [a.plain(v) for v in values]
    shown = mapped(lambda v: "_" if is_value(v) else v, (tuple(args), sorted(kwargs.items())))
    name = f"{op}{shown}"
    a.world.functions[name] = with_holes(op, args, kwargs, is_value)
    a.world.tally.note(a.world.tally.assumed, f"{spelled(op)} is {kind}")
    if kind == "elementwise":
        return a.oracle(name, *read)
    if len(read) != 1:
        a.refuse(f"{len(read)} tensors of an op declared {kind}")
    return (_by_rows if kind == "row-wise" else _by_matrix)(a, name, read[0])


def _by_rows(a: Algebra, name: str, x: Field) -> Field:
    """A random function of each row, in its order, at each place of the result's row."""
    if x.tangent is not None:
        a.refuse("the derivative of an op declared row-wise")
    shape = a.world.shape_of(name, x.shape)
    if len(shape) > len(x.shape):
        a.refuse("an op declared row-wise whose result has more axes")
    places = math.prod(shape[len(x.shape) - 1 :])
    undefined = None if x.undefined is None else x.undefined.any(-1, keepdim=True).expand(*x.shape[:-1], places)
    out = Field(a.world.ordered_row(name, x, places), FREE, None, None, undefined, x.dtype)
    return out.each(lambda t: t.reshape(shape))


def _by_matrix(a: Algebra, name: str, x: Field) -> Field:
    """The product with a random matrix."""
    shape = a.world.shape_of(name, x.shape)
    sizes = (x.parts[0].numel(), math.prod(shape))
    if math.prod(sizes) > LARGEST:
        a.refuse(f"a linear op of {sizes[0]} numbers to {sizes[1]}, which is too large a matrix")
    matrix = replace(a.world.matrix(name, x.shape, sizes), along=None)
    return a.matmul(x.each(torch.flatten), matrix).each(lambda t: t.reshape(shape))
