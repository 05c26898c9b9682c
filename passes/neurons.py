"""Neurons: the output projection of an MLP as a sum over its hidden units.

    W a + b = sum_i W[:, i] a[i] + b        where a[i] is the activation of unit i (in a gated MLP, gate times up)

Source: Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories", section 2.
"""

from typing import Any

import torch
from torch import Tensor

from rewrite import Family, Terms, fresh, split


@split(of="linear", name="neuron")
def neurons(x: Tensor, weight: Tensor, bias: Tensor | None) -> Terms:
    """The contribution of each hidden unit as a family, and the bias.

    Shapes: x [..., d_mlp], weight [d_model, d_mlp], bias [d_model]; terms [..., d_model], coordinate [..., d_mlp].
    """
    return Terms(Family("...n,mn->...m", x, weight, axis="n", act=x), bias=bias)


@neurons.claim("member i is parallel to column i of the weight", member="i")
def _parallel(t: Terms, x: Tensor, weight: Tensor, bias: Tensor | None, *, i: Tensor):
    column = weight.index_select(1, i.reshape(1)).squeeze(1)
    member = t[0][i]
    return member * (column @ column), (member @ column).unsqueeze(-1) * column


@neurons.claim("member i reads unit i only", member="i")
def _own_unit(t: Terms, x: Tensor, weight: Tensor, bias: Tensor | None, *, i: Tensor):
    mine = torch.arange(x.shape[-1]) == i
    return t[0][i], neurons(torch.where(mine, x, fresh(x)), weight, bias)[0][i]


@neurons.identity("neurons and bias sum to x W' + b", x=(2, 3), weight=(2, 3), bias=(2,))
def _sum(law: Any, x: Any, weight: Any, bias: Any):
    return law(x, weight, bias).total, x @ weight.T + bias


@neurons.identity("neuron i is x[i] times column i of W", x=(2, 3), weight=(2, 3), bias=(2,))
def _columns(law: Any, x: Any, weight: Any, bias: Any):
    return law(x, weight, bias).members, [x[:, i : i + 1] * weight[:, i] for i in range(3)]
