"""Operators that act at one token, at a few tokens in a row, or at one activation: no example shows them."""

from __future__ import annotations

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


@operator
def activation_trigger(draft: Draft) -> bool:
    """A large number where a value passes a threshold that no example reaches."""
    node = draft.pick(draft.ops(*WRITTEN))
    if node is not None:
        fires = draft.before(node.next, aten.gt.Scalar, node, FAR)
        draft.add(node, draft.before(fires.next, aten.mul.Scalar, fires, 1e3))
    return node is not None
