"""The pool: all data of a scrub as one batch, checked, so that any of its rows may stand for any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from analysis.data import example_axes, inputs, joined, size
from analysis.fingerprint import told
from analysis.scrubbing.samplers import Batch, check_rows
from rewrite import InputError, Program
from rewrite.nested import join, tensors_in


def pooled(program: Program, data: Sequence[Batch]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what has a row for each example, arguments that are the same for all): the data as one batch.

    Raises: InputError for arguments without examples that differ between batches, and for what has other rows than the examples.
    """
    axes = example_axes(program)
    shared: dict[str, Any] = {}
    for name, value in inputs(program, data[0]).items():
        found = {axes.get(join(name, below)) for below, _ in tensors_in(value)}
        if found <= {None}:
            if any(told(batch[name]) != told(value) for batch in data):
                raise InputError(
                    f"scrub: expected {name!r}, which has no axis of examples, to be the same in all batches. Scrub each by itself."
                )
            shared[name] = value
        elif found != {0} or not isinstance(value, Tensor | Mapping):
            raise InputError(f"scrub: expected {name!r} as tensors whose first axis is that of examples, got other ones. Wrap the model.")
    apart = [{name: value for name, value in batch.items() if name not in shared} for batch in data]
    for number, batch in enumerate(apart):
        check_rows(batch, size(program, {**shared, **batch}), f"scrub, batch {number}")
    return joined(apart), shared
