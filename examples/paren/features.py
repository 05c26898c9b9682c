"""What a string of parentheses can be said to be: features that hypotheses say a part of the model computes.

Each takes a batch of token ids and gives one number, or one row of numbers, an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from analysis.demo.data import CLOSE, OPEN, PAD

Batch = Mapping[str, Any]


def steps(batch: Batch) -> Tensor:
    """1 for "(", -1 for ")", 0 for the rest. Shapes: [example, position]."""
    ids = batch["input_ids"]
    return (ids == OPEN).long() - (ids == CLOSE).long()


def length(batch: Batch) -> Tensor:
    """The number of parentheses. Shapes: [example]."""
    return steps(batch).abs().sum(1)


def starts(batch: Batch) -> Tensor:
    """Whether the first parenthesis is a "(". Shapes: [example]."""
    return steps(batch)[:, 1] == 1


def equal_count(batch: Batch) -> Tensor:
    """Whether there are as many "(" as ")". Shapes: [example]."""
    return steps(batch).sum(1) == 0


def count(batch: Batch) -> Tensor:
    """Whether there are as many "(" as ")", and the first parenthesis is a "(". Shapes: [example]."""
    return equal_count(batch) & starts(batch)


def horizon(batch: Batch) -> Tensor:
    """Whether no rest of the string has more "(" than ")". Shapes: [example]."""
    return (steps(batch).flip(1).cumsum(1) <= 0).all(1)


def prefix(batch: Batch) -> Tensor:
    """Whether no beginning of the string has more ")" than "(". Shapes: [example]."""
    return (steps(batch).cumsum(1) >= 0).all(1)


def balanced(batch: Batch) -> Tensor:
    """Whether the string is balanced. Shapes: [example]."""
    return prefix(batch) & equal_count(batch)


def share(batch: Batch) -> Tensor:
    """The part of "(" among the parentheses if the first is one, else one class of its own. Shapes: [example]."""
    opens = (steps(batch) == 1).sum(1)
    return torch.where(starts(batch), opens / length(batch), torch.full((), -1.0))


def rest_at(position: int, before: float = 0.0, after: float = 1.0) -> Callable[[Batch], Tensor]:
    """A feature of five classes: padding, no parenthesis, or which kind is in the majority at `position`: "(", ")" or neither.

    `before` and `after` weigh the parentheses in front of the position and from it on; the default counts the rest of the string.
    """

    def feature(batch: Batch) -> Tensor:
        step, here = steps(batch), batch["input_ids"][:, position]
        majority = torch.sign(before * step[:, :position].sum(1) + after * step[:, position:].sum(1)).double()
        return torch.where(step[:, position] != 0, majority, torch.where(here == PAD, -3.0, -2.0).double())

    feature.__name__ = f"rest at {position}"
    return feature


FEATURES = (equal_count, count, prefix, horizon, balanced)
SUBSETS = {
    "balanced": balanced,
    "unbalanced": lambda batch: ~balanced(batch),
    "count fails": lambda batch: ~equal_count(batch),
    "horizon fails": lambda batch: ~horizon(batch),
}
