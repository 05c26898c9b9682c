"""Places: parts of a value, as a mask that is computed from its sizes. A member of a family and a slice are one thing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import SiteError


@dataclass(frozen=True, slots=True)
class Span:
    """Some entries of one axis: those in `members`, or those from `bounds` (start, stop, step) where the axis has no fixed size."""

    axis: int
    members: tuple[int, ...] = ()
    bounds: tuple[int | None, int | None, int] | None = None

    def here(self, value: Tensor) -> Tensor:
        """True at the entries meant. Shapes: [size of the axis, 1, ...], to be broadcast to `value`."""
        size = value.shape[self.axis]
        index = torch.arange(size, device=value.device)
        if self.bounds is None:
            found = index == self.members[0]
            for member in self.members[1:]:
                found = found | (index == member)
        else:
            start, stop, step = self.bounds
            first = 0 if start is None else start if start >= 0 else size + start
            found = (index >= first) & ((index - first) % step == 0)
            if stop is not None:
                found = found & (index < (stop if stop >= 0 else size + stop))
        return found.reshape((-1,) + (1,) * (value.dim() - 1 - self.axis))

    def apart(self, other: Span) -> bool:
        """True if no entry is in both, whatever the size."""
        if self.axis != other.axis:
            return False
        if self.bounds is None and other.bounds is None:
            return set(self.members).isdisjoint(other.members)
        low, high = sorted((self, other), key=lambda one: one._ends()[0])
        return min(low._ends()[0], high._ends()[0]) >= 0 and 0 <= low._ends()[1] <= high._ends()[0]

    def _ends(self) -> tuple[int, int]:
        """The first entry, and the one behind the last; -1 where they depend on the size."""
        if self.bounds is None:
            return min(self.members), max(self.members) + 1
        start, stop, _ = self.bounds
        return (start or 0 if (start or 0) >= 0 else -1), (-1 if stop is None or stop < 0 else stop)


Region = tuple[Span, ...]  # of several axes, the entries that lie in all; of none, the whole value


def span(axis: int, pick: slice | int, size: Any, what: str) -> Span | None:
    """The entries that one slice means, None if all.

    Raises: SiteError if there are none.
    """
    if pick == slice(None):
        return None
    if not isinstance(size, int):
        if isinstance(pick, int):
            return Span(axis, (pick,)) if pick >= 0 else Span(axis, bounds=(pick, pick + 1 or None, 1))
        return Span(axis, bounds=(pick.start, pick.stop, pick.step or 1))
    entries: Sequence[int] = range(size)[pick] if isinstance(pick, slice) else [pick % size] if -size <= pick < size else []
    if not entries:
        raise SiteError(f"{what}: expected entries of axis {axis}, which has {size}, got none.")
    return Span(axis, tuple(entries))


def apart(a: Region, b: Region) -> bool:
    """True if no entry is in both regions."""
    return any(one.apart(other) for one in a for other in b)


def here(value: Tensor, region: Region) -> Tensor:
    """True at the entries of `value` in the region, to be broadcast to it."""
    found = region[0].here(value)
    for one in region[1:]:
        found = found & one.here(value)
    return found
