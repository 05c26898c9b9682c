"""Freezing: a value is read as it is without any edit upstream, so that what is done there no longer moves it.

    t -> 0 t + 1 r        r the value that t has as long as nothing is edited, held fixed: no gradient goes through it

The same function, until something upstream is gated or edited. A norm whose scale is frozen is an affine map of its input; attention
whose pattern is frozen is linear in its values. That is an assumption about what is asked (how would the output move if the scale did
not), not an approximation of the model as it stands.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (frozen patterns, and the scale of layer norms).
"""

from typing import Any

from torch import Tensor

from rewrite import Skip, Terms, rewire


@rewire
def freeze(read: Tensor, unedited: Tensor) -> Tensor:
    """What the readers of the site read: its un-edited value, a constant to gradients.

    Shapes: read, unedited [...].
    """
    return unedited.detach()


@freeze.guard
def _real(read: Tensor) -> Skip | None:
    return None if read.is_floating_point() else Skip(f"it holds {read.dtype}, which nothing upstream moves a little")


@freeze.identity("it is the un-edited value", read=(2,), unedited=(2,))
def _held(law: Any, read: Any, unedited: Any):
    return law(read, unedited), unedited


@freeze.claim("it is the un-edited value, whatever it is set to upstream")
def _unmoved(t: Terms, read: Tensor, unedited: Tensor):
    return t[0], unedited
