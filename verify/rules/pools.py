"""Pooling: windows laid out along a last axis of their own, then a maximum (of the set of a window's values) or a mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.algebra import Algebra
from verify.rules.choose import amax
from verify.rules.movement import moved
from verify.rules.table import Table
from verify.value import Field, Value, either, some

aten = torch.ops.aten


def several(given: Any, count: int, default: Any = None) -> list[int]:
    """One number for each spatial axis."""
    if given is None or given == []:
        return several(default, count)
    return [given] * count if isinstance(given, int) else list(given) * (count // len(given))


def windows(a: Algebra, x: Field, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> tuple[Field, Tensor]:
    """The windows over the last axes, each laid out along a new last axis, and where they reach beyond the border.

    Shapes: x [..., *spatial]; windows [..., *positions, window], mask [positions..., window].
    """
    count = len(kernel)
    spatial = x.shape[-count:]
    places = torch.arange(spatial.numel()).view(spatial)
    places = F.pad(places, [p for pad in reversed(padding) for p in (pad, pad)], value=-1)
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        places = places.unfold(axis, (size - 1) * gap + 1, step).index_select(-1, torch.arange(size) * gap)
    places = places.reshape(*places.shape[:count], -1)
    outside = places < 0
    at = places.clamp(min=0).flatten()
    return x.each(lambda t: t.flatten(-count)[..., at].unflatten(-1, tuple(places.shape))), outside


def max_pool(count: int) -> Any:
    """The rule of max_pool1d, 2d, 3d."""

    def rule(a: Algebra, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Field:
        if ceil_mode:
            a.refuse("windows that reach beyond the border")
        x = a.field(x)
        sizes = several(kernel, count)
        laid, outside = windows(a, x, sizes, several(stride, count, sizes), several(padding, count), several(dilation, count))
        hard = outside.expand(laid.shape) if bool(outside.any()) else None
        return amax(a, replace(laid, hard=some(either(laid.hard, hard))), -1)

    return rule


def mean_pool(count: int) -> Any:
    """The rule of avg_pool1d, 2d, 3d: windows that reach beyond the border hold zeros there."""

    def rule(
        a: Algebra, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, include: bool = True,
        divisor: int | None = None,
    ) -> Field:  # fmt: skip
        if not a.out.is_floating_point:
            a.refuse("a mean of whole numbers that is one")
        pads = several(padding, count)
        if ceil_mode or divisor is not None or (any(pads) and not include):
            a.refuse("windows of several sizes")
        sizes = several(kernel, count)
        laid, outside = windows(a, a.plain(x), sizes, several(stride, count, sizes), pads, [1] * count)
        return a.mean(a.kept(laid, ~outside), (len(laid.shape) - 1,))

    return rule


def adaptive(count: int) -> Any:
    """The rule of adaptive_avg_pool1d, 2d, 3d: means of slices, axis by axis."""

    def rule(a: Algebra, x: Value, wanted: Sequence[int]) -> Field:
        x = a.field(x)
        for axis, size in zip(range(len(x.shape) - count, len(x.shape)), several(wanted, count), strict=True):
            length = x.shape[axis]
            starts = [i * length // size for i in range(size)]
            ends = [-(-(i + 1) * length // size) for i in range(size)]
            cuts = [x.each(lambda t, d=axis, s=s, e=e: t.narrow(d, s, e - s)) for s, e in zip(starts, ends, strict=True)]
            x = moved(a, torch.cat, [a.mean(cut, (axis,), keepdim=True) for cut in cuts], axis)
        return x

    return rule


TABLE: Table = {
    **{getattr(aten, f"max_pool{n}d").default: max_pool(n) for n in (1, 2, 3)},
    **{getattr(aten, f"avg_pool{n}d").default: mean_pool(n) for n in (1, 2, 3)},
    **{getattr(aten, f"adaptive_avg_pool{n}d").default: adaptive(n) for n in (1, 2, 3)},
    aten.max_pool2d_with_indices.default: lambda a, x, *how: (max_pool(2)(a, x, *how), None),
    aten._adaptive_avg_pool2d.default: adaptive(2),
    aten._adaptive_avg_pool3d.default: adaptive(3),
}
