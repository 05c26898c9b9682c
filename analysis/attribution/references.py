"""What takes a value's place when it is ablated: zero, its mean, its value on another example, or on a batch that is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from analysis.data import Batch, batches, drawn, inputs, size
from rewrite import InputError, Program

Mode = Literal["zero", "mean", "resample"] | Iterable[Batch] | Batch
MODES = ("zero", "mean", "resample")


class References:
    """The references of gates for each batch: `of(number)` is {gate: r}, empty for zero."""

    def __init__(self, program: Program, gates: Sequence[str], data: Sequence[Batch], mode: Mode, seed: int, where: str):
        """Raises: InputError for an unknown mode, or reference batches that do not go with the data."""
        self.program, self.gates, self.where = program, list(gates), where
        self.name = mode if isinstance(mode, str) else "given"
        if isinstance(mode, str) and mode not in MODES:
            raise InputError(f"{where}: expected mode zero, mean, resample or batches, got {mode!r}.")
        self._batches: Sequence[Batch] | None = None
        self._mean: dict[str, Tensor] = {}
        if not isinstance(mode, str):
            self._batches = _aligned(program, data, batches(program, mode, where), where)
        elif mode == "resample":
            self._batches = drawn(program, data, seed)
        elif mode == "mean":
            self._mean = self._means(data)

    def of(self, number: int) -> dict[str, Tensor]:
        """What takes the place of each gated value in batch `number`; coordinates of families."""
        return self._mean if self._batches is None else values(self.program, self._batches[number], self.gates)

    def _means(self, data: Sequence[Batch]) -> dict[str, Tensor]:
        """The mean over all examples, position by position. Shapes: the value's, its first size 1."""
        totals: dict[str, Tensor] = {}
        count = 0
        for batch in data:
            found = values(self.program, batch, self.gates)
            for gate, value in found.items():
                part = value.double().mean(0, keepdim=True) * size(self.program, batch)
                if gate in totals and totals[gate].shape != part.shape:
                    found = f"{list(totals[gate].shape[1:])} and {list(part.shape[1:])} at {gate}"
                    raise InputError(f"{self.where}: expected batches of one length for means, got {found}. Pad them.")
                totals[gate] = totals.get(gate, torch.zeros_like(part)) + part
            count += size(self.program, batch)
        dtypes = {gate: self.program.gates[gate].r.dtype for gate in totals}
        return {gate: (total / count).to(dtypes[gate]) for gate, total in totals.items()}


def values(program: Program, batch: Batch, gates: Sequence[str]) -> dict[str, Tensor]:
    """What each gate multiplies on `batch`, all of them open: a value, or a family's coordinates."""
    reads = {gate: f"{gate}@act" if gate in program.families else gate for gate in gates}
    opened: dict[str, Any] = {gate: {"g": 1.0, "h": 0.0} for gate in gates}
    with torch.no_grad():
        _, found = program.run(inputs(program, batch), read=list(reads.values()), gates=opened)
    return {gate: found[read] for gate, read in reads.items()}


def _aligned(program: Program, data: Sequence[Batch], given: Sequence[dict[str, Any]], where: str) -> Sequence[Batch]:
    if len(given) != len(data):
        raise InputError(f"{where}: expected a reference batch for each of {len(data)} batches, got {len(given)}.")
    for number, (batch, reference) in enumerate(zip(data, given, strict=True)):
        wanted, found = size(program, batch), size(program, reference)
        if wanted != found:
            raise InputError(f"{where}: expected {wanted} examples in reference batch {number}, as in the data, got {found}.")
    return given


def setting(reference: Mapping[str, Tensor], gate: str, alpha: float) -> dict[str, Any]:
    """A gate part of the way from (1, 0), as it is, to (0, 1), its reference in its place."""
    return {"g": 1.0 - alpha, **({"h": alpha, "r": reference[gate]} if gate in reference else {"h": 0.0})}
