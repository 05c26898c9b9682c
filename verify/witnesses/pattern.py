"""Where and how two values differ, in words: which indices along each axis hold all the wrong elements, and what relates the two there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from verify.gap import SHRINK, UNIT
from verify.ladder import ROUNDING

FLOATS, EXACTLY = "in float64", "in exact arithmetic"
FEW = 4  # indices that are listed
SMALLER = (torch.float16, torch.bfloat16)
DENSE = 0.9  # share of a block from which it is called that block
IRREGULAR = {"index": "indices", "query": "queries"}


@dataclass(frozen=True)
class Difference:
    """How one value differs between two programs: `wrong` of `total` elements, `where`, and `how` the two are related there, if they are.

    `seen` says what was compared: float64 runs, exact arithmetic, or the numbers themselves.
    """

    place: str
    kind: Literal["site", "output", "weight"]
    shape: tuple[int, ...]
    wrong: int
    total: int
    where: str
    how: str = ""
    seen: str = ""

    def __str__(self) -> str:
        seen = f" ({self.seen})" if self.seen == EXACTLY else ""
        text = (
            f"{self.wrong:,} of {self.total:,} elements differ: {self.where}" if self.total > 1 else f"its one number differs{self.where}"
        )
        return text + (f", {self.how}" if self.how else "") + seen


def axis_names(shape: Sequence[int], batch: int | None = None, sequence: int | None = None) -> tuple[str, ...]:
    """What the axes of a value are called, given the sizes of the inputs' batch and sequence axes, where there are such."""
    names = ["index"] * len(shape)
    if len(shape) > 1:
        names[0], names[-1] = "row", "column"
    if len(shape) < 2 or sequence is None or shape[0] != batch:
        return tuple(names)
    if len(shape) == 4 and shape[2] == sequence:
        both = shape[3] == sequence
        return ("row", "head", "query" if both else "position", "key" if both else "column")
    if shape[1] == sequence:
        names[1] = "position"
        names[2:-1] = ["head"] if len(shape) == 4 else names[2:-1]
    return tuple(names)


# Where


def where_text(wrong: Tensor, names: Sequence[str]) -> str:
    """Which elements a mask marks, in words. Shapes: wrong [...], one name for each axis."""
    if not wrong.dim():
        return ""
    if bool(wrong.all()):
        return "everywhere"
    triangle = _triangle(wrong, names)
    if triangle:
        return triangle
    along = [_along(wrong, axis) for axis in range(wrong.dim())]
    box = math.prod(len(indices) for indices in along)
    text = _box_text(along, wrong.shape, names)
    count = int(wrong.sum())
    if count == box:
        return text
    if count / box >= DENSE:
        return f"nearly all of {text}" if text else "nearly everywhere"
    return f"scattered, {count / box:.0%} of {text}" if text else f"scattered over {count / box:.0%} of it"


def _along(wrong: Tensor, axis: int) -> list[int]:
    """The indices of an axis at which something is marked."""
    return wrong.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist() if wrong.dim() > 1 else wrong.nonzero().flatten().tolist()


def _box_text(along: Sequence[list[int]], shape: Sequence[int], names: Sequence[str]) -> str:
    told = [_indices(indices, size, name, axis) for axis, (indices, size, name) in enumerate(zip(along, shape, names, strict=True))]
    return ", ".join(text for text in told if text)


def _indices(indices: list[int], size: int, name: str, axis: int) -> str:
    """A set of indices along an axis; nothing if it is all of them."""
    many, count = IRREGULAR.get(name, f"{name}s"), len(indices)
    missing = sorted(set(range(size)) - set(indices))
    if not missing:
        return ""
    if count == 1:
        return f"one {name} (axis {axis}, index {indices[0]} of {size})"
    if len(missing) == 1 and missing[0] in (0, size - 1):
        return f"all {many} but the {'last' if missing[0] else 'first'} (axis {axis})"
    steps = {b - a for a, b in pairwise(indices)}
    if steps == {1}:
        return f"{many} {indices[0]} to {indices[-1]} of {size} (axis {axis})"
    if len(missing) < min(FEW, count):
        return f"all {many} but {_listed(missing)} (axis {axis})"
    if len(steps) == 1 and count > 2:
        return f"{many} {indices[0]}, {indices[1]}, ... to {indices[-1]}, every {_ordinal(steps.pop())} of {size} (axis {axis})"
    return f"{many} {_listed(indices)} of {size} (axis {axis})" if count <= FEW else f"{count} of {size} {many} (axis {axis})"


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join([", ".join(map(str, numbers[:-1])), str(numbers[-1])]) if len(numbers) > 1 else str(numbers[0])


def _ordinal(n: int) -> str:
    ending = "th" if 10 < n % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def _triangle(wrong: Tensor, names: Sequence[str]) -> str:
    """The words for a mask that is the same part of each square of the last two axes: of a wrong attention mask, say."""
    n = wrong.shape[-1]
    if wrong.dim() < 2 or wrong.shape[-2] != n or n < 3:
        return ""
    full = torch.ones(n, n, dtype=torch.bool)
    kinds = {
        "above the diagonal": full.triu(1), "on and above the diagonal": full.triu(), "on the diagonal": full.tril() & full.triu(),
        "below the diagonal": full.tril(-1), "on and below the diagonal": full.tril(), "off the diagonal": full.tril(-1) | full.triu(1),
    }  # fmt: skip
    marked = wrong.flatten(-2).any(-1)
    for text, part in kinds.items():
        if torch.equal(wrong, marked[..., None, None] & part):
            rest = "" if bool(marked.all()) else where_text(marked, names[:-2])
            return f"{text} (axes {wrong.dim() - 2} and {wrong.dim() - 1})" + (f", {rest}" if rest else "")
    return ""


# How


def how_text(p: Tensor, q: Tensor, wrong: Tensor, noise: Tensor, names: Sequence[str]) -> str:
    """What turns `p` into `q` where they differ, if it is one number or one factor, everywhere or along some axes; else nothing.

    Shapes: all of one shape; `noise` is what rounding may put an element off.
    """
    wrong = wrong & p.isfinite() & q.isfinite()
    if int(wrong.sum()) < 2:
        return ""
    p, q, noise = (torch.where(wrong, x.double(), 0.0) for x in (p, q, noise))
    if bool((q.abs() <= noise).all()):
        return "0 in the second"
    found = [(_same_along(q - p, p, wrong, noise, kind), kind) for kind in ("number", "factor")]
    (axes, by), kind = max(found, key=lambda f: len(f[0][0]))
    varying = [names[axis] for axis in range(wrong.dim()) if axis not in axes and len(_along(wrong, axis)) > 1]
    if not axes or by is None:
        return ""
    if varying:
        return f"by one {kind} for each {' and '.join(varying)}"
    number = float(by.flatten()[int(wrong.sum(axes, keepdim=True).flatten().nonzero()[0])])
    if kind == "number":
        return f"by one number, {number:.4g}"
    return "the sign is the other one" if abs(number + 2) < 1e-9 else f"by one factor, {_factor(number)}"


def _factor(excess: float) -> str:
    """1 + excess, without losing a small excess."""
    return f"{1 + excess:.6g}" if abs(excess) > 1e-3 else f"1 {'+' if excess > 0 else '-'} {abs(excess):.3g}"


def _same_along(d: Tensor, p: Tensor, wrong: Tensor, noise: Tensor, kind: str) -> tuple[tuple[int, ...], Tensor | None]:
    """The axes along which the difference, or its ratio to `p`, does not change, and what it is."""
    weight = wrong.double() if kind == "number" else p

    def fits(axes: tuple[int, ...]) -> Tensor | None:
        share = (d * weight).sum(axes, keepdim=True) / (weight * weight).sum(axes, keepdim=True).clamp(min=1e-300)
        groups = int(wrong.sum(axes).bool().sum())
        off = (d - share * weight).abs() > noise + 1e-9 * d.abs().max()
        return None if 2 * groups > int(wrong.sum()) or bool((off & wrong).any()) else share

    axes = tuple(axis for axis in range(d.dim()) if len(_along(wrong, axis)) > 1 and fits((axis,)) is not None)
    found = fits(axes) if axes else None
    return (axes, found) if found is not None else ((), None)


# Whole differences


def by_floats(place: str, kind: Literal["site", "output"], runs: Sequence[Tensor], names: Sequence[str], seen: str) -> Difference | None:
    """The difference of two values, from both programs' runs in float32 and float64 (p32, q32, p64, q64); None if there is none.

    An element is wrong if float64 puts it further off than rounding explains, as float32 shows it.
    """
    p32, q32, p64, q64 = (x.detach() for x in runs)
    shape = tuple(p64.shape)
    if p64.shape != q64.shape:
        return Difference(place, kind, shape, p64.numel(), p64.numel(), f"the shapes are {list(shape)} and {list(q64.shape)}", seen=seen)
    if not p64.is_floating_point():
        return _difference(place, kind, p64 != q64, "", names, seen)
    p32, q32, p64, q64 = (x.double() for x in (p32, q32, p64, q64))
    defined = p64.isfinite() & q64.isfinite()
    own = torch.where(p32.isfinite() & defined, (p32 - p64).abs(), 0.0) + torch.where(q32.isfinite() & defined, (q32 - q64).abs(), 0.0)
    size = torch.where(defined, p64.abs(), 0.0)
    rough = [x.square().mean().sqrt() for x in (own, UNIT * size)] if p64.numel() else []
    noise = ROUNDING * SHRINK * torch.maximum(own + UNIT * size, sum(rough, torch.zeros(())))
    wrong = torch.where(defined, (q64 - p64).abs() > noise, p64.isfinite() & ~q64.isfinite())
    return _difference(place, kind, wrong, how_text(p64, q64, wrong, noise, names), names, seen)


def by_mask(place: str, wrong: Tensor, names: Sequence[str], seen: str) -> Difference | None:
    """The difference that a mask marks, where nothing is known of sizes."""
    return _difference(place, "site", wrong, "", names, seen)


def of_weights(place: str, p: Tensor, q: Tensor) -> Difference | None:
    """The difference of two tensors of one shape, number by number."""
    p, q = p.detach().cpu(), q.detach().cpu()
    names = axis_names(p.shape)
    wrong = (p != q) & ~((p != p) & (q != q))
    if not p.is_floating_point() or not q.is_floating_point():
        return _difference(place, "weight", wrong, "", names, "")
    rounded = next((d for d in SMALLER if p.dtype != d and torch.equal(p.to(d).to(q.dtype), q)), None)
    noise = 4 * torch.finfo(p.dtype).eps * torch.maximum(p.abs(), q.abs()).double()
    visible = bool(wrong.any()) and float((q.double() - p.double()).abs().max()) > 64 * float(noise.max())
    how = f"rounded to {str(rounded).removeprefix('torch.')}" if rounded else how_text(p, q, wrong, noise, names) if visible else ""
    return _difference(place, "weight", wrong, how, names, "")


def _difference(
    place: str, kind: Literal["site", "output", "weight"], wrong: Tensor, how: str, names: Sequence[str], seen: str
) -> Difference | None:
    wrong = wrong.cpu()
    count = int(wrong.sum())
    return Difference(place, kind, tuple(wrong.shape), count, wrong.numel(), where_text(wrong, names), how, seen) if count else None
