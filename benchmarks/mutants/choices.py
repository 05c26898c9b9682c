"""Operators on choices: the wrong expert, the wrong set of candidates."""

from __future__ import annotations

import operator as python

import torch
from torch import fx

from benchmarks.mutants.draft import Draft, is_float, operator, val

aten = torch.ops.aten
TOPK = aten.topk.default
LARGEST = (aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim, TOPK, aten.argmax.default, aten.logsumexp.default)


def axis_of(node: fx.Node) -> int:
    """The axis that candidates are on."""
    place = 2 if node.target is TOPK else 1
    axes = node.args[place] if len(node.args) > place else node.kwargs.get("dim", -1)
    axis = axes[0] if isinstance(axes, (list, tuple)) and axes else axes
    return int(axis) % val(node.args[0]).dim() if isinstance(axis, int) else val(node.args[0]).dim() - 1


@operator
def wrong_expert(draft: Draft) -> bool:
    """What was chosen first is taken for what was chosen last: weights go to other experts."""
    chosen = [n for n in draft.ops(python.getitem) if n.args[0].target is TOPK and n.args[1] == 1]  # type: ignore[union-attr]
    node = draft.pick(chosen, lambda n: val(n).shape[axis_of(n.args[0])] > 1)  # type: ignore[arg-type]
    if node is not None:
        draft.after(node, aten.flip.default, [axis_of(node.args[0])])  # type: ignore[arg-type]
    return node is not None


@operator
def weights_of_another_expert(draft: Draft) -> bool:
    """Experts are numbered from one: each computes with the weights of the one before."""
    node = draft.pick(draft.weights(3), lambda n: val(n).shape[0] > 1)
    if node is not None:
        draft.instead(node, _rolled(draft, node))
    return node is not None


def _rolled(draft: Draft, node: fx.Node) -> fx.Node:
    first = next(n for n in draft.graph.nodes if n.op != "placeholder")
    return draft.before(first, aten.roll.default, node, [1], [0])


@operator
def fewer_candidates(draft: Draft) -> bool:
    """A largest one is sought among all but the last."""
    node = draft.pick(draft.ops(*LARGEST), lambda n: is_float(n.args[0]) and val(n.args[0]).shape[axis_of(n)] > _chosen(n))
    if node is not None:
        size = int(val(node.args[0]).shape[axis_of(node)])
        draft.arg(node, 0, draft.before(node, aten.slice.Tensor, node.args[0], axis_of(node), 0, size - 1))
    return node is not None


def _chosen(node: fx.Node) -> int:
    return int(node.args[1]) if node.target is TOPK else 1  # type: ignore[arg-type]


@operator
def another_candidate(draft: Draft) -> bool:
    """A largest one is sought with one candidate twice, and another left out."""
    node = draft.pick(draft.ops(*LARGEST), lambda n: is_float(n.args[0]) and val(n.args[0]).shape[axis_of(n)] > max(2, _chosen(n)))
    if node is None:
        return False
    axis, size = axis_of(node), int(val(node.args[0]).shape[axis_of(node)])
    rest = draft.before(node, aten.slice.Tensor, node.args[0], axis, 0, size - 1)
    again = draft.before(node, aten.slice.Tensor, node.args[0], axis, size - 2, size - 1)
    draft.arg(node, 0, draft.before(node, aten.cat.default, [rest, again], axis))
    return True
