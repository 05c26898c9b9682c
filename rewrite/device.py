"""Moving a program: its tensors, and the device literals that tracing left in its graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rewrite.errors import InputError

if TYPE_CHECKING:
    from rewrite.program import Program


def to_device(program: Program, device: torch.device | str) -> Program:
    """The program on `device`, tied weights still tied; the origin moves along.

    Raises: InputError for something that is not a device.
    """
    if isinstance(device, torch.dtype):
        raise InputError(f"to: expected a device, got {device}. A program keeps its dtype: trace the model in that dtype.")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"to: expected a device such as 'cpu' or 'cuda', got {device!r}. {str(error).splitlines()[0]}") from None
    return _moved(program, target, {})


def _moved(program: Program, device: torch.device, moved: dict[int, Tensor]) -> Program:
    def move(value: object) -> object:
        return moved.setdefault(id(value), value.to(device)) if isinstance(value, Tensor) else value

    from rewrite.splice import Splicer

    splicer = Splicer(program)
    splicer.move_literals(device)
    return replace(
        splicer.finish(),
        tensors={name: move(tensor) for name, tensor in program.tensors.items()},
        example=tree_map(move, program.example),
        traced_from=None if program.traced_from is None else _moved(program.traced_from, device, moved),
    )
