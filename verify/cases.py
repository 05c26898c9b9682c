"""Inputs to try: the given ones, other shapes where sizes are free, and random values that fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.call import bind
from rewrite.errors import InputError
from rewrite.program import Program
from rewrite.shapes import resized
from verify.roles import Role
from verify.shadow import Case

aten = torch.ops.aten
LOOKUPS = (aten.embedding.default, aten.index.Tensor, aten.index_select.default)
CARRIERS = (aten.reshape.default, aten.view.default, aten.unsqueeze.default, aten.clone.default, aten.slice.Tensor, aten.expand.default)


def given_cases(program: Program, inputs: Any) -> list[Case]:
    """The inputs as values by placeholder, one case or several: kwargs, (args, kwargs), or a list of either; None is the example.

    Raises: InputError for anything else, or values that do not fit the program.
    """
    if inputs is None:
        inputs = program.example
    if _is_call(inputs) or isinstance(inputs, Mapping):
        inputs = [inputs]
    if not isinstance(inputs, Sequence) or not inputs or not all(_is_call(one) or isinstance(one, Mapping) for one in inputs):
        raise InputError(f"equivalence: expected inputs as a dict of arguments, or a list of such dicts, got {type(inputs).__name__}.")
    cases = [bind(program, *one) if _is_call(one) else bind(program, (), one) for one in inputs]
    for name, value in (item for case in cases for item in case.items()):
        if isinstance(value, Tensor) and value.layout != torch.strided:
            raise InputError(f"{program.leaves[name].name}: expected a dense tensor, got {value.layout}. Convert it with to_dense().")
    return cases


def _is_call(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple) and isinstance(value[1], Mapping)


def other_shapes(program: Program, case: Case) -> list[Case]:
    """The case with one more row and one position fewer, and with two, where the program's sizes are free."""
    found: list[Case] = []
    for _ in range(2):
        example = resized(((), found[-1] if found else case), program.header.dynamic)
        if example is None:
            break
        found.append(example[1])
    return found


def redrawn(program: Program, case: Case, roles: Mapping[str, Role], generator: torch.Generator, scale: float = 1.0) -> Case:
    """The case with other values of the same shapes: normal numbers of about the given ones' size times `scale`, and random ids."""
    drawn = dict(case)
    for node, leaf in program.leaves.items():
        role = roles.get(leaf.name)
        if leaf.kind != "input" or role in (None, "mask"):
            continue
        value: Tensor = case[node]
        if role == "values":
            size = float(value.detach().abs().double().square().mean().sqrt()) or 1.0
            dtype = torch.complex128 if value.is_complex() else torch.float64
            drawn[node] = (torch.randn(value.shape, generator=generator, dtype=dtype) * size * scale).to(value)
        else:
            drawn[node] = torch.randint(0, max(1, rows_read(program, node, value)), value.shape, generator=generator).to(value)
    return drawn


def told_apart(program: Program, case: Case) -> Case:
    """The case with other rows of whole numbers in each copy of an input, all inputs of one copy moved alike; floats are told by labels."""
    own, numbers = dict(case), {}
    for node, leaf in program.leaves.items():
        if leaf.copy_of and isinstance(case[node], Tensor) and not case[node].is_floating_point() and not case[node].is_meta:
            number = numbers.setdefault(leaf.name.removeprefix(leaf.copy_of), len(numbers) + 1)
            own[node] = others(case[node], number)
    return own


def others(value: Tensor, number: int = 1) -> Tensor:
    """The same numbers in other places: rows moved on, and of a lone row the entries turned round."""
    if value.dim() and value.shape[0] > 1:
        return value.roll(1 + (number - 1) % (value.shape[0] - 1), 0)
    return value.flip(-1) if value.dim() else value


def rows_read(program: Program, node: str, example: Tensor) -> int:
    """How many ids may be used: the rows of the smallest table that they choose from, else what the example goes up to."""
    sizes = [int(table) for table in _tables(program.nodes[node], {node})]
    return min(sizes) if sizes else int(example.max()) + 1 if example.numel() else 1


def _tables(node: fx.Node, seen: set[str]) -> Iterable[int]:
    for user in node.users:
        if user.target in LOOKUPS:
            size = user.args[0].meta["val"].shape[0]  # type: ignore[union-attr]
            if user.args[0] is not node and isinstance(size, int):
                yield size
        elif user.target in CARRIERS and user.name not in seen:
            seen.add(user.name)
            yield from _tables(user, seen)
