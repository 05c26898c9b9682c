"""Data and metrics as analyses take them: batches are dicts of the program's own arguments, a metric is one number an example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewrite import InputError, Program

Batch = Mapping[str, Any]
Metric = Callable[[Any, Batch], Tensor]  # (output, batch) -> [example]


def batches(program: Program, data: Iterable[Batch] | Batch, where: str) -> list[dict[str, Any]]:
    """The data as a list of dicts: the program's arguments by name, and labels that ride along.

    Raises: InputError for no data, batches that are no dicts, or that lack an argument of the program.
    """
    listed: list[Any] = [data] if isinstance(data, Mapping) else list(data)
    if not listed:
        raise InputError(f"{where}: expected at least one batch, got none. Data is an iterable of dicts of the program's arguments.")
    for number, batch in enumerate(listed):
        if not isinstance(batch, Mapping):
            raise InputError(
                f"{where}: expected batches as dicts, got {type(batch).__name__} as number {number}. Write dict(input_ids=ids)."
            )
        missing = [name for name in arguments(program) if name not in batch]
        if missing:
            raise InputError(f"{where}: expected the program's arguments {arguments(program)}, got no {missing[0]!r} in batch {number}.")
        if size(program, batch) == 0:
            raise InputError(f"{where}: expected examples, got none in batch {number}. Leave empty batches out.")
    return [dict(batch) for batch in listed]


def arguments(program: Program) -> list[str]:
    """The names that a batch must have: those of the example's arguments."""
    positional, named = program.example
    return [*program.calling.parameters[: len(positional)], *named]


def inputs(program: Program, batch: Batch) -> dict[str, Any]:
    """The program's own arguments out of a batch."""
    return {name: batch[name] for name in arguments(program)}


def size(program: Program, batch: Batch) -> int:
    """The number of examples: the first size of the first tensor among the arguments.

    Raises: InputError if no argument is a tensor.
    """
    for name in arguments(program):
        if isinstance(batch[name], Tensor) and batch[name].dim():
            return batch[name].shape[0]
    raise InputError(f"{program!r}: expected a tensor among {arguments(program)}, got none. Examples are counted along its first axis.")


def measured(metric: Metric, output: Any, batch: Batch, examples: int, where: str) -> Tensor:
    """The metric's number for each example, as float64.

    Shapes: [example]. Raises: InputError for another shape, or numbers that are not finite.
    """
    found = metric(output, batch)
    if not isinstance(found, Tensor) or tuple(found.shape) != (examples,):
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{where}: expected a metric of one number an example, shape [{examples}], got {got}. Do not average over the batch."
        )
    if not bool(torch.isfinite(found).all()):
        first = int((~torch.isfinite(found)).nonzero()[0])
        raise InputError(f"{where}: expected finite numbers of the metric, got {found[first].item()} for example {first}.")
    return found.double()


def joined(parts: Sequence[Batch]) -> dict[str, Any]:
    """Batches as one: tensors along their first axis, lists put together, everything else as in the first batch.

    Raises: InputError for tensors whose other sizes differ.
    """
    made: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Tensor) and first.dim():
            if any(value.shape[1:] != first.shape[1:] for value in values):
                raise InputError(
                    f"{name}: expected batches that differ in their first size only, got {[list(v.shape) for v in values]}. Pad."
                )
            made[name] = torch.cat(values)
        else:
            made[name] = [item for value in values for item in value] if isinstance(first, list) else first
    return made
