"""Calling a program exactly like its model: arguments in, the model's own output type out, with a check of every shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rewrite.errors import InputError, nearest

if TYPE_CHECKING:
    from rewrite.program import Program


def bind(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Flat input values by placeholder name.

    Raises: InputError for missing or unknown arguments, or values whose dtype, device or shape does not fit.
    """
    calling = program.calling
    copies = {leaf.name: (node, leaf.copy_of) for node, leaf in program.leaves.items() if leaf.copy_of}
    given = {name: value for name, value in kwargs.items() if name in copies}
    kwargs = {name: value for name, value in kwargs.items() if name not in copies}
    flat, spec = tree_flatten((args, kwargs))
    if spec != calling.in_spec:
        flat, spec = tree_flatten(_as_in_example(program, args, kwargs))
    if spec != calling.in_spec:
        raise InputError(f"{program.header.model}: expected inputs nested like the example's, got another structure. See program.example.")
    sizes: dict[str, tuple[int, str]] = {}
    inputs = [(name, leaf) for name, leaf in program.leaves.items() if leaf.kind == "input" and not leaf.copy_of]
    for value, (name, leaf) in zip(flat, inputs, strict=True):
        _check(program, program.nodes[name].meta.get("val"), leaf.name, value, sizes)
    found = {name: value for value, (name, _) in zip(flat, inputs, strict=True)}
    originals = {leaf.name: name for name, leaf in inputs}
    for name, (node, original) in copies.items():
        found[node] = given.get(name, found[originals[original]])
        _check(program, program.nodes[node].meta.get("val"), name, found[node], sizes)
    return found


def _as_in_example(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    names = program.calling.parameters
    example_args, example_kwargs = program.example
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    wanted = [*names[: len(example_args)], *example_kwargs]
    extra = [name for name in given if name not in wanted and given[name] is not None]
    missing = [name for name in wanted if name not in given]
    if extra or missing or len(args) > len(names):
        problem = f"{extra[0]!r}" if extra else f"no {missing[0]!r}" if missing else f"{len(args)} positional arguments"
        copies = [leaf.name for leaf in program.leaves.values() if leaf.copy_of]
        advice = (nearest(extra[0], [*wanted, *copies]) if extra else "") or " Trace with an example that has them."
        raise InputError(f"{program.header.model}: expected the arguments of the example, {wanted}, got {problem}.{advice}")
    return tuple(given[name] for name in names[: len(example_args)]), {name: given[name] for name in example_kwargs}


def _check(program: Program, expected: Any, name: str, value: Any, sizes: dict[str, tuple[int, str]]) -> None:
    if not isinstance(expected, Tensor):
        if isinstance(expected, int | float | bool | str) and value != expected:
            raise InputError(f"{name}: expected {expected!r} as in the example, got {value!r}. Trace again with the other value.")
        return
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected a tensor, got {type(value).__name__}. Pass a tensor of {expected.dtype}.")
    if value.dtype != expected.dtype:
        raise InputError(f"{name}: expected {expected.dtype}, got {value.dtype}. Convert it, or trace the model with that dtype.")
    if value.dim() != expected.dim():
        raise InputError(f"{name}: expected {expected.dim()} dimensions, got shape {list(value.shape)}. Add or drop one.")
    for axis, (size, want) in enumerate(zip(value.shape, expected.shape, strict=True)):
        if isinstance(want, int):
            if size != want:
                raise InputError(
                    f"{name}: expected size {want} in dimension {axis}, got {size}. The program is {program.header.dynamic} in shape."
                )
            continue
        known, where = sizes.setdefault(str(want), (size, f"dimension {axis} of {name}"))
        if known != size:
            raise InputError(f"{name}: expected size {known} in dimension {axis} like {where}, got {size}. These sizes go together.")


def restore(program: Program, leaves: tuple[Any, ...]) -> Any:
    """The output as the model returns it."""
    return tree_unflatten(list(leaves), program.calling.out_spec)


def to_device(value: Any, device: torch.device) -> Any:
    """`value`, a tensor on `device`; anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value
