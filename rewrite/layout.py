"""The sizes of one run: of its inputs, of several copies of its examples side by side, and of some of its positions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import Tensor, fx

from rewrite.axes import axis_of, first_sizes
from rewrite.errors import InputError
from rewrite.positionwise import carrier, holder

if TYPE_CHECKING:
    from rewrite.program import Program


@dataclass(frozen=True)
class Layout:
    """Numbers for free sizes. `leading` are the first input's sizes, of examples and positions, as the program has them.

    `index` are the positions asked for, [position] or [example, position]; None for all.
    """

    sizes: Mapping[sympy.Symbol, int]
    leading: tuple[Any, Any]
    index: Tensor | None = None
    copies: int = 1
    _numbers: dict[Any, int] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, bound: Mapping[str, Any], positions: Any = None) -> Layout:
        """The layout of a run with the inputs `bound` (by placeholder name), read at `positions`."""
        sizes = {
            one.node.expr: int(value.shape[axis])
            for name, value in bound.items()
            if isinstance(value, Tensor)
            for axis, one in enumerate(program.nodes[name].meta["val"].shape)
            if isinstance(one, torch.SymInt) and one.node.expr.is_Symbol
        }
        made = cls(sizes, first_sizes(program))
        if positions is None:
            return made
        examples, places = made.leading
        return replace(made, index=_index(positions, made.number(examples), None if places is None else made.number(places)))

    @property
    def examples(self) -> sympy.Symbol | None:
        """The name of the size of the axis of examples; None if it is fixed."""
        return self.leading[0].node.expr if isinstance(self.leading[0], torch.SymInt) else None

    def copied(self, copies: int) -> Layout:
        """The layout of so many copies of the examples."""
        index = self.index.repeat(copies, 1) if self.index is not None and self.index.dim() == 2 else self.index
        return self if copies == 1 else replace(self, copies=copies, index=index, _numbers={})

    def knows(self, size: Any) -> bool:
        """True if the size is a number here."""
        return not isinstance(size, torch.SymInt) or size.node.expr.free_symbols <= self.sizes.keys()

    def number(self, size: Any, selected: bool = False) -> int:
        """The size as a number, of all positions or of those asked for."""
        if not isinstance(size, torch.SymInt):
            return int(size)
        key = (size.node.expr, selected)
        if key not in self._numbers:
            given = dict(self.sizes)
            if self.examples is not None:
                given[self.examples] *= self.copies
            if selected and self.index is not None and isinstance(self.leading[1], torch.SymInt):
                given[self.leading[1].node.expr] = self.index.shape[-1]
            self._numbers[key] = int(size.node.expr.xreplace({symbol: sympy.Integer(number) for symbol, number in given.items()}))
        return self._numbers[key]

    @property
    def rows(self) -> int:
        """The number of examples times that of positions, of one copy."""
        return math.prod(self.number(size) for size in self.leading if size is not None) // self.copies

    def bytes(self, node: fx.Node, selected: bool = False) -> int:
        """What a node's value takes; 0 where that is not known."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not all(map(self.knows, value.shape)):
            return 0
        total = value.dtype.itemsize
        for size in value.shape:
            total *= self.number(size, selected)
        return total

    # ------------------------------------------------------------------------------------------------ copies

    def repeatable(self, nodes: Iterable[Any]) -> bool:
        """True if every value has examples along one axis, or none: alone or as the first of several axes merged."""
        return self.examples is not None and all(self._repeatable(node) for node in nodes if isinstance(node, fx.Node))

    def _repeatable(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return True
        assert self.examples is not None
        held = [one for one in value.shape if isinstance(one, torch.SymInt) and self.examples in one.node.expr.free_symbols]
        return not held or (len(held) == 1 and self.examples not in sympy.expand(held[0].node.expr / self.examples).free_symbols)

    def _axis(self, node: Any) -> int | None:
        return None if self.examples is None else holder(node, self.examples)

    def repeated(self, value: Any, node: fx.Node) -> Any:
        """The value for all copies side by side."""
        axis = self._axis(node)
        if self.copies == 1 or axis is None or not isinstance(value, Tensor):
            return value
        return value.unsqueeze(axis).expand(*value.shape[:axis], self.copies, *value.shape[axis:]).flatten(axis, axis + 1)

    def parted(self, value: Any, node: Any) -> Sequence[Any]:
        """The value of each copy."""
        axis = self._axis(node)
        if self.copies == 1 or axis is None or not isinstance(value, Tensor):
            return [value] * self.copies
        return value.chunk(self.copies, axis)

    def first(self, value: Any, node: Any) -> Any:
        """The value for the first example alone."""
        axis = self._axis(node)
        if axis is None or self.examples is None or not isinstance(value, Tensor):
            return value
        return value.narrow(axis, 0, value.shape[axis] // self.sizes[self.examples])

    def of_first(self) -> Layout:
        """The layout of the first example alone."""
        assert self.examples is not None
        index = self.index[:1] if self.index is not None and self.index.dim() == 2 else self.index
        return replace(self, sizes={**self.sizes, self.examples: 1}, index=index, _numbers={})

    # ------------------------------------------------------------------------------------------------ positions

    def select(self, value: Any, node: Any) -> Any:
        """The value at the positions asked for; as it is where it has no axis of them."""
        where = selecting(node, *self.leading)
        if where is None or self.index is None or not isinstance(value, Tensor):
            return value
        return at_positions(value, self.index, *where, self.number(self.leading[1]))


def selecting(node: Any, examples: Any, places: Any) -> tuple[int, int | None, bool] | None:
    """The axis of positions in a node's value, that of examples (None without one), and whether both are one axis, merged."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or places is None:
        return None
    if not isinstance(places, torch.SymInt):
        axis = axis_of(value.shape, places, 1)
        return None if axis is None else (axis, 0, False)
    axis = carrier(node, places.node.expr)
    if axis is None:
        return None
    own = holder(node, examples.node.expr) if isinstance(examples, torch.SymInt) else axis_of(value.shape, examples, 0)
    size: Any = None if own in (axis, None) else value.shape[own]
    if isinstance(size, torch.SymInt) and not size.node.expr.is_Symbol:
        own = None  # merged with another axis than that of positions
    return axis, own, not value.shape[axis].node.expr.is_Symbol  # type: ignore[union-attr]


def at_positions(value: Tensor, index: Tensor, axis: int, examples: int | None, merged: bool, length: int | None = None) -> Tensor:
    """The entries of `value` at positions `index`, [position] for all examples or [example, position]."""
    if merged:
        assert length is not None
        own = None if examples is None else examples + (examples > axis)
        return at_positions(value.unflatten(axis, (-1, length)), index, axis + 1, own, False).flatten(axis, axis + 1)
    if index.dim() == 1:
        return value.index_select(axis, index)
    if examples is None:
        raise InputError(f"positions: expected values with examples, got shape {list(value.shape)}. Give the same positions for all.")
    moved = value.movedim((examples, axis), (0, 1))
    picked = moved[torch.arange(moved.shape[0], device=value.device).unsqueeze(1), index]
    return picked.movedim((0, 1), (examples, axis))


def _index(positions: Any, examples: int, length: int | None) -> Tensor:
    """Raises: InputError for positions that are not there."""
    if length is None:
        raise InputError("positions: expected inputs with an axis of positions, got none. Leave out positions=.")
    index = positions if isinstance(positions, Tensor) else torch.tensor([positions] if isinstance(positions, int) else list(positions))
    shaped = (index.dim() == 1 and index.numel()) or (index.dim() == 2 and index.shape[0] == examples and index.shape[1])
    if index.dtype not in (torch.int64, torch.int32) or not shaped:
        raise InputError(
            f"positions: expected numbers, or a tensor [position] or [{examples}, position], got {index.dtype} {list(index.shape)}."
        )
    if not bool(((index >= -length) & (index < length)).all()):
        raise InputError(f"positions: expected numbers from {-length} to {length - 1}, got {index.min().item()} to {index.max().item()}.")
    return index.long() % length
