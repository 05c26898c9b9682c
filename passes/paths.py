"""Paths: a reader gets its own copy of a term, so that it can be edited on that edge alone.

    x' = x + c (t' - t)        c the factor with which t reaches the reader through adds and scalings

Source: Wang et al. 2022, "Interpretability in the Wild", section 2.2 (path patching); Goldowsky-Dill et al. 2023.
"""

from typing import Any

from torch import Tensor

from rewrite import rewire


@rewire
def paths(read: Tensor, term: Tensor, own: Tensor, coefficient: Tensor | float) -> Tensor:
    """What the reader reads: what it read, with its own copy of the term in the term's place.

    Shapes: read, term, own [..., d_model].
    """
    change = own - term
    return read + (change if isinstance(coefficient, float) and coefficient == 1.0 else coefficient * change)


@paths.identity("in c t + rest it puts t' in the place of t", t=(2,), own=(2,), rest=(2,), c=())
def _exchanged(law: Any, t: Any, own: Any, rest: Any, c: Any):
    return law(c * t + rest, t, own, c), c * own + rest


@paths.identity("with the term itself for its copy it is what it was", read=(2,), t=(2,), c=())
def _same(law: Any, read: Any, t: Any, c: Any):
    return law(read, t, t, c), read
