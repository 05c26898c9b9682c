"""Edits for runs in which several targets are ablated side by side, each in its own copy of the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from analysis.ablation.reference import Reference
from analysis.ablation.targets import Part, Target
from rewrite import InputError
from rewrite.address import slices


def edit(edited: str, stack: Sequence[Target], reference: Reference, axis: int | None) -> Callable[[Tensor], Tensor]:
    """The edit of the value at `edited` in a run of one copy of the examples for each target of `stack`, along `axis`."""
    parts = [[part for part in target.parts if part.edited == edited] for target in stack]

    def function(value: Tensor) -> Tensor:
        if not any(parts):
            return value
        new = value.clone(memory_format=torch.contiguous_format)
        copies = [new] if axis is None or len(stack) == 1 else new.chunk(len(stack), axis)
        for copy, mine in zip(copies, parts, strict=True):
            for part in mine:
                _put(copy, part, reference(part))
        return new

    return function


def _put(value: Tensor, part: Part, new: float | Tensor) -> None:
    """Writes `new` into the part of `value`."""
    place = value if part.member is None else value.select(part.axis or 0, part.member)
    given = new.to(place) if isinstance(new, Tensor) else torch.as_tensor(new, dtype=place.dtype, device=place.device)
    try:
        if part.index is None:
            place.copy_(given.expand(place.shape))
        else:
            whole = given.shape == place.shape or any(size == 1 for size in given.shape)
            entries = slices(part.index, part.edited)
            place[entries] = given.expand(place.shape)[entries] if whole else given
    except (RuntimeError, IndexError) as error:
        raise InputError(
            f"ablation at {part.edited}: expected a reference that broadcasts to {list(place.shape)}, got {list(given.shape)} ({error})."
        ) from None
