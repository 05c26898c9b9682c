"""Samplers: for each example of the parent, an example of the data that agrees with it in what is claimed to matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from analysis.data import picked
from rewrite import InputError

Batch = Mapping[str, Any]
Drawn = Tensor | Batch  # rows of the data, or examples made up on the fly


class Sampler(Protocol):
    """Draws one example of `data` for each of `parent`, all of an example's arrays together: row numbers, or a batch of its own."""

    def __call__(self, parent: Batch, data: Batch, generator: torch.Generator, /) -> Drawn:
        """The draw."""
        ...


@dataclass(frozen=True)
class Exact:
    """The parent's own examples."""

    def __call__(self, parent: Batch, data: Batch, generator: torch.Generator) -> Drawn:
        """The parent."""
        return parent

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Unconditional:
    """Any example of the data, each as likely as any other."""

    def __call__(self, parent: Batch, data: Batch, generator: torch.Generator) -> Drawn:
        """Row numbers, drawn with replacement. Shapes: [example]."""
        return torch.randint(0, rows(data), (rows(parent),), generator=generator)

    def __str__(self) -> str:
        return "any example"


@dataclass(frozen=True, eq=False)
class By:
    """An example with the same feature, each of them as likely as any other."""

    feature: Callable[[Batch], Any]
    name: str
    _known: dict[int, tuple[Any, Tensor]] = field(default_factory=dict)

    def __call__(self, parent: Batch, data: Batch, generator: torch.Generator) -> Drawn:
        """Row numbers, drawn with replacement. Shapes: [example].

        Raises: InputError for an example whose feature no example of the data has.
        """
        of_data, of_parent, counts = self._classes(parent, data)
        sizes = counts[of_parent]
        if bool((sizes == 0).any()):
            first = int((sizes == 0).nonzero()[0])
            raise InputError(
                f"by({self.name}): expected an example of the data with the feature of example {first}, "
                f"{self._values(parent)[first].tolist()}, got none. Let the feature say less, or give more data."
            )
        order = torch.argsort(of_data, stable=True)
        first_of = torch.cumsum(counts, 0) - counts
        picks = (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * sizes).long()
        return order[first_of[of_parent] + picks]

    def alone(self, parent: Batch, data: Batch) -> int:
        """How many of the parent's examples have a feature that one example of the data has alone: nothing is exchanged there."""
        _, of_parent, counts = self._classes(parent, data)
        return int((counts[of_parent] == 1).sum())

    def _classes(self, parent: Batch, data: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The class of each example of the data and of the parent, and how many of the data are in each."""
        ours, theirs = self._values(parent), self._of_data(data)
        _, classes = torch.unique(torch.cat([theirs, ours]), dim=0, return_inverse=True)
        counts = torch.bincount(classes[: len(theirs)], minlength=int(classes.max()) + 1)
        return classes[: len(theirs)], classes[len(theirs) :], counts

    def _of_data(self, data: Batch) -> Tensor:
        if id(data) not in self._known:
            self._known[id(data)] = (data, self._values(data))
        return self._known[id(data)][1]

    def _values(self, batch: Batch) -> Tensor:
        found = self.feature(batch)
        if not isinstance(found, Tensor):
            try:
                found = torch.as_tensor(found)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(
                    f"by({self.name}): expected a tensor or numbers, one an example, got {type(found).__name__}. Number the classes."
                ) from None
        if found.dim() == 0 or found.shape[0] != rows(batch):
            raise InputError(f"by({self.name}): expected one feature an example, {rows(batch)}, got shape {list(found.shape)}.")
        return found.reshape(len(found), -1).double().cpu()

    def __str__(self) -> str:
        return f"by {self.name}"


exact, unconditional = Exact(), Unconditional()


def by(feature: Callable[[Batch], Any], name: str = "") -> By:
    """The sampler of examples that agree in `feature`, a function of a batch: one number, or a row of numbers, an example."""
    return By(feature, name or getattr(feature, "__name__", "a feature"))


def rows(batch: Batch) -> int:
    """The number of examples."""
    for value in batch.values():
        if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.dim()):
            return len(value)
        if isinstance(value, Mapping):
            return rows(value)
    raise InputError(f"scrub: expected a batch with examples, got one of {sorted(batch)} without a tensor or list.")


def check_rows(batch: Batch, count: int, who: str) -> None:
    """Raises: InputError for a tensor or list that has not one row for each of `count` examples."""
    for name, value in batch.items():
        if isinstance(value, Mapping):
            check_rows(value, count, who)
        elif (isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.dim())) and len(value) != count:
            raise InputError(f"{who}: expected {name!r} to have {count} rows, one for each example, got {len(value)}.")


def taken(data: Batch, drawn: Any, count: int, who: str) -> Batch:
    """The examples that a sampler drew, as a batch.

    Raises: InputError for anything but as many row numbers, or a batch of as many examples.
    """
    if isinstance(drawn, Mapping):
        check_rows(drawn, count, who)
        return drawn
    if not isinstance(drawn, Tensor) or drawn.dtype != torch.int64 or tuple(drawn.shape) != (count,):
        found = f"{drawn.dtype} {list(drawn.shape)}" if isinstance(drawn, Tensor) else type(drawn).__name__
        raise InputError(f"{who}: expected {count} row numbers of the data, int64, or a batch, got {found}.")
    if count and not 0 <= int(drawn.min()) <= int(drawn.max()) < rows(data):
        raise InputError(f"{who}: expected rows from 0 to {rows(data) - 1}, got {int(drawn.min())} to {int(drawn.max())}.")
    return {name: picked(value, drawn) for name, value in data.items()}
