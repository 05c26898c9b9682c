"""Gates: a value is read as g times itself plus h times a reference; open at (1, 0), so nothing changes until a gate is set.

    t -> g t + h r        g = 0 removes t, (0, 1) puts r in its place, (1, a) adds a r

On a family g and h are vectors over its members, and r lives in coordinate space.
"""

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
