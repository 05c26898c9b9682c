"""Directions: split a value into its component along a direction and the rest.

    y = (y.d / d.d) d  +  (y - (y.d / d.d) d)        for every d != 0

Source: the projection of linear algebra; as an intervention, Bolukbasi et al. 2016, "Man is to Computer Programmer ...", section 6.
"""

from typing import Any

from torch import Tensor

from rewrite import Skip, Terms, split


@split
def direction(y: Tensor, *, d: Tensor) -> Terms:
    """The component of `y` along `d`, and the rest.

    Shapes: y [..., d_model], d [d_model]; terms [..., d_model].
    """
    along = (y @ d).unsqueeze(-1) * (d / (d @ d))
    return Terms(along, rest=y - along)


@direction.guard
def _nonzero(y: Tensor, *, d: Tensor) -> Skip | None:
    value = getattr(d, "value", d)
    if not value.is_floating_point():
        return Skip(f"d holds {value.dtype}, not floating point numbers")
    if value.dim() != 1 or value.shape[0] != y.shape[-1]:
        return Skip(f"d has shape {list(value.shape)}, the site's last axis is {y.shape[-1]}")
    if value.is_meta:
        return None
    if not value.any():
        return Skip("d is zero")
    length = value.to(y.dtype) @ value.to(y.dtype)
    return None if length.isfinite() and length > 0 else Skip(f"d @ d is {length.item():g} in {y.dtype}: scale d")


@direction.claim("the rest has no component along d")
def _orthogonal(t: Terms, y: Tensor, *, d: Tensor):
    return t.rest @ d, 0


@direction.claim("the term is parallel to d")
def _parallel(t: Terms, y: Tensor, *, d: Tensor):
    return t[0] * (d @ d), (t[0] @ d).unsqueeze(-1) * d


@direction.identity("the term is (y.d / d.d) d", y=(2, 3), d=(3,))
def _projection(law: Any, y: Any, d: Any):
    return law(y, d=d)[0], (y @ d)[:, None] * d / (d @ d)


@direction.identity("rest . d = 0", y=(2, 3), d=(3,))
def _no_component(law: Any, y: Any, d: Any):
    return law(y, d=d).rest @ d, 0
