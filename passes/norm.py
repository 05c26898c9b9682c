"""Norms written out: what a layer norm or RMS norm does, with its steps as named parts.

    layer norm(x) = g (x - mean x) / sqrt(var x + eps) + b        RMS norm(x) = g x / sqrt(mean x^2 + eps)

The division is the only step that is not affine in x, so with `scale` held fixed paths lead through a norm.
Source: Ba et al. 2016, "Layer Normalization"; Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
"""

import torch
from torch import Tensor

from rewrite import Terms, part, reform


@reform(of="norm")
def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    """The norm of `x`, with the parts `centred` (layer norm only), `scale` and `affine`.

    Shapes: x [..., d_model], weight and bias [d_model]; centred [..., d_model], scale [..., 1], affine [..., d_model].
    """
    if centred:
        x = part("centred", x - x.mean(-1, keepdim=True))
    y = x * part("scale", torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
    if weight is not None:
        y = y * weight
    return part("affine", y if bias is None else y + bias)


@norm.claim("centred has mean zero")
def _mean_zero(t: Terms, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool):
    return (t.centred.mean(-1), 0) if centred else None


@norm.claim("scale is one over the root mean square")
def _root_mean_square(t: Terms, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool):
    variance = x.var(-1, keepdim=True, correction=0) if centred else x.pow(2).mean(-1, keepdim=True)
    return t.scale, torch.rsqrt(variance + eps)
