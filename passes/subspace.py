"""Subspaces: split a value into its projection on the span of some vectors and the rest.

    y = P y + (y - P y),   P = sum_i u_i u_i' / (u_i.u_i)        for every B with independent rows

The u_i are the rows of B made orthogonal one after the other (Gram and Schmidt), not normalised: with sums, products and quotients only,
the claim that the rest is orthogonal to B can be proved.

Source: orthogonal projection; as an intervention, Geiger et al. 2024, "Finding Alignments Between Interpretable Causal Variables ...".
"""

from typing import Any

import torch
from torch import Tensor

from rewrite import Skip, Terms, split


@split
def subspace(y: Tensor, *, basis: Tensor) -> Terms:
    """The projection of `y` on the span of the rows of `basis`, and the rest.

    The rows need not be orthogonal.

    Shapes: y [..., d_model], basis [rank, d_model]; terms [..., d_model].
    """
    inside = _projected(y, orthogonal(basis))
    return Terms(inside, rest=y - inside)


def orthogonal(basis: Tensor) -> Tensor:
    """Orthogonal rows with the span of the rows of `basis`. Shapes: basis and result [rank, d_model]."""
    rows = basis[:1]
    for i in range(1, basis.shape[0]):
        rows = torch.cat([rows, basis[i : i + 1] - _projected(basis[i : i + 1], rows)])
    return rows


def _projected(y: Tensor, rows: Tensor) -> Tensor:
    return ((y @ rows.mT) / (rows * rows).sum(-1)) @ rows


@subspace.guard
def _independent(y: Tensor, *, basis: Tensor) -> Skip | None:
    value = getattr(basis, "value", basis)
    if value.dim() != 2 or value.shape[1] != y.shape[-1]:
        return Skip(f"basis has shape {list(value.shape)}, the site's last axis is {y.shape[-1]}")
    if value.is_meta:
        return None
    rank = int(torch.linalg.matrix_rank(value.double()))
    return None if rank == value.shape[0] else Skip(f"basis has {value.shape[0]} rows of rank {rank}")


@subspace.claim("the rest is orthogonal to the basis")
def _orthogonal(t: Terms, y: Tensor, *, basis: Tensor):
    return t.rest @ basis.mT, 0


@subspace.identity("rest . b = 0 for every row b of the basis", y=(3,), basis=(2, 3))
def _no_component(law: Any, y: Any, basis: Any):
    return law(y, basis=basis).rest @ basis.T, 0


@subspace.identity("on a span of one row it is the projection on a direction", y=(2, 3), basis=(1, 3))
def _one_row(law: Any, y: Any, basis: Any):
    return law(y, basis=basis)[0], (y @ basis.T) * basis / (basis @ basis.T)
