"""Losses: each its defining formula, and then every element (0), their mean (1) or their sum (2).

What torch does at a single point is part of the formula: `xlogy(t, t)`, which is 0 at t = 0, is not `t log t`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch

from verify.algebra import Algebra
from verify.rules.elementwise import equal, exp, sigmoid, where
from verify.rules.exponents import log
from verify.rules.norms import vector_norm
from verify.rules.rows import log_softmax
from verify.rules.select import gather
from verify.rules.table import Table
from verify.value import Concrete, Field, Value

aten = torch.ops.aten
HALF = Fraction(1, 2)
MEAN, SUM = 1, 2
LEAST_LOG = -100  # below which binary cross entropy takes no logarithm
COSINE_EPS = 9.999999960041972e-13  # torch's 1e-12, which it keeps as a float32


def reduced(a: Algebra, x: Field, reduction: int) -> Field:
    """A loss of every element as it is (0), its mean (1) or its sum (2)."""
    over = list(range(len(x.shape)))
    return a.mean(x, over, False) if reduction == MEAN else a.sum(x, over, False) if reduction == SUM else x


def squared(a: Algebra, x: Value, y: Value, reduction: int = MEAN) -> Field:
    """(x - y)^2."""
    gap = a.sub(x, y)
    return reduced(a, a.mul(gap, gap), reduction)


def absolute(a: Algebra, x: Value, y: Value, reduction: int = MEAN) -> Field:
    """|x - y|."""
    return reduced(a, a.magnitude(a.sub(x, y)), reduction)


def huber(a: Algebra, x: Value, y: Value, reduction: int = MEAN, delta: float = 1.0) -> Field:
    """z^2 / 2 for z = |x - y| below delta, delta (z - delta / 2) from there on."""
    z = a.magnitude(a.sub(x, y))
    near, far = a.scale(a.mul(z, z), HALF), a.scale(a.sub(z, delta / 2), delta)
    return reduced(a, a.where(a.above(delta, z), near, far), reduction)


def smooth_absolute(a: Algebra, x: Value, y: Value, reduction: int = MEAN, beta: float = 1.0) -> Field:
    """z^2 / (2 beta) for z = |x - y| below beta, z - beta / 2 from there on."""
    if beta == 0:
        return absolute(a, x, y, reduction)
    z = a.magnitude(a.sub(x, y))
    near, far = a.scale(a.mul(z, z), 1 / (2 * Fraction(beta))), a.sub(z, beta / 2)
    return reduced(a, a.where(a.above(beta, z), near, far), reduction)


# Of probabilities


def _entropy(a: Algebra, t: Value) -> Field:
    """t log t, and 0 at t = 0."""
    t = a.field(t)
    return where(a, equal(a, t, 0), 0.0, a.mul(t, log(a, t)))


def divergence(a: Algebra, x: Value, target: Value, reduction: int = MEAN, *, log_target: bool = False) -> Field:
    """t (log t - x), or exp(t) (t - x) of a target that is a logarithm."""
    if log_target:
        return reduced(a, a.mul(exp(a, target), a.sub(target, x)), reduction)
    return reduced(a, a.sub(_entropy(a, target), a.mul(target, x)), reduction)


def binary_entropy(a: Algebra, x: Value, y: Value, weight: Value = None, reduction: int = MEAN) -> Field:
    """-(y log x + (1 - y) log(1 - x)), logarithms at least -100."""
    yes, no = (a.larger(a.oracle("log", p), LEAST_LOG) for p in (a.plain(x), a.sub(1, x)))
    loss = a.neg(a.add(a.mul(y, yes), a.mul(a.sub(1, y), no)))
    return reduced(a, loss if weight is None else a.mul(loss, weight), reduction)


def binary_entropy_of_logits(a: Algebra, x: Value, y: Value, weight: Value = None, positive: Value = None, reduction: int = MEAN) -> Field:
    """(1 - y) x - (1 + (p - 1) y) log sigmoid x, p the weight of positives."""
    log_sigmoid = a.oracle("log", sigmoid(a, x))
    scaled = log_sigmoid if positive is None else a.mul(a.add(a.mul(a.sub(positive, 1), y), 1), log_sigmoid)
    loss = a.sub(a.mul(a.sub(1, y), x), scaled)
    return reduced(a, loss if weight is None else a.mul(loss, weight), reduction)


def poisson(a: Algebra, x: Value, target: Value, log_input: bool, full: bool, eps: float, reduction: int) -> Field:
    """exp x - t x, or x - t log(x + eps); in full with Stirling's terms where t is above one."""
    loss = a.sub(exp(a, x), a.mul(target, x)) if log_input else a.sub(x, a.mul(target, a.oracle("log", a.add(x, eps))))
    if full:
        turns = a.oracle("log", a.scale(target, 2 * math.pi))
        stirling = a.add(a.sub(a.mul(target, a.oracle("log", target)), target), a.scale(turns, HALF))
        loss = a.add(loss, where(a, a.above(target, 1), stirling, 0.0))
    return reduced(a, loss, reduction)


# Of classes


def _of_ids(a: Algebra, op: Any, *given: Any) -> Concrete:
    """An op on plain targets, which may be ids: they are named by what is done to them."""
    from verify.rules import integers  # which knows all rules, these too

    if any(isinstance(v, Concrete) and v.atom is not None for v in given):
        return integers.run(a, op, given, {})  # type: ignore[return-value]
    return Concrete(op(*(v.data if isinstance(v, Concrete) else v for v in given)))


def picked(
    a: Algebra, x: Value, target: Value, weight: Value = None, reduction: int = MEAN, ignored: int = -100, smoothing: float = 0.0
) -> tuple[Field, Field]:
    """(the loss -w x[target], of a mean over the weights of the targets; the sum of these), targets that are ignored left out.

    With smoothing a part of it is the same of every class, each with its own weight.
    Shapes: x [class] or [example, class, ...], target [] or [example, ...].
    """
    x = a.field(x)
    if not isinstance(target, Concrete):
        a.refuse("targets that depend on values")
    dim = 0 if len(x.shape) == 1 else 1
    classes, true = x.shape[dim], target.data
    if bool(((true != ignored) & ((true < 0) | (true >= classes))).any()):
        a.refuse("a target that is no class")
    if reduction == MEAN and not bool((true != ignored).any()):
        a.refuse("a mean over no targets")
    kept = _of_ids(a, aten.ne.Scalar, target, ignored)
    at = _of_ids(a, aten.unsqueeze.default, _of_ids(a, aten.where.ScalarOther, kept, target, 0), dim)
    if weight is not None:
        by_class = a.plain(weight).each(lambda t: t.reshape(-1, *[1] * (len(x.shape) - dim - 1)))
        wide = by_class.each(lambda t: t.expand(x.shape))
        x, weighed = a.mul(x, by_class), a.where(kept, gather(a, wide, dim, at).each(lambda t: t.squeeze(dim)), 0.0)
    else:
        weighed = a.where(kept, 1.0, 0.0)
    loss = a.where(kept, a.neg(gather(a, x, dim, at)).each(lambda t: t.squeeze(dim)), 0.0)
    if smoothing:
        every = a.where(kept, a.neg(a.sum(x, (dim,))), 0.0)
        loss = a.add(a.scale(loss, 1 - smoothing), a.scale(every, smoothing / classes))
    total = a.sum(weighed, ())
    return (a.mul(a.sum(loss, ()), a.inverse(total)) if reduction == MEAN else reduced(a, loss, reduction)), total


def cross_entropy(
    a: Algebra, x: Value, target: Value, weight: Value = None, reduction: int = MEAN, ignored: int = -100, smoothing: float = 0.0
) -> Field:
    """What `picked` is of log softmax; of probabilities the sum of -w t log softmax, of which the mean is over examples."""
    x = a.field(x)
    dim = 0 if len(x.shape) == 1 else 1
    if tuple(x.shape) != tuple(target.shape):
        return picked(a, log_softmax(a, x, dim), target, weight, reduction, ignored, smoothing)[0]
    classes, soft = x.shape[dim], a.plain(target)
    if smoothing:
        soft = a.add(a.scale(soft, 1 - smoothing), smoothing / classes)
    terms = a.mul(log_softmax(a, x, dim), soft)
    if weight is not None:
        terms = a.mul(terms, a.plain(weight).each(lambda t: t.reshape(-1, *[1] * (len(x.shape) - dim - 1))))
    return reduced(a, a.neg(a.sum(terms, (dim,))), reduction)


# Of margins


def margin_ranking(a: Algebra, x: Value, y: Value, sign: Value, margin: float = 0.0, reduction: int = MEAN) -> Field:
    """max(margin - sign (x - y), 0)."""
    return reduced(a, a.positive(a.sub(margin, a.mul(sign, a.sub(x, y)))), reduction)


def hinge(a: Algebra, x: Value, sign: Value, margin: float = 1.0, reduction: int = MEAN) -> Field:
    """x where the sign is 1, max(margin - x, 0) where it is -1, both where it is neither."""
    apart = where(a, equal(a, sign, 1), 0.0, a.positive(a.sub(margin, x)))
    return reduced(a, a.add(apart, where(a, equal(a, sign, -1), 0.0, x)), reduction)


def multilabel(a: Algebra, x: Value, target: Value, reduction: int = MEAN) -> Field:
    """The sum over targets t and classes j that are none of max(1 - x[t] + x[j], 0) / classes; targets end where one is -1.

    Shapes: x, target [class] or [example, class].
    """
    if not isinstance(target, Concrete):
        a.refuse("targets that depend on values")
    rank, classes = len(x.shape), x.shape[-1] if len(x.shape) else 1
    if bool(((target.data < -1) | (target.data >= classes)).any()):
        a.refuse("a target that is no class")
    if rank != 2 and reduction not in (MEAN, SUM):
        a.refuse("the loss of one example by itself, of which torch's trace has another shape than its run")
    x = a.plain(x).each(lambda t: t.reshape(-1, classes))
    target = target if rank == 2 else _of_ids(a, aten.view.default, target, [1, classes])
    places, past = Concrete(torch.arange(classes)), Concrete(torch.tensor(classes))
    ends = _of_ids(a, aten.where.self, _of_ids(a, aten.eq.Scalar, target, -1), places, past)
    real = _of_ids(a, aten.lt.Tensor, places, _of_ids(a, aten.amin.default, ends, [-1], True))
    at, named = (_of_ids(a, aten.where.ScalarOther, real, target, other) for other in (0, -1))
    taken = _of_ids(a, aten.any.dim, _of_ids(a, aten.eq.Tensor, places, _of_ids(a, aten.unsqueeze.default, named, -1)), 1)
    gap = a.sub(1, gather(a, x, 1, at))
    above = a.positive(a.add(gap.each(lambda t: t.unsqueeze(2)), x.each(lambda t: t.unsqueeze(1))))  # [example, target, class]
    other = a.where(_of_ids(a, aten.unsqueeze.default, taken, 1), 0.0, above)
    kept = a.where(_of_ids(a, aten.unsqueeze.default, real, 2), other, 0.0)
    loss = a.scale(a.sum(kept, (1, 2)), Fraction(1, classes))
    return reduced(a, loss, reduction)


def soft_margin(a: Algebra, x: Value, sign: Value, reduction: int = MEAN) -> Field:
    """log(1 + exp(-sign x))."""
    return reduced(a, a.oracle("log", a.add(exp(a, a.neg(a.mul(sign, x))), 1)), reduction)


def distance(a: Algebra, x: Value, y: Value, p: float = 2, eps: float = 1e-6, keepdim: bool = False) -> Field:
    """The norm of x - y + eps along the last dim."""
    return vector_norm(a, a.add(a.sub(x, y), eps), p, (-1,), keepdim)


def triplet(
    a: Algebra, x: Value, near: Value, far: Value, margin: float = 1.0, p: float = 2, eps: float = 1e-6, swap: bool = False,
    reduction: int = MEAN,
) -> Field:  # fmt: skip
    """max(margin + distance to what is near - distance to what is far, 0)."""
    apart = distance(a, x, far, p, eps)
    if swap:
        apart = a.smaller(apart, distance(a, near, far, p, eps))
    return reduced(a, a.positive(a.add(a.sub(distance(a, x, near, p, eps), apart), margin)), reduction)


def _at_least(a: Algebra, norm: Field, eps: float) -> Field:
    """max(norm, eps), with the derivative of the norm everywhere: torch raises it where autograd does not look."""
    out = a.larger(a.steady(norm), eps)
    return out if norm.tangent is None else out.moving(norm.tangent)


def cosine(a: Algebra, x: Value, y: Value, dim: int = 1, eps: float = 1e-8) -> Field:
    """The sum along dim of x and y, broadcast, each over its norm, which is at least eps."""
    shape = torch.broadcast_shapes(x.shape, y.shape)
    x, y = (a.field(v).each(lambda t: t.expand(shape)) for v in (x, y))
    x, y = (a.mul(v, a.inverse(_at_least(a, vector_norm(a, v, 2, (dim,), True), eps))) for v in (x, y))
    return a.sum(a.mul(x, y), (dim % len(shape),))


def cosine_embedding(a: Algebra, x: Value, y: Value, sign: Value, margin: float = 0.0, reduction: int = MEAN) -> Field:
    """1 - cosine where the sign is 1, max(cosine - margin, 0) where it is -1."""
    dim = (len(x.shape) - 1,)
    one, other = (a.add(a.sum(a.mul(v, v), dim), COSINE_EPS) for v in (x, y))
    found = a.mul(a.sum(a.mul(x, y), dim), a.oracle("rsqrt", a.mul(one, other)))
    alike = where(a, equal(a, sign, 1), a.sub(1, found), 0.0)
    return reduced(a, a.add(alike, where(a, equal(a, sign, -1), a.positive(a.sub(found, margin)), 0.0)), reduction)


TABLE: Table = {
    aten.mse_loss.default: squared,
    aten.l1_loss.default: absolute,
    aten.huber_loss.default: huber,
    aten.smooth_l1_loss.default: smooth_absolute,
    aten.kl_div.default: divergence,
    aten.xlogy.Tensor: lambda a, x, y: where(a, equal(a, x, 0), 0.0, a.mul(x, log(a, y))),
    aten.binary_cross_entropy.default: binary_entropy,
    aten.binary_cross_entropy_with_logits.default: binary_entropy_of_logits,
    aten.poisson_nll_loss.default: poisson,
    aten.cross_entropy_loss.default: cross_entropy,
    aten.nll_loss_nd.default: lambda a, *given: picked(a, *given)[0],
    aten.nll_loss.default: lambda a, *given: picked(a, *given)[0],
    aten.nll_loss_forward.default: picked,
    aten.nll_loss2d_forward.default: picked,
    aten.margin_ranking_loss.default: margin_ranking,
    aten.hinge_embedding_loss.default: hinge,
    aten.multilabel_margin_loss.default: multilabel,
    aten.soft_margin_loss.default: soft_margin,
    aten.pairwise_distance.default: distance,
    aten.triplet_margin_loss.default: triplet,
    aten.cosine_similarity.default: cosine,
    aten.cosine_embedding_loss.default: cosine_embedding,
}
