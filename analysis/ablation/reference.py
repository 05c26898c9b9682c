"""What is put in place of an ablated value: nothing, a mean, what other examples have there, or a value of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from analysis.ablation.targets import Part
from analysis.data import drawn, inputs
from analysis.means import OVER, Over, means, node_of
from rewrite import InputError, Program
from rewrite.address import Address, parse

Mode = Literal["zero", "mean", "resample", "value"]
Value = float | Tensor | Mapping[str, float | Tensor]
Reference = Callable[[Part], float | Tensor]  # what a part's value becomes, for the examples of one batch
MODES = ("zero", "mean", "resample", "value")


@dataclass(frozen=True)
class References:
    """What takes the place of values, batch by batch.

    zero: nothing. mean: the value's mean over examples and positions of the whole data ("dataset") or of the same batch ("batch"), or
    over the examples alone, for each position ("position"). resample: the value that another example of the data has there, drawn
    without fixed points among examples of one shape. value: a number, a tensor, or a dict of these by address.
    """

    program: Program
    data: Sequence[Mapping[str, Any]]
    parts: Sequence[Part]
    mode: Mode
    over: Over
    value: Value | None
    seed: int

    def check(self) -> None:
        """Raises: InputError for unknown modes, values that do not fit, or data that cannot be drawn from."""
        if self.mode not in MODES or self.over not in OVER:
            raise InputError(f"ablation: expected a mode of {MODES} and over one of {OVER}, got {self.mode!r} and {self.over!r}.")
        if (self.mode == "value") != (self.value is not None):
            found = "none" if self.value is None else f"one with mode={self.mode!r}"
            raise InputError(f"ablation: expected value= with mode='value', and with no other, got {found}. Give both or neither.")
        if self.mode == "value":
            for part in self.parts:
                self.given(part)
        if self.mode == "resample":
            drawn(self.program, self.data, self.seed)

    def prepare(self) -> Callable[[int], Reference]:
        """The function from a batch's number to its references; what depends on all the data is computed here.

        Raises: InputError for data that cannot be averaged.
        """
        if self.mode == "zero":
            return lambda number: lambda part: 0.0
        if self.mode == "value":
            chosen = {part: self.given(part) for part in self.parts}
            return lambda number: chosen.__getitem__
        if self.mode == "resample":
            sources = drawn(self.program, self.data, self.seed)
            return lambda number: self._member_of(self._values(sources[number]))
        if self.over == "batch":
            return lambda number: self._member_of(self._means([self.data[number]], positions=True))
        means = self._means(self.data, positions=self.over == "dataset")
        return lambda number: self._member_of(means)

    @property
    def _addresses(self) -> list[str]:
        return list(dict.fromkeys(part.edited for part in self.parts))

    def _values(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.program.run(inputs(self.program, batch), read=self._addresses)[1]

    def _means(self, data: Sequence[Mapping[str, Any]], *, positions: bool) -> dict[str, Tensor]:
        return means(self.program, self._values, data, positions=positions)

    def _member_of(self, values: Mapping[str, Tensor]) -> Reference:
        def reference(part: Part) -> Tensor:
            value = values[part.edited]
            return value if part.member is None else value.select(part.axis or 0, part.member)

        return reference

    def given(self, part: Part) -> float | Tensor:
        """The caller's value for a part.

        Raises: InputError for none, or one that does not fit.
        """
        value: Any = self.value
        site = parse(part.edited).site
        if isinstance(value, Mapping):
            member = Address("", site, str(part.member)).of(site)
            found = [name for name in (member, part.edited, site) if name in value]
            if not found:
                raise InputError(f"value: expected an entry for {member if part.member is not None else site!r}, got none. Add it.")
            value = value[found[0]]
        if not isinstance(value, Tensor | int | float):
            raise InputError(f"value for {site}: expected a number or tensor, got {type(value).__name__}.")
        shape = list(self.program.nodes[node_of(self.program, part.edited)].meta["val"].shape)
        if part.member is not None:
            del shape[part.axis or 0]
        if part.index is None and isinstance(value, Tensor) and not _broadcasts(value, shape):
            sizes = [size if isinstance(size, int) else "*" for size in shape]
            raise InputError(f"value for {site}: expected a tensor that broadcasts to {sizes}, got shape {list(value.shape)}.")
        return value


def _broadcasts(value: Tensor, shape: Sequence[Any]) -> bool:
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    return value.dim() <= len(shape) and all(one == 1 or not isinstance(size, int) or one == size for one, size in pairs)
