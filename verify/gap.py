"""How far apart two values are, measured in what rounding explains: from runs of both programs in float32 and in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

UNIT = 2.0**-24  # unit roundoff of float32
SHRINK = 2.0**-29  # float64's over float32's


@dataclass(frozen=True)
class Gap:
    """How far apart two programs are at one value. Units: `rho`, `amplification` ratios; `ulp` of the largest float32 element."""

    rho: float = 0.0
    amplification: float = 0.0
    ulp: float = 0.0
    largest: float = 0.0  # |difference| in float64
    undefined: int = 0
    at: str = ""

    def worst(self, other: Gap) -> Gap:
        """The larger of each figure, at the place of the larger rho."""
        first = self if self.rho >= other.rho else other
        return Gap(
            first.rho, max(self.amplification, other.amplification), max(self.ulp, other.ulp), max(self.largest, other.largest),
            self.undefined + other.undefined, first.at or self.at or other.at,
        )  # fmt: skip


def gap(p32: Any, q32: Any, p64: Any, q64: Any, at: str = "") -> Gap:
    """How two programs differ at a value, from their runs in both precisions. Shapes: all four alike, or they differ outright."""
    if not all(isinstance(x, Tensor) for x in (p32, q32, p64, q64)):
        return Gap(rho=0.0 if p64 == q64 else math.inf, at=at)
    if p64.shape != q64.shape:
        return Gap(rho=math.inf, at=at)
    if not p64.is_floating_point():
        off = largest_of(q64.double() - p64.double()) if p64.numel() else 0.0
        return Gap(rho=math.inf if off else 0.0, largest=off, at=at)
    p32, q32, p64, q64 = (x.detach().double().reshape(-1) for x in (p32, q32, p64, q64))
    defined = p64.isfinite() & p32.isfinite()
    lost = defined & ~(q64.isfinite())
    if bool(lost.any()):
        return Gap(rho=math.inf, largest=math.inf, at=at)
    lost32 = bool((defined & ~q32.isfinite()).any())
    defined &= q32.isfinite()
    undefined = int((~defined).sum())
    p32, q32, p64, q64 = (x[defined] for x in (p32, q32, p64, q64))
    if not p64.numel():
        far = math.inf if lost32 else 0.0
        return Gap(amplification=far, ulp=far, undefined=undefined, at=at)
    figures = [_figures(p32, q32, p64, q64, norm) for norm in (root_mean_square, largest_of)]
    amplification, off = max(f[1] for f in figures), largest_of(q32 - p32) / ulp(p32)
    if lost32:
        amplification = off = math.inf
    return Gap(max(f[0] for f in figures), amplification, off, largest_of(q64 - p64), undefined, at)


def _figures(p32: Tensor, q32: Tensor, p64: Tensor, q64: Tensor, norm: Callable[[Tensor], float]) -> tuple[float, float]:
    """rho and the amplification of rounding in one norm."""
    own, floor, difference = norm(p32 - p64), UNIT * norm(p64), norm(q64 - p64)
    theirs = norm(q32 - q64)
    scale = max(own + theirs, floor) * SHRINK
    rho = difference / scale if scale else (math.inf if difference else 0.0)
    base = max(own, floor)
    return rho, theirs / base if base else (math.inf if theirs else 0.0)


def root_mean_square(x: Tensor) -> float:
    """The root mean square of the elements."""
    return float(x.detach().square().mean().sqrt())


def largest_of(x: Tensor) -> float:
    """The largest absolute value."""
    return float(x.detach().abs().max())


def ulp(x: Tensor) -> float:
    """The distance of float32 numbers at the largest element."""
    return 2.0 ** math.floor(math.log2(max(largest_of(x), 1e-300))) * 2 * UNIT
