"""Entering the field: plain numbers, truth values and ids as exact values, and what has no exact meaning."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import NoReturn

import torch
from torch import Tensor

from rewrite.errors import TautomerError
from verify.degree import CONSTANT
from verify.value import Concrete, Field, Value, either, some
from verify.world import World

WRAPPING = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64)


class Refused(TautomerError):
    """An op has no exact meaning here: `op`, `node` and `reason` say which, where and why."""

    def __init__(self, op: str, node: str, reason: str) -> None:
        super().__init__(
            f"exact tier at {node}: expected an op with an exact meaning, got {op}: {reason}. The verdict is at most CONSISTENT."
        )
        self.op, self.node, self.reason = op, node, reason


class Entering:
    """What is read as a number in one world. `node` and `op` name what is being evaluated, for refusals and notes.

    `out` is the type of its result, `among` the float type that its numbers are read in.
    """

    def __init__(self, world: World) -> None:
        self.world, self.math = world, world.math
        self.node, self.op = "", ""
        self.out = self.among = torch.float32
        self.factors: set[tuple[float, ...]] = {self.math.number(1)}

    def refuse(self, reason: str) -> NoReturn:
        """Raises: Refused, always."""
        raise Refused(self.op, self.node, reason)

    def exact_sums(self) -> None:
        """Refuses a result in whose type a sum may wrap, or is one of truth values."""
        if self.out in WRAPPING or self.out == torch.bool:
            self.refuse(f"arithmetic of {self.out}")

    def field(self, x: Value) -> Field:
        """`x` as residues: plain numbers exactly (-inf and the smallest finite numbers as tags), ids by their shadow or atom."""
        if isinstance(x, Field):
            return x
        if isinstance(x, (int, float)):
            odd = math.isnan(x) or math.isinf(x) or self.lowest(x)
            return self._tagged(torch.tensor(float(x), dtype=torch.float64), self.among) if odd else self.number(x)
        if not isinstance(x, Concrete):
            self.refuse(f"a {type(x).__name__} where a number is read")
        if x.lifted is None:
            x.lifted = replace(x.shadow or self._residues(x), dtype=x.data.dtype)
        return x.lifted

    def _residues(self, x: Concrete) -> Field:
        return self._tagged(x.data, x.data.dtype) if x.atom is None else self.world.atom_value("value of ids", x.atom, x.data)

    def marked(self, x: Concrete) -> Field:
        """The value of the atom of a float mask, with the tags that its data has."""
        assert x.atom is not None
        out = self._tagged(x.data, x.data.dtype)
        if not self.world.symbolic:
            return out
        value = self.world.atom_value("value of ids", x.atom, x.data)
        return replace(out, parts=value.parts, degree=value.degree, decided=torch.ones_like(x.data, dtype=torch.bool))

    def lowest(self, x: Value, dtype: torch.dtype | None = None) -> bool:
        """True for the smallest finite number of a float type, by default of the one that numbers are read in."""
        return isinstance(x, float) and x in self.world.lowest(dtype or self.among)

    def _tagged(self, data: Tensor, dtype: torch.dtype) -> Field:
        if data.is_complex():
            self.refuse("complex numbers have no place in the field")
        if not data.dtype.is_floating_point:
            return Field(self.math.lift(data), degree=CONSTANT, dtype=data.dtype)
        if bool((data == torch.inf).any()):
            self.refuse("+inf has no place in the field")
        hard, undefined = some(data == -torch.inf), some(data.isnan())
        soft = some(sum((data == low for low in self.world.lowest(dtype)), torch.zeros_like(data, dtype=torch.bool)))
        odd = either(hard, undefined)
        finite = data if odd is None else data.masked_fill(odd, 0)
        return Field(self.math.lift(finite), CONSTANT, hard, soft, undefined, dtype)

    def number(self, x: float | Fraction) -> Field:
        """One exact number, as a 0-d value."""
        return Field(tuple(torch.tensor(r, dtype=torch.float64) for r in self.math.number(x)), degree=CONSTANT)

    def plain(self, x: Value) -> Field:
        """`x` in the field, refused if an element is -inf or a smallest finite number."""
        x = self.field(x)
        if x.tagged:
            self.refuse("it reads -inf or a smallest finite number as a number")
        return x
