"""What a rule is: a function of the algebra and the op's own arguments, with values in place of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from verify.value import Value

Rule = Callable[..., Value]  # (algebra, *the op's arguments, **its keyword arguments) -> value, or a tuple of values
Table = dict[Any, Rule]  # aten overload -> rule


def axes(dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The dimensions as non-negative numbers; all of them for None or an empty list, none of a number without any."""
    if not rank or dims is None or (not isinstance(dims, int) and not len(dims)):
        return tuple(range(rank))
    return tuple(d % rank for d in ((dims,) if isinstance(dims, int) else dims))
