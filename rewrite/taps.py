"""Module boundaries: hooks that copy out every module call's tensors while a model is exported, without touching the flow.

A copy (`clone`) becomes an extra output of the exported graph. In-place writes after the hook cannot reach it, so a tap is the value
at the time of the call. One thing does go into the flow: a module that hands on a tensor which is not its own (an Identity) gets an
`alias`, or its output could not be told from its input.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rewrite.nested import join, positional_names, replaced, tensors_in

PREFIX = "model"  # the attribute that holds the model in its wrapper: export puts it before every name


@dataclass(frozen=True, slots=True)
class Tap:
    """One copied tensor: of which call (`tag`), its input or output, and its name within ("" for a lone tensor)."""

    tag: str
    kind: Literal["input", "output"]
    name: str
    alone: bool  # the first tensor of its call's inputs or outputs: it also goes by the bare address

    @property
    def addresses(self) -> list[str]:
        """The addresses of the value; the root's output is always named by its leaf."""
        if self.kind == "input":
            return [join(f"{self.tag}@in", self.name), *([f"{self.tag}@in"] if self.alone else [])]
        return list(dict.fromkeys([join(self.tag, self.name), *([self.tag] if self.alone else [])]))


class Recorder:
    """Collects taps while the hooked model runs once."""

    def __init__(self, model: nn.Module):
        self.taps: list[Tap] = []
        self.values: list[Tensor] = []
        self._names = {module: path for path, module in model.named_modules()}
        self._fixed = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        self._calls: Counter[str] = Counter()
        self._open: list[tuple[str, list[tuple[str, Tensor]]]] = []
        self._signatures = {path: inspect.signature(module.forward) for module, path in self._names.items()}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks on every module but the root, taken off again whatever happens; forgets what an earlier run recorded."""
        for table in (self.taps, self.values, self._calls, self._open):
            table.clear()
        handles = []
        try:
            for module, path in self._names.items():
                if path:
                    # the path is bound here: for a module under two names, export hands a stand-in to its hooks
                    handles.append(module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True))
                    handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls[path] += 1
        tag = path if self._calls[path] == 1 else f"{path}#{self._calls[path]}"
        named = [*zip(positional_names(self._signatures[path], len(args)), args, strict=True), *kwargs.items()]
        given = [(join(name, below), tensor) for name, value in named for below, tensor in tensors_in(value)]
        self._open.append((tag, given))
        self._copy(tag, "input", given)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        tag, given = self._open.pop()
        foreign = self._fixed | {id(tensor) for _, tensor in given}
        own: dict[str, Tensor] = {}
        leaves = tensors_in(output)
        for name, tensor in leaves:
            if id(tensor) in foreign:
                own[name] = torch.ops.aten.alias.default(tensor)
            foreign.add(id(tensor))
        self._copy(tag, "output", [(name, own.get(name, tensor)) for name, tensor in leaves])
        return replaced(output, own) if own else None

    def _copy(self, tag: str, kind: Literal["input", "output"], leaves: list[tuple[str, Tensor]]) -> None:
        for i, (name, tensor) in enumerate(leaves):
            self.taps.append(Tap(tag, kind, name, i == 0))
            self.values.append(tensor.clone())


class Tapped(nn.Module):
    """The model, called the same way, that returns (its output, the copies of its module calls' tensors)."""

    def __init__(self, model: nn.Module, recorder: Recorder):
        super().__init__()
        setattr(self, PREFIX, model)

        def forward(*args: Any, **kwargs: Any) -> tuple[Any, tuple[Tensor, ...]]:
            with recorder.hooks():
                return model(*args, **kwargs), tuple(recorder.values)

        forward.__signature__ = inspect.signature(model.forward)  # type: ignore[attr-defined]
        self.forward = forward
