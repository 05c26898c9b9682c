"""What takes a value's place when it is ablated: zero, its mean, its value on another example, or on a batch that is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from analysis.data import Batch, batches, drawn, inputs, size
from analysis.means import OVER, Over, means
from rewrite import InputError, Program
from rewrite.address import coordinate
from rewrite.nested import tensors_in

Mode = Literal["zero", "mean", "resample"] | Iterable[Batch] | Batch
MODES = ("zero", "mean", "resample")


class References:
    """The references of gates for each batch: `of(number)` is {gate: r}, empty for zero."""

    def __init__(self, program: Program, gates: Sequence[str], data: Sequence[Batch], mode: Mode, over: Over, seed: int, where: str):
        """Raises: InputError for an unknown mode, or reference batches that do not go with the data."""
        self.program, self.gates, self.where = program, list(gates), where
        self.name = mode if isinstance(mode, str) else "given"
        if isinstance(mode, str) and mode not in MODES:
            raise InputError(f"{where}: expected mode zero, mean, resample or batches, got {mode!r}.")
        if over not in OVER:
            raise InputError(f"{where}: expected over one of {OVER}, got {over!r}.")
        self._batches: Sequence[Batch] | None = None
        self._means: list[dict[str, Tensor]] = []  # for each batch
        if not isinstance(mode, str):
            self._batches = _aligned(program, data, batches(program, mode, where), where)
        elif mode == "resample":
            self._batches = drawn(program, data, seed)
        elif mode == "mean":
            apart = [[batch] for batch in data] if over == "batch" else [data]
            found = [self._mean(some, positions=over != "position") for some in apart]
            self._means = found if over == "batch" else found * len(data)

    def of(self, number: int) -> dict[str, Tensor]:
        """What takes the place of each gated value in batch `number`; coordinates of families."""
        if self._batches is not None:
            return values(self.program, self._batches[number], self.gates)
        return self._means[number] if self._means else {}

    def _mean(self, data: Sequence[Batch], *, positions: bool) -> dict[str, Tensor]:
        reads = _reads(self.program, self.gates)
        found = means(self.program, lambda batch: _read(self.program, batch, self.gates), data, positions=positions)
        return {gate: found[read].to(self.program.gates[gate].r.dtype) for gate, read in reads.items()}


def values(program: Program, batch: Batch, gates: Sequence[str]) -> dict[str, Tensor]:
    """What each gate multiplies on `batch`, all of them open: a value, or a family's coordinates."""
    found = _read(program, batch, gates)
    return {gate: found[read] for gate, read in _reads(program, gates).items()}


def _reads(program: Program, gates: Sequence[str]) -> dict[str, str]:
    """The address of what each gate multiplies."""
    return {gate: coordinate(gate) if gate in program.families else gate for gate in gates}


def _read(program: Program, batch: Batch, gates: Sequence[str]) -> dict[str, Tensor]:
    opened: dict[str, Any] = {gate: {"g": 1.0, "h": 0.0} for gate in gates}
    with torch.no_grad():
        return program.run(inputs(program, batch), read=list(_reads(program, gates).values()), gates=opened)[1]


def _aligned(program: Program, data: Sequence[Batch], given: Sequence[dict[str, Any]], where: str) -> Sequence[Batch]:
    if len(given) != len(data):
        raise InputError(f"{where}: expected a reference batch for each of {len(data)} batches, got {len(given)}.")
    for number, (batch, reference) in enumerate(zip(data, given, strict=True)):
        wanted, found = size(program, batch), size(program, reference)
        if wanted != found:
            raise InputError(f"{where}: expected {wanted} examples in reference batch {number}, as in the data, got {found}.")
        shapes = [{name: list(one.shape) for name, one in tensors_in(inputs(program, some))} for some in (batch, reference)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{where}: expected reference batch {number} of the data's shapes, {shapes[0]}, got {shapes[1]}. Pad.")
    return given


def setting(reference: Mapping[str, Tensor], gate: str, alpha: float) -> dict[str, Any]:
    """A gate part of the way from (1, 0), as it is, to (0, 1), its reference in its place."""
    return {"g": 1.0 - alpha, **({"h": alpha, "r": reference[gate]} if gate in reference else {"h": 0.0})}
