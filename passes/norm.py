"""Norms written out: what a layer norm or RMS norm does, with its steps as named parts.

    layer norm(x) = g (x - mean x) / sqrt(var x + eps) + b        RMS norm(x) = g x / sqrt(mean x^2 + eps)

The division is the only step that is not affine in x, so with `scale` held fixed paths lead through a norm.
Source: Ba et al. 2016, "Layer Normalization"; Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
"""

from typing import Any

import sympy
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


@norm.identity("it is g (x - mean x) / sqrt(mean x^2 - (mean x)^2 + eps) + b", x=(2, 3), weight=(3,), bias=(3,), eps=())
def _layer_norm(law: Any, x: Any, weight: Any, bias: Any, eps: Any):
    mean = x.mean(-1, keepdims=True)
    spread = (x**2).mean(-1, keepdims=True) - mean**2 + eps
    return law(x, weight, bias, eps, True).value, weight * (x - mean) * spread ** -sympy.Rational(1, 2) + bias


@norm.identity("without centring it is g x / sqrt(mean x^2 + eps)", x=(2, 3), weight=(3,), eps=())
def _rms_norm(law: Any, x: Any, weight: Any, eps: Any):
    square = (x**2).mean(-1, keepdims=True)
    return law(x, weight, None, eps, False).value, weight * x * (square + eps) ** -sympy.Rational(1, 2)


@norm.identity("centred, it does not see a shift", x=(3,), shift=(), eps=())
def _shift(law: Any, x: Any, shift: Any, eps: Any):
    return law(x + shift, None, None, eps, True).value, law(x, None, None, eps, True).value
