"""Expressions over a program's weights: `program.weight("lm_head.weight")[ids]` stays a graph of the weight, not a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Compute = Callable[[Sequence[Any]], Any]


def _operator(name: str) -> Callable[..., Weight]:
    def call(self: Weight, *others: Any) -> Weight:
        return _apply(lambda w, *a: getattr(w, name)(*a), (self, *others), {}, name)

    return call


class Weight:
    """A value computed from a program's tensors, by any torch function; nothing is computed until a pass is captured."""

    def __init__(self, tensors: tuple[Tensor, ...], compute: Compute, recipe: str):
        self.tensors, self.compute, self.recipe = tensors, compute, recipe

    @property
    def value(self) -> Tensor:
        """The value for the weights as they are now."""
        return self.compute(self.tensors)

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Weight:
        return _apply(function, args, kwargs or {})

    def __getitem__(self, index: Any) -> Weight:
        index = torch.tensor(index) if isinstance(index, list) else index
        return _apply(lambda w, i: w[i], (self, index), {}, "[]")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sample = getattr(Tensor, name)
        if callable(sample):
            return lambda *args, **kwargs: _apply(lambda w, *a, **k: getattr(w, name)(*a, **k), (self, *args), kwargs, name)
        return _apply(lambda w: getattr(w, name), (self,), {}, name)

    def __repr__(self) -> str:
        return f"Weight({self.recipe})"

    __add__, __radd__ = _operator("__add__"), _operator("__radd__")
    __sub__, __rsub__ = _operator("__sub__"), _operator("__rsub__")
    __mul__, __rmul__ = _operator("__mul__"), _operator("__rmul__")
    __truediv__, __rtruediv__ = _operator("__truediv__"), _operator("__rtruediv__")
    __matmul__, __rmatmul__ = _operator("__matmul__"), _operator("__rmatmul__")
    __pow__, __neg__ = _operator("__pow__"), _operator("__neg__")


def _apply(function: Callable[..., Any], args: Any, kwargs: dict[str, Any], name: str = "") -> Weight:
    tensors: list[Tensor] = []
    recipe = [name or getattr(function, "__name__", "call")]

    def offset(value: Any) -> Any:
        if isinstance(value, Weight | Tensor):
            start = len(tensors)
            own = value.tensors if isinstance(value, Weight) else (value,)
            tensors.extend(own)
            compute = value.compute if isinstance(value, Weight) else _first
            recipe.append(value.recipe if isinstance(value, Weight) else f"tensor{tuple(value.shape)}")
            return _Slot(compute, start, len(own))
        recipe.append(repr(value))
        return value

    slots = tree_map(offset, (tuple(args), kwargs))

    def compute(values: Sequence[Any]) -> Any:
        filled_args, filled_kwargs = tree_map(
            lambda s: s.compute(values[s.start : s.start + s.count]) if isinstance(s, _Slot) else s, slots
        )
        return function(*filled_args, **filled_kwargs)

    return Weight(tuple(tensors), compute, f"{recipe[0]}({', '.join(recipe[1:])})")


def _first(values: Sequence[Any]) -> Any:
    return values[0]


class _Slot:
    def __init__(self, compute: Compute, start: int, count: int):
        self.compute, self.start, self.count = compute, start, count
