"""Means of values over data: what is averaged, over which axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from rewrite import InputError, Program
from rewrite.address import parse
from rewrite.axes import axes_of

Over = Literal["dataset", "batch", "position"]
OVER = ("dataset", "batch", "position")


def means(program: Program, read: Callable[[Any], Mapping[str, Tensor]], data: Iterable[Any], *, positions: bool) -> dict[str, Tensor]:
    """The mean of each value that `read` gives of a batch, over examples and, if `positions`, the axis of positions if there is one.

    Shapes: the values' in float64, 1 along axes averaged over. Raises: InputError for values that cannot be averaged.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in data:
        for address, value in read(batch).items():
            over = _averaged(program, address, value, positions)
            total = value.double().sum(over, keepdim=True)
            if address in totals and totals[address].shape != total.shape:
                raise InputError(
                    f"{address}: expected batches of one shape, got {list(value.shape)} and others. Average over the dataset, or pad."
                )
            totals[address] = totals.get(address, torch.zeros_like(total)) + total
            counts[address] = counts.get(address, 0) + int(torch.tensor([value.shape[axis] for axis in over]).prod())
    return {address: total / counts[address] for address, total in totals.items()}


def _averaged(program: Program, address: str, value: Tensor, positions: bool) -> list[int]:
    """The axes that a mean is over: of examples, and of positions if there is one axis of them."""
    if not value.is_floating_point():
        raise InputError(f"{address}: expected floating point values to average, got {value.dtype}. Use mode='resample'.")
    examples, places = axes_of(program, node_of(program, address))
    if examples is None:
        raise InputError(f"{address}: expected an axis of examples to average over, got shape {list(value.shape)}. Use mode='resample'.")
    return [examples, *([places] if positions and places is not None else [])]


def node_of(program: Program, address: str) -> str:
    """The name of the node whose value is at a site, or is a family's coordinates."""
    parsed = parse(address)
    if address not in program.sites_by_address and parsed.act:
        record = program.families[parsed.site]
        return record.operands[record.act]
    return program.sites_by_address[address].node
