"""What a decomposition returns: terms, families, named parts, or the reason why it does not apply."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import PassError


@dataclass(frozen=True, slots=True)
class Skip:
    """Says that a pass does not apply at a site, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Family:
    """The sum over one axis of an einsum, every member of it addressable and none of them materialised.

    `Family("...nk,mnk->...m", z, w, axis="n", act=z)`: member i is the same einsum with n restricted to i in every operand that
    carries n; its coordinate (`@act`) is the slice of `act`.
    """

    equation: str
    operands: tuple[Tensor, ...]
    axis: str
    act: int

    def __init__(self, equation: str, *operands: Tensor, axis: str, act: Tensor):
        equation = equation.replace(" ", "")
        index = next((i for i, operand in enumerate(operands) if operand is act), None)
        check_equation(equation, len(operands), axis, index)
        for name, value in (("equation", equation), ("operands", operands), ("axis", axis), ("act", index)):
            object.__setattr__(self, name, value)

    def __getitem__(self, member: Tensor | int) -> Tensor:
        """The contribution of one member to the site. Shapes: the site's."""
        index = torch.as_tensor(member, dtype=torch.int64).reshape(1)
        parts = [
            torch.index_select(operand, dim, index) if dim is not None else operand
            for operand, dim in zip(self.operands, self.dims, strict=True)
        ]
        return torch.einsum(self.equation, *parts)

    @property
    def dims(self) -> list[int | None]:
        """For each operand, the dimension (from the front if nonnegative, else from the back) that is the family's axis."""
        return axis_dims(self.equation, self.axis)


def operand_terms(equation: str) -> list[str]:
    """The letters of each operand of an einsum equation."""
    return equation.split("->")[0].split(",")


def axis_dims(equation: str, axis: str) -> list[int | None]:
    """For each operand of `equation`, the dimension that carries `axis`, counted from the back behind an ellipsis."""
    dims: list[int | None] = []
    for letters in operand_terms(equation):
        if axis not in letters:
            dims.append(None)
        else:
            behind = letters.startswith("...")
            dims.append(letters.index(axis) - len(letters) if behind else letters.index(axis))
    return dims


def check_equation(equation: str, operands: int, axis: str, act: int | None) -> None:
    """Raises: PassError unless `equation` is an einsum over that many operands that contracts `axis`, with `act` among them."""
    where = f"Family {equation!r}"
    if "->" not in equation or len(operand_terms(equation)) != operands:
        raise PassError(
            f"{where}: expected one group of letters per operand and an output, got {operands} operands. Write it like einsum's."
        )
    letters, output = operand_terms(equation), equation.split("->")[1]
    if not re.fullmatch(r"[A-Za-z]", axis) or axis in output or not any(axis in group for group in letters):
        raise PassError(f"{where}: expected an axis letter that is summed over, got {axis!r}. Name a letter that the output does not have.")
    if any("..." in group and not group.startswith("...") for group in letters):
        raise PassError(f"{where}: expected an ellipsis in front only, got {equation!r}. Move it to the front.")
    if act is None:
        raise PassError(f"{where}: expected act to be one of the operands, got another tensor. Pass the same object twice.")
    if axis not in letters[act]:
        raise PassError(f"{where}: expected act to carry the axis {axis!r}, got {letters[act]!r}. Choose the operand that does.")


class Terms:
    """Named summands of a site: `Terms(first, key=...)`; the first takes the split's name, the others `name.key`; None is left out."""

    def __init__(self, first: Tensor | Family | None = None, /, **named: Tensor | Family | None):
        self.named = {key: term for key, term in {"": first, **named}.items() if term is not None}
        if not self.named:
            raise PassError("Terms: expected at least one term, got none. Return Skip from a guard if the pass does not apply.")

    def __getitem__(self, index: int) -> Any:
        return list(self.named.values())[index]

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["named"][key]
        except KeyError:
            raise AttributeError(f"Terms: no term {key!r}; there are {list(self.__dict__.get('named', {}))}") from None


@dataclass
class Notes:
    """What a decomposition says on the side while it is captured: named parts, and independent values it asked for."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    fresh: list[Tensor] = field(default_factory=list)
    give: Callable[[Tensor], Tensor] | None = None


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def taking_notes(give: Callable[[Tensor], Tensor] | None = None):
    """Notes of the decomposition run inside; `give` answers `fresh`."""
    notes = Notes(give=give)
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def part(name: str, value: Tensor) -> Tensor:
    """`value`, which becomes the site `<site>/<name>` when this runs as a pass."""
    notes = _notes.get()
    if notes is not None:
        if name in notes.parts:
            raise PassError(f"part {name!r}: expected each name once, got it twice. Name the parts differently.")
        notes.parts[name] = value.clone()  # a later in-place write must not reach what is recorded
    return value


def fresh(like: Tensor) -> Tensor:
    """An independent value shaped like `like`: in a claim, arbitrary; outside, random normal numbers."""
    notes = _notes.get()
    if notes is None or notes.give is None:
        return torch.randn_like(like)
    return notes.give(like)
