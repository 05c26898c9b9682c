"""Which axes of the inputs may change size, and examples of other sizes.

Axis 0 of every tensor is the batch; axis 1 of two-dimensional integer, bool or mask tensors and of [batch, sequence, width] floats is
the sequence, and so is any later axis of an integer, bool or four-dimensional tensor that has a sequence's size. Axes of size 1
broadcast, and stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

Example = tuple[tuple[Any, ...], dict[str, Any]]
Axes = Callable[[Tensor], tuple[int, ...]]


def batch_axes(tensor: Tensor) -> tuple[int, ...]:
    """The batch axis, if it is there."""
    return (0,) if tensor.dim() > 0 and tensor.shape[0] > 1 else ()


def sequence_axes(example: Example) -> Axes:
    """The function from an input to its sequence axes."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    lengths = {t.shape[1] for t in tensors if (t.dim() == 2 and not t.is_floating_point()) or (t.dim() == 3 and t.is_floating_point())}

    def axes(tensor: Tensor) -> tuple[int, ...]:
        if tensor.dim() == 3 and tensor.is_floating_point():
            candidates: tuple[int, ...] = (1,)
        elif tensor.dim() == 4 and tensor.is_floating_point():
            candidates = (2, 3) if tensor.shape[1] == 1 else ()
        else:
            candidates = tuple(range(1, tensor.dim()))
        return tuple(axis for axis in candidates if tensor.shape[axis] > 1 and tensor.shape[axis] in lengths)

    return axes


def specification(signature: inspect.Signature, example: Example, axes: Axes) -> dict[str, Any]:
    """What torch.export wants to know: for each argument, the tree of its tensors' dynamic axes."""

    def of(leaf: Any) -> Any:
        return dict.fromkeys(axes(leaf), Dim.DYNAMIC) or None if isinstance(leaf, Tensor) else None

    return {name: tree_map(of, value) for name, value in signature.bind(*example[0], **example[1]).arguments.items()}


def levels(signature: inspect.Signature, example: Example) -> dict[str, dict[str, Any]]:
    """Specifications worth trying, the most dynamic first, under the words of the header."""
    sequence = sequence_axes(example)
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    found: dict[str, dict[str, Any]] = {}
    if any(map(batch_axes, tensors)):
        if any(map(sequence, tensors)):
            found["batch, sequence"] = specification(signature, example, lambda t: tuple(dict.fromkeys((*batch_axes(t), *sequence(t)))))
        found["batch"] = specification(signature, example, batch_axes)
    return found


def fresh(example: Example) -> Example:
    """The example with a tensor object of its own for every argument, over the same storage.

    torch.export leaves marks on the objects that it is given, and takes one object given twice for one argument.
    """
    return tree_map(lambda leaf: leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf, example)


def doubled(example: Example) -> Example | None:
    """The example repeated to a batch of 2 if its batch is 1; else None. A size of 1 cannot be traced as a size that may change."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim() > 1]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return None
    return tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() > 1 else leaf, example)


def resized(example: Example, dynamic: str) -> Example | None:
    """The example at other sizes of the axes that `dynamic` speaks of: one more row, one position fewer; None if there are none."""
    if dynamic not in ("batch", "batch, sequence"):
        return None
    sequence = sequence_axes(example) if dynamic == "batch, sequence" else lambda tensor: ()

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        for axis in dict.fromkeys((*batch_axes(leaf), *sequence(leaf))):
            size = leaf.shape[axis]
            fewer = axis in sequence(leaf) and size > 2
            index = torch.arange(size - 1 if fewer else size + 1, device=leaf.device) % size
            leaf = leaf.index_select(axis, index)
        return leaf

    return tree_map(other, example)
