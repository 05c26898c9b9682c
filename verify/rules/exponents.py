"""What a theory of exponents sees: exp a exp b = exp(a + b), log exp a = a, and softmax and logsumexp written out by exp."""

from __future__ import annotations

from verify.algebra import Algebra
from verify.rules.rows import log_softmax, logsumexp, softmax
from verify.value import Field, Value


def product(a: Algebra, x: Value, y: Value) -> Field | None:
    """x y where one of them is an exp that the other goes with, in a theory that asks; else None."""
    if a.world.theory != "exponents":
        return None
    x, y = a.field(x), a.field(y)
    one, other = x.made("exp"), y.made("exp")
    if one is not None and other is not None and not (one.operands[0].tagged or other.operands[0].tagged):
        return a.oracle("exp", a.add(one.operands[0], other.operands[0]))
    return _share(a, x, y) or _share(a, y, x)


def _share(a: Algebra, e: Field, y: Field) -> Field | None:
    """The softmax of u, if e is exp u and y one over the sum of e along a dim."""
    form, rank = e.made("exp"), len(e.shape)
    dims = [d for d in range(rank) if len(y.shape) == rank and y.shape[d] != e.shape[d]]
    if form is None or len(dims) != 1 or y.shape[dims[0]] != 1:
        return None
    total = a.sum(a.steady(e), dims, keepdim=True)
    a.world.tally.call("multiple", 2, a.mul(total, a.steady(y)).degree.total)
    if any(bool((a.math.tidy(i, s * t.double()) != 1).any()) for i, (s, t) in enumerate(zip(total.parts, y.parts, strict=True))):
        return None
    return softmax(a, form.operands[0], dims[0])


def log(a: Algebra, x: Value) -> Field:
    """log x: of an exp its operand, of a sum of them logsumexp, of a softmax log_softmax, in a theory that asks."""
    x = a.plain(x)
    if (form := x.made("exp")) is not None and not form.operands[0].tagged:
        return form.operands[0]
    if (form := x.made("sum")) is not None:
        return logsumexp(a, form.operands[0], (form.dim,), keepdim=len(x.shape) == len(form.operands[0].shape))
    if (form := x.made("softmax")) is not None:
        return log_softmax(a, form.operands[0], form.dim)
    return a.oracle("log", x)


def remembered(a: Algebra, out: Field, kind: str, x: Field, dim: int = 0) -> Field:
    """`out`, said to be made of x in this way, in a theory that asks."""
    return out.formed(kind, x, dim=dim) if a.world.theory == "exponents" else out  # type: ignore[arg-type]


def summed(a: Algebra, out: Field, x: Field, dims: tuple[int, ...]) -> Field:
    """`out`, the sum of x over dims, said to be a sum of exps if it is one."""
    form = x.made("exp")
    return out if form is None or len(dims) != 1 or form.operands[0].tagged else remembered(a, out, "sum", form.operands[0], dims[0])
