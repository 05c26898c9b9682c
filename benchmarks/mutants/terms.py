"""Operators on sums and factors: terms dropped, doubled, exchanged, and numbers that are a little off."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from benchmarks.mutants.draft import Draft, alike, is_float, operator, val

aten = torch.ops.aten
LINEAR = (aten.linear.default, aten.addmm.default, aten.matmul.default, aten.convolution.default, aten.conv2d.default)
SCALED = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


def sums(draft: Draft) -> fx.Node | None:
    """A sum of two values of one shape."""
    return draft.pick(draft.ops(aten.add.Tensor), lambda n: alike(n.args[0], n) and alike(n.args[1], n) and val(n).dim() >= 2)


@operator
def drop_a_term(draft: Draft) -> bool:
    """A sum is one of its terms."""
    node = sums(draft)
    if node is not None:
        draft.instead(node, node.args[draft.choice.randrange(2)])
    return node is not None


@operator
def double_a_term(draft: Draft) -> bool:
    """A term counts twice."""
    node = sums(draft)
    if node is not None:
        draft.call(node, node.target, *node.args, alpha=2)
    return node is not None


@operator
def flip_a_sign(draft: Draft) -> bool:
    """A difference instead of a sum."""
    node = sums(draft)
    if node is not None:
        draft.call(node, aten.sub.Tensor, *node.args)
    return node is not None


@operator
def another_term(draft: Draft) -> bool:
    """A term is that of another sum."""
    adds = [n for n in draft.ops(aten.add.Tensor) if alike(n.args[0], n) and alike(n.args[1], n)]
    pairs = [(m, n) for i, m in enumerate(adds) for n in adds[i + 1 :] if alike(m, n) and m.args[1] not in n.args]
    if pairs:
        m, n = draft.choice.choice(pairs)
        draft.arg(n, 1, m.args[1])
    return bool(pairs)


@operator
def scale_a_little(draft: Draft) -> bool:
    """A value times 1 + 2^-k, k from 4 to 30."""
    node = draft.pick(draft.ops(*LINEAR))
    if node is not None:
        draft.after(node, aten.mul.Tensor, 1 + 2.0 ** -draft.choice.randint(4, 30))
    return node is not None


@operator
def another_factor(draft: Draft) -> bool:
    """A literal factor times 1 + 2^-k, k from 4 to 30."""
    node = draft.pick(draft.ops(*SCALED), lambda n: is_float(n) and isinstance(n.args[1], (int, float)) and n.args[1] not in (0, 1))
    if node is not None:
        draft.arg(node, 1, node.args[1] * (1 + 2.0 ** -draft.choice.randint(4, 30)))  # type: ignore[operator]
    return node is not None


@operator
def another_path_coefficient(draft: Draft) -> bool:
    """A path's copy enters its reader with another factor; the copy is doubled on both sides, unedited it cancels."""
    found = [
        (n, c) for n in draft.ops(aten.sub.Tensor) if _of_path(draft, n) for c in n.users if c.target in (aten.add.Tensor, aten.mul.Tensor)
    ]
    if not found:
        return False
    change = draft.choice.choice(found)[0].name

    def doubled(one: Draft) -> None:
        node = next(n for n in one.graph.nodes if n.name == change)
        one.call(node, aten.sub.Tensor, one.before(node, aten.mul.Tensor, node.args[0], 2.0), node.args[1])

    doubled(draft)
    draft.also.append(doubled)
    draft.after(next(n for n in draft.graph.nodes if n.name == change), aten.mul.Tensor, 1 + 2.0 ** -draft.choice.randint(4, 30))
    return True


def _of_path(draft: Draft, node: fx.Node) -> bool:
    paths = {site.node for site in draft.program.sites_by_address.values() if site.kind == "path"}
    first: Any = node.args[0]
    return isinstance(first, fx.Node) and first.name in paths
