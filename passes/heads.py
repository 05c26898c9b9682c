"""Heads: the output projection of attention as a sum over heads.

    W z + b = sum_i W[:, i] z[i] + b        where z[i] is head i's slice of the projection's input

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", section "attention heads are independent and additive".
"""

from typing import Any

import torch
from torch import Tensor, fx

from rewrite import Family, Skip, Terms, fresh, split
from rewrite.arguments import SiteView

aten = torch.ops.aten
MOVES = {aten.reshape.default, aten.permute.default, aten.transpose.int, aten.clone.default, aten.contiguous.default, aten._to_copy.default,
         aten.alias.default, aten.expand.default, aten.view.default, aten._unsafe_view.default}  # fmt: skip
MIXES = {aten.scaled_dot_product_attention.default, aten.bmm.default, aten.matmul.default}


def head_count(site: SiteView) -> int | Skip:
    """The number of heads, read off the graph: the size of the axis that is merged away between attention and its output projection."""
    assert site.match is not None
    node: fx.Node = site.match.arguments[0].node
    count = None
    while node.target in MOVES:
        before = node.args[0]
        assert isinstance(before, fx.Node)
        if node.target is aten.reshape.default:
            count = _merged(before.meta["val"].shape, node.meta["val"].shape) or count
        node = before
    if node.target not in MIXES:
        return Skip(f"its input comes from {getattr(node.target, '__name__', node.target)}, not from attention")
    return count if count is not None else Skip("no axis of heads is merged before the projection")


def _merged(before: torch.Size, after: torch.Size) -> int | None:
    """The size of the second last axis of `before` if `after` merges the last two of it."""
    if len(before) < 3 or not all(isinstance(size, int) for size in (before[-1], before[-2], after[-1])):
        return None
    return int(before[-2]) if before[-1] * before[-2] == after[-1] and before[-2] > 1 else None


@split(of="linear", name="head")
def heads(x: Tensor, weight: Tensor, bias: Tensor | None, *, n: int = head_count) -> Terms:  # type: ignore[assignment]
    """The contribution of each of `n` heads as a family, and the bias.

    Shapes: x [..., n * d_head], weight [d_model, n * d_head], bias [d_model]; terms [..., d_model], coordinate [..., n, d_head].
    """
    z, w = x.unflatten(-1, (n, -1)), weight.unflatten(-1, (n, -1))
    return Terms(Family("...nk,mnk->...m", z, w, axis="n", act=z), bias=bias)


@heads.guard
def _divides(x: Tensor, weight: Tensor, bias: Tensor | None, *, n: int) -> Skip | None:
    return None if n > 0 and x.shape[-1] % n == 0 else Skip(f"{x.shape[-1]} columns do not divide into {n} heads")


@heads.claim("member i reads slice i of x only", member="i")
def _own_slice(t: Terms, x: Tensor, weight: Tensor, bias: Tensor | None, *, n: int, i: Tensor):
    mine = torch.arange(n).repeat_interleave(x.shape[-1] // n) == i
    return t[0][i], heads(torch.where(mine, x, fresh(x)), weight, bias, n=n)[0][i]


@heads.identity("heads and bias sum to x W' + b", x=(2, 4), weight=(3, 4), bias=(3,), n=2)
def _sum(law: Any, x: Any, weight: Any, bias: Any, n: int):
    return law(x, weight, bias, n=n).total, x @ weight.T + bias


@heads.identity("head i is its slice of x times its columns of W", x=(2, 4), weight=(3, 4), bias=(3,), n=2)
def _slices(law: Any, x: Any, weight: Any, bias: Any, n: int):
    first, second = law(x, weight, bias, n=n).members
    return [first, second], [x[:, :2] @ weight[:, :2].T, x[:, 2:] @ weight[:, 2:].T]
