"""Edits for runs in which several targets are ablated side by side, each in its own copy of the examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from analysis.ablation.reference import Reference, References
from analysis.ablation.targets import Part, Target
from analysis.data import inputs
from analysis.means import node_of
from rewrite import InputError, Program
from rewrite.address import slices
from rewrite.call import bind
from rewrite.layout import Layout


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


def check_places(program: Program, data: Sequence[Mapping[str, Any]], references: References) -> None:
    """Raises: InputError for entries that a batch does not have, and for values of the caller's that do not fit them."""
    shown = [part for part in references.parts if part.index is not None or references.mode == "value"]
    for number, batch in enumerate(data if shown else ()):
        layout = Layout.of(program, bind(program, (), inputs(program, batch)))
        for part in shown:
            sizes = program.nodes[node_of(program, part.edited)].meta["val"].shape
            if not all(map(layout.knows, sizes)):
                continue
            value = torch.empty([layout.number(size) for size in sizes], device="meta")
            _put(value, part, references.given(part) if references.mode == "value" else 0.0)
            place = value if part.member is None else value.select(part.axis or 0, part.member)
            if part.index is not None and not place[slices(part.index, part.edited)].numel():
                raise InputError(f"ablation at {part.edited}: expected entries that batch {number} has, got none at [{part.index}].")


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
