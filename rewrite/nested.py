"""Names for the leaves of nested values: `key`, `0`, `key:1`; the empty name for a lone leaf."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec


def children(value: Any) -> list[tuple[str, Any]] | None:
    """The named children of a mapping, tuple, list or dataclass; None for anything else, which is a leaf."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [(str(i), item) for i, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


def tensors_in(value: Any) -> list[tuple[str, Tensor]]:
    """Every tensor in `value`, with its name."""
    if isinstance(value, Tensor):
        return [("", value)]
    return [(join(name, below), tensor) for name, item in children(value) or () for below, tensor in tensors_in(item)]


def replaced(value: Any, swap: Mapping[str, Tensor]) -> Any:
    """`value` with the leaves that `swap` names exchanged; containers on the way are copied."""
    if "" in swap:
        return swap[""]
    below = {name: {} for name, _ in children(value) or ()}
    for path, tensor in swap.items():
        head, _, rest = path.partition(":")
        below[head][rest] = tensor
    new = {name: replaced(item, below[name]) for name, item in children(value) or () if below[name]}
    if isinstance(value, tuple | list):
        items = [new.get(name, item) for name, item in children(value) or ()]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    result = copy.copy(value)
    for key in list(value) if isinstance(value, Mapping) else []:
        if str(key) in new:
            result[key] = new[str(key)]
    if not isinstance(value, Mapping):
        for name, item in new.items():
            setattr(result, name, item)
    return result


def spec_names(spec: TreeSpec) -> tuple[str, ...]:
    """A name for each leaf of a pytree spec, in its order."""
    if spec.is_leaf():
        return ("",)
    names = _keys(spec)
    return tuple(join(name, below) for name, child in zip(names, spec.children(), strict=True) for below in spec_names(child))


def keys(spec: TreeSpec) -> list[Any] | None:
    """The keys or field names that a container has for its children, as they are; None if it has places only."""
    context = getattr(spec.context, "_fields", spec.context)  # of a named tuple, the context is its class
    for candidate in (context, *(context if isinstance(context, list | tuple) else ())):
        fits = isinstance(candidate, list | tuple) and len(candidate) == spec.num_children and spec.num_children
        if fits and not any(isinstance(key, list) for key in candidate):  # beside a list of keys, a dataclass has one of fields left out
            return list(candidate)
    return None


def _keys(spec: TreeSpec) -> list[str]:
    found = keys(spec)
    return [str(i) for i in range(spec.num_children)] if found is None else [str(key) for key in found]


def input_names(spec: TreeSpec, signature: inspect.Signature) -> tuple[str, ...]:
    """A name for each leaf of the spec of (args, kwargs), after the arguments of `signature`."""
    args, kwargs = spec.children()
    positional = positional_names(signature, args.num_children)
    return tuple(
        join(name, below)
        for name, child in [*zip(positional, args.children(), strict=True), *zip(_keys(kwargs), kwargs.children(), strict=True)]
        for below in spec_names(child)
    )


def positional_names(signature: inspect.Signature, count: int) -> list[str]:
    """The names of the first `count` positional arguments; those that a `*rest` takes are `rest:0`, `rest:1`."""
    names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "args")
    return [*names, *(f"{rest}:{i}" for i in range(count - len(names)))][:count]


def join(first: str, second: str) -> str:
    """`first:second`, or the one that is not empty."""
    return ":".join(part for part in (first, second) if part)


def argument_names(signature: inspect.Signature) -> tuple[str, ...]:
    """The names of the arguments that have one of their own."""
    return tuple(p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
