"""Convolutions, by torch's own on residues."""

from __future__ import annotations

import math
from typing import Any

import torch

from verify.algebra import Algebra
from verify.rules.movement import padded
from verify.rules.table import Table
from verify.value import Field, Value

aten = torch.ops.aten


def convolution(
    a: Algebra,
    x: Value,
    w: Value,
    bias: Value,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Field:
    """A convolution by torch's own, on float64 residues."""
    x, w = a.field(x), a.field(w)
    length = math.prod(w.shape[2:]) * (w.shape[0] // groups if transposed else w.shape[1])
    op = lambda s, t: aten.convolution(s, t, None, stride, padding, dilation, transposed, output_padding, groups)  # noqa: E731
    out = a.bilinear(op, x, w, length)
    channels = (-1,) + (1,) * (len(w.shape) - 2)
    return out if bias is None else a.add(out, a.field(bias).each(lambda t: t.view(channels)))


def conv(
    a: Algebra, x: Value, w: Value, bias: Value = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Field:
    """conv1d, conv2d, conv3d."""
    spatial = len(w.shape) - 2
    several = lambda v: list(v) * (spatial // len(v)) if isinstance(v, (list, tuple)) else [v] * spatial  # noqa: E731
    return convolution(a, x, w, bias, several(stride), several(padding), several(dilation), False, [0] * spatial, groups)


def conv_padded(
    a: Algebra, x: Value, w: Value, bias: Value = None, stride: Any = 1, padding: str = "valid", dilation: Any = 1, groups: int = 1
) -> Field:
    """conv1d, conv2d, conv3d with a border called "valid" (none) or "same"."""
    spatial = len(w.shape) - 2
    gaps = list(dilation) * (spatial // len(dilation)) if isinstance(dilation, (list, tuple)) else [dilation] * spatial
    missing = [gap * (size - 1) if padding == "same" else 0 for gap, size in zip(gaps, w.shape[2:], strict=True)]
    border = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    x = a.field(x)
    return conv(a, padded(a, x, border) if any(border) else x, w, bias, stride, 0, dilation, groups)


TABLE: Table = {
    aten.convolution.default: convolution,
    aten.conv1d.default: conv,
    aten.conv2d.default: conv,
    aten.conv3d.default: conv,
    aten.conv1d.padding: conv_padded,
    aten.conv2d.padding: conv_padded,
    aten.conv3d.padding: conv_padded,
}
