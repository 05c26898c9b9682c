"""Models without weights: parameters on the meta device, everything else for real, so that an architecture of any size can be traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map

from rewrite.errors import TraceError
from rewrite.program import Program
from rewrite.run import needed


@contextmanager
def weightless() -> Iterator[None]:
    """Models built inside have their parameters on the meta device, without numbers; buffers are computed for real."""
    make = nn.Parameter.__new__

    def without_numbers(cls: type, data: Tensor | None = None, requires_grad: bool = True) -> Any:
        return make(cls, None if data is None else data.to("meta"), requires_grad)

    nn.Parameter.__new__ = without_numbers  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Parameter.__new__ = make  # type: ignore[method-assign]


@contextmanager
def standing_in(model: nn.Module, example: Any) -> Iterator[Any]:
    """The example, for tracing: inside, the model's tensors without numbers, and the example's, are ones of the CPU without numbers either.

    A graph traced so has one device throughout.
    """
    mode, made = FakeTensorMode(allow_non_fake_inputs=True), dict[int, Tensor]()
    held = [
        (table, name, tensor)
        for module in model.modules()
        for table in (module._parameters, module._buffers)
        for name, tensor in table.items()
        if tensor is not None and tensor.is_meta
    ]
    for _, _, tensor in held:
        made.setdefault(id(tensor), _like(tensor, mode))
    try:
        for table, name, tensor in held:
            table[name] = made[id(tensor)]  # type: ignore[assignment]
        yield tree_map(lambda x: _like(x, mode) if isinstance(x, Tensor) and x.is_meta else x, example)
    finally:
        for table, name, tensor in held:
            table[name] = tensor  # type: ignore[assignment]


def _like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def check_buffers(program: Program, where: str) -> None:
    """Nothing.

    Raises: TraceError for a buffer without numbers that the program reads and whose numbers are part of the architecture.
    """
    live = {node.name for node in needed(program.outputs)}
    for node, leaf in program.leaves.items():
        tensor = program.tensors.get(leaf.name)
        if leaf.kind != "buffer" or node not in live or tensor is None or not tensor.is_meta:
            continue
        if not (leaf.persistent and tensor.is_floating_point()):
            raise TraceError(
                f"{where}: expected buffers with numbers, got {leaf.name} on the meta device. Build the model inside"
                " `with rewrite.weightless():`, which leaves buffers real."
            )
