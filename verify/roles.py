"""Roles of inputs: what a program may branch on, and so what a proof must say about it.

`values`: float numbers, arbitrary in a proof. `ids`: integers that choose rows of tables, arbitrary too. `mask`: numbers that build
masks, taken as they are; a proof then holds for the patterns that were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rewrite.errors import InputError, nearest
from rewrite.program import Program

Role = Literal["values", "ids", "mask"]


def roles_of(program: Program, inputs: Mapping[str, Any], given: Mapping[str, str] | None = None) -> dict[str, Role]:
    """The role of each input that is a tensor, by its name, in calling order; `given` overrides by name.

    Raises: InputError for a name or role that does not exist, or token ids that are not integers.
    """
    tensors = {
        leaf.name: inputs[node] for node, leaf in program.leaves.items() if leaf.kind == "input" and isinstance(inputs.get(node), Tensor)
    }
    chosen = dict(given or {})
    for name, role in chosen.items():
        if name not in tensors:
            raise InputError(f"roles: expected inputs among {list(tensors)}, got {name!r}.{nearest(name, tensors)}")
        if role not in get_args(Role):
            raise InputError(f"roles[{name!r}]: expected one of {', '.join(get_args(Role))}, got {role!r}.")
        if (role == "values") != _continuous(tensors[name]) and role != "mask":
            raise InputError(
                f"roles[{name!r}]: expected a role that fits {tensors[name].dtype}, got {role!r}. Use 'mask' to take it as it is."
            )
    return {name: chosen.get(name) or _by_dtype_and_name(name, tensor) for name, tensor in tensors.items()}  # type: ignore[misc]


def _by_dtype_and_name(name: str, tensor: Tensor) -> Role:
    masking = "mask" in name.lower() or "bias" in name.lower()
    if _continuous(tensor):
        return "mask" if masking and _only_masks(tensor) else "values"
    return "mask" if tensor.dtype == torch.bool or "mask" in name.lower() else "ids"


def _continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _only_masks(tensor: Tensor) -> bool:
    """True for a float tensor of zeros, ones, -inf and smallest numbers alone."""
    if tensor.is_complex():
        return False
    low = torch.finfo(tensor.dtype).min
    return not tensor.is_meta and bool(((tensor == 0) | (tensor == 1) | (tensor <= low)).all())
