"""Operators on weights: in the graph that reads them, or in the numbers that are stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from benchmarks.mutants.draft import Draft, alike, is_float, operator, val
from rewrite.run import needed
from verify.shadow import sweep

aten = torch.ops.aten
LINEAR, ADDMM = aten.linear.default, aten.addmm.default
PLACE: dict[Any, int] = {LINEAR: 1, aten.mm.default: 1, aten.matmul.default: 1, ADDMM: 2}  # of the weight


def weight(node: fx.Node) -> Any:
    """What a linear op takes for its weight."""
    return node.args[PLACE[node.target]]


def linear(draft: Draft) -> list[fx.Node]:
    """The ops with a weight of two dimensions."""
    return [n for n in draft.ops(*PLACE) if is_float(weight(n)) and val(weight(n)).dim() == 2 and is_float(n, 2)]


@operator
def no_bias(draft: Draft) -> bool:
    """A linear map without its bias."""
    node = draft.pick(draft.ops(LINEAR, ADDMM), lambda n: n.target is ADDMM or (len(n.args) > 2 and n.args[2] is not None))
    if node is not None and node.target is LINEAR:
        draft.call(node, LINEAR, *node.args[:2])
    elif node is not None:
        draft.call(node, aten.mm.default, *node.args[1:])
    return node is not None


@operator
def transpose_a_weight(draft: Draft) -> bool:
    """A square weight, transposed."""
    node = draft.pick(linear(draft), lambda n: len(set(val(weight(n)).shape)) == 1 and val(weight(n)).shape[0] > 1)
    if node is not None:
        draft.arg(node, PLACE[node.target], draft.before(node, aten.transpose.int, weight(node), 0, 1))
    return node is not None


@operator
def swap_weights(draft: Draft) -> bool:
    """Two linear maps of one shape exchange their weights."""
    maps = [n for n in linear(draft) if weight(n).op == "placeholder"]
    pairs = [(m, n) for i, m in enumerate(maps) for n in maps[i + 1 :] if alike(weight(m), weight(n)) and weight(m) is not weight(n)]
    if pairs:
        m, n = draft.choice.choice(pairs)
        first, second = weight(m), weight(n)
        draft.arg(m, PLACE[m.target], second)
        draft.arg(n, PLACE[n.target], first)
    return bool(pairs)


@operator
def weight_of_another_layer(draft: Draft) -> bool:
    """A linear map reads the weight of another one of its shape: shared where it should not be."""
    maps = [n for n in linear(draft) if weight(n).op == "placeholder"]
    pairs = [(m, n) for m in maps for n in maps if alike(weight(m), weight(n)) and weight(m) is not weight(n)]
    if pairs:
        m, n = draft.choice.choice(pairs)
        draft.arg(m, PLACE[m.target], weight(n))
    return bool(pairs)


@operator
def one_weight_element(draft: Draft) -> bool:
    """One element of one weight moved by 2^-12, written into the graph."""
    node = draft.pick(linear(draft))
    if node is None:
        return False
    shape = list(val(weight(node)).shape)
    zeros = draft.before(node, aten.full.default, shape, 0.0)
    index = [draft.before(node, aten.full.default, [1], draft.choice.randrange(size), dtype=torch.int64) for size in shape]
    delta = draft.before(node, aten.index_put.default, zeros, index, draft.before(node, aten.full.default, [1], 2.0**-12))
    draft.arg(node, PLACE[node.target], draft.before(node, aten.add.Tensor, weight(node), delta))
    return True


@operator
def one_stored_element(draft: Draft) -> bool:
    """One element of one stored weight moved by 2^-12."""
    node = draft.pick(draft.weights(1))
    if node is None:
        return False
    tensor = _copy(draft, node)
    tensor.view(-1)[draft.choice.randrange(tensor.numel())] += 2.0**-12
    draft.store(node, tensor)
    return True


@operator
def weight_through_half(draft: Draft) -> bool:
    """A stored weight rounded to float16."""
    node = draft.pick(draft.weights())
    if node is not None:
        draft.store(node, _copy(draft, node).half().float())
    return node is not None


@operator
def stale_constant(draft: Draft) -> bool:
    """What is computed from weights is taken from a computation with weights of a moment ago: all are 2^-10 smaller."""
    fixed = {n for n in draft.nodes if n.op == "placeholder" and draft.leaves[n.name].kind not in ("input", "gate")}
    moving = {n for n in fixed if draft.leaves[n.name].kind == "parameter"}
    derived = []
    for node in draft.ops():
        if node.all_input_nodes and all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
            if any(n in moving for n in node.all_input_nodes) and is_float(node):
                moving.add(node)
                derived.append(node)
    node = draft.pick([n for n in derived if any(user not in fixed for user in n.users)] or draft.weights())
    if node is None:
        return False
    draft.instead(node, draft.leaf("constant", "stale", _stale(draft, node)))
    return True


def _stale(draft: Draft, node: fx.Node) -> Tensor:
    program, reached = draft.program, needed([node])
    read = [draft.leaves[n.name] for n in reached if n.op == "placeholder"]
    moved = {leaf.name: program.tensors[leaf.name].detach() * (1 - 2.0**-10) for leaf in read if leaf.kind == "parameter"}
    if node.op == "placeholder":
        return moved[draft.leaves[node.name].name]
    return sweep(program, [{}], [node.name], tensors=moved)[0][node.name].contiguous()


def _copy(draft: Draft, node: fx.Node) -> Tensor:
    return draft.tensors[draft.leaves[node.name].name].detach().clone(memory_format=torch.contiguous_format)
