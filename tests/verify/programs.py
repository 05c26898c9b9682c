"""Programs that several tests compare, each traced once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from rewrite import Program, trace
from tests.models import TRANSFORMERS
from tests.verify.toy import BUGS, CORRECT, Toy, base, example, varied


@lru_cache
def toy(seed: int = 0, dead: bool = False) -> Program:
    """The toy transformer, with one neuron dead if so asked."""
    return trace(varied(base("b_dead" if dead else ""), seed), **example(), dynamic=False)


@lru_cache
def variant(name: str) -> Program:
    """One of the toy's variants."""

    def both(model: Toy) -> None:
        base(name)(model)
        (CORRECT | BUGS)[name](model)

    return trace(varied(both), **example(), dynamic=False)


@lru_cache
def tiny(name: str) -> Program:
    """One of the tiny transformers."""
    model, inputs = TRANSFORMERS[name]()
    return trace(model, **inputs)


class Plain(nn.Module):
    """A function as a module, with the tensors that it takes first as parameters `w.0`, `w.1`, ... and buffers."""

    def __init__(self, function: Callable[..., Any], weights: tuple[Tensor, ...] = (), tables: tuple[Tensor, ...] = ()) -> None:
        super().__init__()
        self.function = function
        self.w = nn.ParameterList(nn.Parameter(w) for w in weights)
        for i, table in enumerate(tables):
            self.register_buffer(f"table{i}", table)
        self.tables = len(tables)

    def forward(self, x: Tensor) -> Any:
        return self.function(*self.w, *(getattr(self, f"table{i}") for i in range(self.tables)), x)


def plain(function: Callable[..., Any], x: Tensor, *weights: Tensor, tables: tuple[Tensor, ...] = ()) -> Program:
    """A function of weights, tables and x, traced."""
    return trace(Plain(function, weights, tables).eval(), x, dynamic=False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
