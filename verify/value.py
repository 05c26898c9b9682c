"""What a node is worth in exact arithmetic: residues with tags, plain torch data, or a soft choice among positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from verify.degree import FREE, Degree
from verify.field import Parts
from verify.oracle import Lanes


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """What a truth value or sign of `gap` is worth away from gap = 0: `inner`. It holds for the value whose parts are `of`, none other."""

    gap: Parts
    inner: Parts
    of: Parts


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """The derivative along one random direction of all weights and inputs, None if it is zero: of the value whose parts are `of`."""

    tangent: Field | None
    of: Parts


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How a value was made, for theories that ask: the value whose parts are `of`.

    "exp" of an operand, the "sum" of such or the "softmax" along `dim`, "max" the largest of several, "min" minus the largest.
    """

    kind: Literal["exp", "sum", "softmax", "max", "min"]
    operands: tuple[Field, ...]
    of: Parts
    dim: int = 0


@dataclass(slots=True, eq=False)
class Field:
    """Residues, one tensor per prime, and what lies beside them.

    `degree` bounds the polynomials that the value is a quotient of. `hard` marks -inf, `soft` the smallest
    finite number of its float type, `undefined` what torch would make NaN: bool tensors of the value's shape, or None for nowhere.
    `decided` marks what ids decide of that: others may mask what is not, or leave what is, and its residues stand for all of them.
    `edge` is known of truth values: a number that is zero wherever their gap is need not tell > from >=. `along` is there in worlds
    that have derivatives.
    """

    parts: Parts
    degree: Degree = FREE
    hard: Tensor | None = None
    soft: Tensor | None = None
    undefined: Tensor | None = None
    dtype: torch.dtype = torch.float32
    edge: Edge | None = None
    along: Along | None = None
    form: Form | None = None
    decided: Tensor | None = None

    def made(self, kind: str) -> Form | None:
        """How the value was made, if it was made so."""
        return self.form if self.form is not None and self.form.kind == kind and self.form.of is self.parts else None

    def formed(self, kind: Literal["exp", "sum", "softmax", "max", "min"], *operands: Field, dim: int = 0) -> Field:
        """The value, said to be made so."""
        return replace(self, form=Form(kind, operands, self.parts, dim))

    @property
    def tangent(self) -> Field | None:
        """The derivative; None if it is zero.

        Raises: AssertionError if a rule left that of another value here: a defect of this package.
        """
        if self.along is None:
            return None
        if self.along.of is not self.parts:
            raise AssertionError("a derivative of another value")
        return self.along.tangent

    def moving(self, tangent: Field | None) -> Field:
        """The value with this derivative."""
        return replace(self, along=Along(tangent, self.parts))

    @property
    def shape(self) -> torch.Size:
        return self.parts[0].shape

    @property
    def tagged(self) -> bool:
        """True if some element is -inf or a smallest finite number, or is for other ids."""
        return self.hard is not None or self.soft is not None or self.decided is not None

    @property
    def masked(self) -> Tensor | None:
        """The elements that are -inf or a smallest finite number, whatever decided that; None for nowhere."""
        return either(self.hard, self.soft)

    @property
    def absent(self) -> Tensor | None:
        """The elements that are so for all ids."""
        masked = self.masked
        return masked if masked is None or self.decided is None else some(masked & ~self.decided)

    def each(self, op: Callable[[Tensor], Tensor]) -> Field:
        """The value with `op`, which only moves elements, done to the residues and to what lies beside them."""
        move = lambda t: None if t is None else op(t)  # noqa: E731
        marks = {name: move(getattr(self, name)) for name in ("hard", "soft", "undefined", "decided")}
        out = replace(self, parts=tuple(map(op, self.parts)), **marks, along=None, form=None)
        form = self.form
        if form is not None and form.of is self.parts and form.kind in ("exp", "max", "min"):  # those that act on each element
            out = out.formed(form.kind, *(operand.each(op) for operand in form.operands))
        return out if self.tangent is None else out.moving(self.tangent.each(op))


@dataclass(slots=True, eq=False)
class Concrete:
    """Plain torch data, run as traced. What depends on token ids has an `atom`, the keyed hash of the expression that made it.

    `shadow` is the value that it has wherever it meets residues: the bits of a comparison of ids build masks and positions, but a
    product with a weight reads the shadow. Mask-role data has no atom: it is what it is.
    """

    data: Tensor
    atom: Lanes | None = None
    shadow: Field | None = None
    lifted: Field | None = None  # what `Algebra.field` made of it, kept

    @property
    def shape(self) -> torch.Size:
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype


@dataclass(slots=True, eq=False)
class Choice:
    """Positions that depend on residues (topk, argmax), as weights over all positions: [..., size], each row of sum one.

    Along `distinct`, if not None, no two positions are the same.
    """

    weights: Field
    dtype: torch.dtype = torch.int64
    distinct: int | None = None

    @property
    def shape(self) -> torch.Size:
        return self.weights.shape[:-1]

    @property
    def size(self) -> int:
        return self.weights.shape[-1]


@dataclass(frozen=True, slots=True)
class Like:
    """The shape and type that a value is to have, where no tensor says it."""

    shape: torch.Size
    dtype: torch.dtype


def whole(dtype: torch.dtype) -> bool:
    """True for a type of whole numbers."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def short(dtype: torch.dtype) -> bool:
    """True for a float type that does not hold the whole numbers one meets."""
    return dtype.is_floating_point and torch.finfo(dtype).bits < 32


Value = Any  # Field | Concrete | Choice, a python number, or a tuple or list of these


def is_value(x: Any) -> bool:
    """True for a tensor-like value."""
    return isinstance(x, (Field, Concrete, Choice))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two values compare: `elements` in all, `unequal` of them at `where`, and `undefined` in either, which do not count as unequal.

    `degree` is that of the difference: what a bound on a chance agreement needs.
    """

    elements: int
    unequal: int
    undefined: int
    where: Tensor | None = None
    degree: int = 1

    @property
    def equal(self) -> bool:
        """True if no defined element differs and at least one is defined (an empty value has none to show)."""
        return self.unequal == 0 and (self.elements == 0 or self.undefined < self.elements)


def either(*masks: Tensor | None) -> Tensor | None:
    """The union of masks that may be None."""
    present = [m for m in masks if m is not None]
    if not present:
        return None
    total = present[0]
    for mask in present[1:]:
        total = total | mask
    return total


def some(mask: Tensor | None) -> Tensor | None:
    """The mask, or None if it marks nothing."""
    return mask if mask is not None and bool(mask.any()) else None


def flat(values: Sequence[Any]) -> list[Any]:
    """The leaves of nested lists and tuples."""
    out: list[Any] = []
    for v in values:
        out.extend(flat(v)) if isinstance(v, (list, tuple)) else out.append(v)
    return out


def mapped(f: Callable[[Any], Any], tree: Any) -> Any:
    """`tree` (nested lists, tuples and dicts) with `f` of each leaf."""
    if isinstance(tree, tuple):
        return tuple(mapped(f, leaf) for leaf in tree)
    if isinstance(tree, list):
        return [mapped(f, leaf) for leaf in tree]
    if isinstance(tree, dict):
        return {key: mapped(f, leaf) for key, leaf in tree.items()}
    return f(tree)
