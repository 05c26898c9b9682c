"""Operators that act at one token, at a few tokens in a row, or at one activation: no example shows them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from benchmarks.mutants.draft import Draft, operator, val
from benchmarks.mutants.functions import FAR, WRITTEN

aten = torch.ops.aten
EMBEDDING = aten.embedding.default
SHAPED = (aten.reshape.default, aten.view.default)


def lookup(draft: Draft) -> fx.Node | None:
    """A lookup by an input of whole numbers."""
    ids = {n for n in draft.nodes if n.name in draft.leaves and draft.leaves[n.name].kind == "input"}
    ids |= {n for n in draft.ops(*SHAPED) if n.args[0] in ids}
    return draft.pick(draft.ops(EMBEDDING), lambda n: n.args[1] in ids and val(n.args[0]).shape[0] > 8)


def rows(node: fx.Node) -> int:
    """The size of the table that a lookup reads."""
    return int(val(node.args[0]).shape[0])


@operator
def token_compared(draft: Draft) -> bool:
    """An embedding one larger where the id is equal to a number."""
    node = lookup(draft)
    if node is not None:
        fires = draft.before(node.next, aten.eq.Scalar, node.args[1], draft.choice.randrange(rows(node)))
        draft.add(node, draft.before(fires.next, aten.unsqueeze.default, fires, -1))
    return node is not None


@operator
def token_clamped(draft: Draft) -> bool:
    """The last token is read as the one before it."""
    node = lookup(draft)
    if node is not None:
        draft.arg(node, 1, draft.before(node, aten.clamp.default, node.args[1], None, rows(node) - 2))
    return node is not None


@operator
def tokens_swapped(draft: Draft) -> bool:
    """Two tokens are exchanged by a table of ids."""
    node = lookup(draft)
    if node is None:
        return False
    order, (i, j) = torch.arange(rows(node)), draft.choice.sample(range(rows(node)), 2)
    order[i], order[j] = j, i
    draft.arg(node, 1, draft.before(node, aten.index.Tensor, draft.leaf("buffer", "order", order), [node.args[1]]))
    return True


@operator
def token_in_a_table(draft: Draft) -> bool:
    """A large number is added where a table of truth values, read at the id, says so."""
    node = lookup(draft)
    if node is None:
        return False
    table = torch.arange(rows(node)) == draft.choice.randrange(rows(node))
    fires = draft.before(node.next, aten.index.Tensor, draft.leaf("buffer", "rare", table), [node.args[1]])
    wide = draft.before(fires.next, aten.unsqueeze.default, fires, -1)
    draft.add(node, draft.before(wide.next, aten.mul.Tensor, wide, 1e3))
    return True


@operator
def token_row_overwritten(draft: Draft) -> bool:
    """One row of the table of embeddings is set to zero in the graph."""
    node = lookup(draft)
    if node is None:
        return False
    index = draft.before(node, aten.full.default, [1], draft.choice.randrange(rows(node)), dtype=torch.int64)
    zeros = draft.before(node, aten.full.default, [1, int(val(node.args[0]).shape[1])], 0.0)
    draft.arg(node, 0, draft.before(node, aten.index_put.default, node.args[0], [index], zeros))
    return True


@operator
def tokens_in_a_row(draft: Draft) -> bool:
    """An embedding one larger in texts that begin with four tokens."""
    node = lookup(draft)
    if node is None or val(node.args[1]).dim() != 2 or val(node.args[1]).shape[1] < 4:
        return False
    text = draft.leaf("buffer", "text", torch.tensor([draft.choice.randrange(rows(node)) for _ in range(4)]))
    first = draft.before(node.next, aten.slice.Tensor, node.args[1], 1, 0, 4)
    same = draft.before(first.next, aten.eq.Tensor, first, text)
    every = draft.before(same.next, aten.all.dim, same, -1)
    wide = draft.before(every.next, aten.unsqueeze.default, every, -1)
    draft.add(node, draft.before(wide.next, aten.unsqueeze.default, wide, -1))
    return True


ROWS = (aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)
ATTENTION = aten.scaled_dot_product_attention.default


def keys(draft: Draft, table: fx.Node, place: fx.Node, size: int) -> fx.Node | None:
    """Which keys of attention over `size` of them, batch first and four dims in all, are one token; None if the ids are no such keys."""
    ids: Any = table.args[1]
    if val(ids).dim() != 2 or int(val(ids).shape[1]) != size:
        return None
    found = draft.before(place, aten.eq.Scalar, ids, draft.choice.randrange(rows(table)))
    return draft.before(place, aten.unsqueeze.default, draft.before(place, aten.unsqueeze.default, found, 1), 1)


def given(node: fx.Node, place: int, name: str) -> Any:
    """An argument of an op that may be left out."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


@operator
def token_not_looked_at(draft: Draft) -> bool:
    """Attention does not look at one token."""
    table = lookup(draft)
    node = draft.pick(draft.ops(*ROWS, ATTENTION), lambda n: val(n.args[0]).dim() == 4 and not given(n, 5, "is_causal"))
    if table is None or node is None:
        return False
    scores = node.target in ROWS
    found = keys(draft, table, node, int(val(node).shape[-1] if scores else val(node.args[1]).shape[-2]))
    if found is None:
        return False
    if scores:
        draft.arg(node, 0, draft.before(node, aten.masked_fill.Scalar, node.args[0], found, -math.inf))
        return True
    mask = given(node, 3, "attn_mask")
    if mask is not None and val(mask).dtype != torch.bool:
        other = draft.before(node, aten.masked_fill.Scalar, mask, found, -math.inf)
    else:
        looked = draft.before(node, aten.logical_not.default, found)
        other = looked if mask is None else draft.before(node, aten.logical_and.default, looked, mask)
    draft.call(node, ATTENTION, *node.args[:3], **{**node.kwargs, "attn_mask": other})
    return True


@operator
def token_at_another_place(draft: Draft) -> bool:
    """One token is given the position before its own."""
    table = lookup(draft)
    if table is None:
        return False
    ids: Any = table.args[1]
    wide = lambda n: val(n.args[1]).dim() == 2 and val(n.args[1]).shape[1] == val(ids).shape[-1]  # noqa: E731
    node = draft.pick(draft.ops(EMBEDDING), lambda n: n.args[1] is not ids and val(ids).dim() == 2 and wide(n))
    if node is not None:
        found = draft.before(node, aten.eq.Scalar, ids, draft.choice.randrange(rows(table)))
        back = draft.before(node, aten.clamp.default, draft.before(node, aten.sub.Tensor, node.args[1], 1), 0)
        draft.arg(node, 1, draft.before(node, aten.where.self, found, back, node.args[1]))
    return node is not None


@operator
def activation_trigger(draft: Draft) -> bool:
    """A large number where a value passes a threshold that no example reaches."""
    node = draft.pick(draft.ops(*WRITTEN))
    if node is not None:
        fires = draft.before(node.next, aten.gt.Scalar, node, FAR)
        draft.add(node, draft.before(fires.next, aten.mul.Scalar, fires, 1e3))
    return node is not None
