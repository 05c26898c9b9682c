"""Data and metrics as analyses take them: batches are dicts of the program's own arguments, a metric is one number an example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewrite import InputError, Program
from rewrite.axes import axis_of, first_sizes
from rewrite.call import bind
from rewrite.nested import join, replaced, tensors_in

Batch = Mapping[str, Any]
Metric = Callable[[Any, Batch], Tensor]  # (output, batch) -> [example]


def batches(program: Program, data: Iterable[Batch] | Batch, where: str) -> list[dict[str, Any]]:
    """The data as a list of dicts: the program's arguments by name, and labels that ride along.

    Raises: InputError for no data, batches that are no dicts, or that lack an argument of the program.
    """
    if not isinstance(data, Iterable):
        raise InputError(f"{where}: expected batches, got {type(data).__name__}. Data is an iterable of dicts of the program's arguments.")
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


def check_fit(program: Program, data: Iterable[Batch]) -> None:
    """Raises: InputError for batches that the program cannot be called with, where that shows without running it."""
    for batch in data:
        bind(program, (), inputs(program, batch))


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
        for _, tensor in tensors_in(batch[name]):
            if tensor.dim():
                return tensor.shape[0]
    raise InputError(f"{program!r}: expected a tensor among {arguments(program)}, got none. Examples are counted along its first axis.")


def measured(metric: Metric, output: Any, batch: Batch, examples: int, where: str) -> Tensor:
    """The metric's number for each example, as float64 on the CPU.

    Shapes: [example]. Raises: InputError for another shape, or numbers that are not real and finite.
    """
    found = metric(output, batch)
    if not isinstance(found, Tensor) or tuple(found.shape) != (examples,):
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{where}: expected a metric of one number an example, shape [{examples}], got {got}. "
            + ("Do not average over the batch." if isinstance(found, Tensor) else "Return a tensor.")
        )
    if found.is_complex():
        raise InputError(f"{where}: expected real numbers of the metric, got {found.dtype}. Take its real part, or its size.")
    if not bool(torch.isfinite(found).all()):
        first = int((~torch.isfinite(found)).nonzero()[0])
        raise InputError(f"{where}: expected finite numbers of the metric, got {found[first].item()} for example {first}.")
    return found.double().cpu()


def example_axes(program: Program) -> dict[str, int | None]:
    """The axis of examples of each tensor among the arguments, by name (`x`, `inputs:mask`); None for one that has none."""
    first, _ = first_sizes(program)
    own = {leaf.name: program.nodes[node].meta["val"] for node, leaf in program.leaves.items() if leaf.kind == "input" and not leaf.copy_of}
    return {name: axis_of(value.shape, first, 0) for name, value in own.items() if isinstance(value, Tensor)}


def joined(parts: Sequence[Batch]) -> dict[str, Any]:
    """Batches as one: tensors along their first axis, lists put together, mappings name by name, everything else as in the first batch.

    Raises: InputError for batches of other names, or tensors whose other sizes differ.
    """
    made: dict[str, Any] = {}
    for number, part in enumerate(parts):
        if part.keys() != parts[0].keys():
            raise InputError(f"data: expected batches of the same names, {sorted(parts[0])}, got {sorted(part)} in batch {number}.")
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Tensor) and first.dim():
            if any(not isinstance(value, Tensor) or value.shape[1:] != first.shape[1:] for value in values):
                found = [list(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
                raise InputError(f"{name}: expected batches that differ in their first size only, got {found}. Pad.")
            made[name] = torch.cat(values)
        elif isinstance(first, Mapping):
            made[name] = joined(values)
        else:
            made[name] = [item for value in values for item in value] if isinstance(first, list | tuple) else first
    return made


def picked(value: Any, rows: Tensor) -> Any:
    """Some rows of what a batch holds: of tensors along their first axis, of lists, of everything in a mapping; other things whole."""
    if isinstance(value, Tensor) and value.dim():
        return value[rows.to(value.device)]
    if isinstance(value, Mapping):
        return {name: picked(item, rows) for name, item in value.items()}
    return [value[i] for i in rows.tolist()] if isinstance(value, list | tuple) else value


def drawn(program: Program, data: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """For each batch one of the same size, made of other examples of the data: a seeded permutation without fixed points.

    Examples change places with examples of the same shape only. Arguments without an axis of examples stay as they are.
    Raises: InputError if an example has no other of its shape.
    """
    rows = [(number, row) for number, batch in enumerate(data) for row in range(size(program, batch))]
    kinds: dict[Any, list[int]] = {}
    for at, (number, _) in enumerate(rows):
        kinds.setdefault(_shapes(program, data[number]), []).append(at)
    source = list(range(len(rows)))
    generator = torch.Generator().manual_seed(seed)
    for shape, members in kinds.items():
        if len(members) < 2:
            raise InputError(f"resample: expected another example of shape {shape} to draw from, got one only. Give more data, or pad.")
        order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        for one, other in zip(order, order[1:] + order[:1], strict=True):  # one cycle through all has no fixed points
            source[one] = other
    made, at = [], 0
    for batch in data:
        count = size(program, batch)
        made.append(_gathered(program, data, batch, [rows[i] for i in source[at : at + count]]))
        at += count
    return made


def _shapes(program: Program, batch: Batch) -> tuple[Any, ...]:
    axes = example_axes(program)
    return tuple(
        (name, tuple(size for axis, size in enumerate(tensor.shape) if axis != axes.get(name)))
        for name, tensor in _tensors(inputs(program, batch)).items()
    )


def _tensors(given: Batch) -> dict[str, Tensor]:
    return {join(name, below): tensor for name, value in given.items() for below, tensor in tensors_in(value)}


def _gathered(program: Program, data: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], rows: list[tuple[int, int]]) -> dict[str, Any]:
    """The arguments of a batch with the examples at `rows`, (batch, row), in the place of its own."""
    made, axes = inputs(program, batch), example_axes(program)
    sources = {number: _tensors(inputs(program, data[number])) for number, _ in rows}
    for name, value in made.items():
        found = {below: axes.get(join(name, below)) for below, _ in tensors_in(value)}
        swap = {
            below: torch.stack([sources[number][join(name, below)].select(axis, row) for number, row in rows], axis)
            for below, axis in found.items()
            if axis is not None
        }
        made[name] = replaced(value, swap) if swap else value
    return made
