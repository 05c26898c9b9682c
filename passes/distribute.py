"""Distributing: an affine map of a sum as the sum of its linear part on each summand, and the constant.

    L(a + b + ...) + c = L a + L b + ... + c

At an unembedding this is direct logit attribution: the residual stream is the sum of what embeddings, attention and MLPs wrote, the
final norm with its scale frozen is affine, so is the unembedding; the logits are a sum of one term for each writer.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (direct paths); Wang et al. 2022 (logit attribution).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rewrite import Terms, split

Map = Callable[[Tensor], Tensor]


@split(of="sum", name="from")
def distribute(summands: Mapping[str, Tensor], through: Map, constant: Tensor | None, *, over: str | None = None) -> Terms:
    """The part of the site that comes from each summand of the sum `over` (by default the furthest one), and the constant as `bias`.

    A term is named after the site that wrote the summand. Shapes: summands [...]; terms as the site.
    """
    return Terms(**{name: through(x) for name, x in summands.items()}, bias=constant)


@distribute.identity("the terms sum to the affine map of the sum", a=(2,), b=(2,), constant=(2,))
def _sums(law: Any, a: Any, b: Any, constant: Any):
    t = law({"a": a, "b": b}, _linear, constant)
    return t.a + t.b + t.bias, _linear(a + b) + constant


@distribute.identity("a term is the map of its own summand", a=(2,), b=(2,), constant=(2,))
def _alone(law: Any, a: Any, b: Any, constant: Any):
    return law({"a": a, "b": b}, _linear, constant).a, _linear(a)


def _linear(x: Any) -> Any:
    """A linear map of pairs, to state identities with."""
    return 3 * x[..., [1, 0]] + x


@distribute.claim("each term reads its own summand only")
def _own(
    t: Terms, summands: Mapping[str, Tensor], through: Callable[[Tensor], Tensor], constant: Tensor | None, *, over: str | None = None
):
    others = {name: torch.zeros_like(x) for name, x in summands.items()}  # the summands are arbitrary, so none can hide at zero
    alone: list[Any] = [distribute({**others, name: x}, through, constant, over=over).named[name] for name, x in summands.items()]
    terms: list[Any] = [t.named[name] for name in summands]
    return torch.stack(terms), torch.stack(alone)
