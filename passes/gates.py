"""Gates: a value is read as g times itself plus h times a reference; open at (1, 0), so nothing changes until a gate is set.

    t -> g t + h r        g = 0 removes t, (0, 1) puts r in its place, (1, a) adds a r

On a family g and h are vectors over its members, and r lives in coordinate space.
"""

from typing import Any

from torch import Tensor

from rewrite import Free, Skip, rewire


@rewire
def gates(read: Tensor, *, g: Tensor = Free(1.0), h: Tensor = Free(0.0), r: Tensor = Free(0.0)) -> Tensor:  # type: ignore[assignment]
    """What the readers of the site read: `g * read + h * r`.

    Shapes: read [...], g, h and r broadcast to it.
    """
    return g * read + h * r


@gates.guard
def _real(read: Tensor, *, g: object, h: object, r: object) -> Skip | None:
    return None if read.is_floating_point() else Skip(f"it holds {read.dtype}, a gate needs floating point values")


@gates.identity("open, at (1, 0), it is what it was", read=(2,), r=(2,))
def _open(law: Any, read: Any, r: Any):
    return law(read, g=1.0, h=0.0, r=r), read


@gates.identity("at (0, 1) it is the reference", read=(2,), r=(2,))
def _replaced(law: Any, read: Any, r: Any):
    return law(read, g=0.0, h=1.0, r=r), r


@gates.identity("over a sum it distributes", t=(2,), rest=(2,), g=(), h=(), r=(2,))
def _distributes(law: Any, t: Any, rest: Any, g: Any, h: Any, r: Any):
    return law(t + rest, g=g, h=h, r=r), law(t, g=g, h=h, r=r) + law(rest, g=g, h=0.0, r=0.0)


@gates.identity("on a family's coordinates it scales every member", act=(2,), g=(2,), h=(2,), r=(2,), weight=(3, 2))
def _members(law: Any, act: Any, g: Any, h: Any, r: Any, weight: Any):
    return law(act, g=g, h=h, r=r) @ weight.T, sum((g[i] * act[i] + h[i] * r[i]) * weight[:, i] for i in range(2))
