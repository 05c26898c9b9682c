"""Mutants: a program with one op changed. Each operator is a function of (program copy, random choice) that edits the graph or declines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rewrite import Program
from rewrite.run import needed
from tests.verify.programs import tiny  # noqa: F401 - re-exported for tests
from verify.cases import redrawn
from verify.shadow import sweep

aten = torch.ops.aten
Operator = Callable[[fx.Graph, list[fx.Node], random.Random], bool]
OPERATORS: dict[str, Operator] = {}
ACTIVATIONS = (aten.gelu.default, aten.silu.default, aten.relu.default, aten.tanh.default)


def operator(function: Operator) -> Operator:
    """Lists a mutation operator."""
    return OPERATORS.setdefault(function.__name__, function)


def mutants(program: Program, seed: int) -> Iterable[tuple[str, Program]]:
    """One mutant for each operator that finds a place in the program, by name."""
    for number, (name, change) in enumerate(OPERATORS.items()):
        graph, image = fx.Graph(), {}
        result = graph.graph_copy(program.graph, image)
        graph.output(result).meta.update(program.graph.output_node().meta)
        live = {image[n] for n in needed(program.outputs) if n in image}
        nodes = [node for node in graph.nodes if node in live]
        if change(graph, nodes, random.Random(seed * 1000 + number)):
            yield name, replace(program, graph=graph, traced_from=None)


def float_like(node: Any, other: Any = None) -> bool:
    """True for a node with a float tensor, of the shape of `other` if given."""
    value = getattr(node, "meta", {}).get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return False
    return other is None or (float_like(other) and [str(s) for s in value.shape] == [str(s) for s in other.meta["val"].shape])


def pick(nodes: list[fx.Node], choice: random.Random, test: Callable[[fx.Node], bool]) -> fx.Node | None:
    """A random one of the op nodes that pass."""
    found = [node for node in nodes if node.op == "call_function" and test(node)]
    return choice.choice(found) if found else None


def after(graph: fx.Graph, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """`target(node, ...)` in the place of `node` for all its readers."""
    with graph.inserting_after(node):
        made = graph.call_function(target, (node, *args), kwargs)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return made


def sums(nodes: list[fx.Node], choice: random.Random) -> fx.Node | None:
    return pick(nodes, choice, lambda n: n.target is aten.add.Tensor and float_like(n.args[0], n) and float_like(n.args[1], n))


@operator
def drop_a_term(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = sums(nodes, choice)
    if node is not None:
        node.replace_all_uses_with(node.args[choice.randrange(2)])  # type: ignore[arg-type]
    return node is not None


@operator
def double_a_term(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = sums(nodes, choice)
    if node is not None:
        node.kwargs = {"alpha": 2}
    return node is not None


@operator
def flip_a_sign(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = sums(nodes, choice)
    if node is not None:
        node.target = aten.sub.Tensor
    return node is not None


@operator
def scale_a_little(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = pick(nodes, choice, lambda n: n.target in (aten.linear.default, *ACTIVATIONS))
    if node is not None:
        after(graph, node, aten.mul.Tensor, 1 + 2.0 ** -choice.randint(4, 30))
    return node is not None


@operator
def no_bias(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = pick(nodes, choice, lambda n: n.target is aten.linear.default and len(n.args) > 2 and n.args[2] is not None)
    node = node or pick(nodes, choice, lambda n: n.target is aten.addmm.default)
    if node is not None and node.target is aten.linear.default:
        node.args = node.args[:2]
    elif node is not None:
        node.target, node.args = aten.mm.default, node.args[1:]
    return node is not None


@operator
def another_eps(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    def small(node: fx.Node) -> bool:
        return any(isinstance(x, float) and 0 < x < 1e-3 for x in node.args)

    node = pick(nodes, choice, small)
    if node is not None:
        node.args = tuple(x * (1 + 2.0**-20) if isinstance(x, float) and 0 < x < 1e-3 else x for x in node.args)
    return node is not None


@operator
def another_activation(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = pick(nodes, choice, lambda n: n.target in ACTIVATIONS)
    if node is not None:
        node.target, node.kwargs = choice.choice([t for t in ACTIVATIONS if t is not node.target]), {}
    return node is not None


@operator
def swap_weights(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    """Two linear maps of one shape exchange their weights."""
    linear = [n for n in nodes if n.target is aten.linear.default]
    pairs = [
        (m, n)
        for m in linear
        for n in linear
        if m._sort_key < n._sort_key and float_like(m.args[1], n.args[1]) and m.args[1] is not n.args[1]
    ]
    if pairs:
        m, n = choice.choice(pairs)
        m.args, n.args = (m.args[0], n.args[1], *m.args[2:]), (n.args[0], m.args[1], *n.args[2:])
    return bool(pairs)


@operator
def transpose_a_weight(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    def square(node: fx.Node) -> bool:
        weight = (
            node.args[1]
            if node.target in (aten.linear.default, aten.mm.default)
            else node.args[2]
            if node.target is aten.addmm.default
            else None
        )
        return isinstance(weight, fx.Node) and float_like(weight) and len(set(map(str, weight.meta["val"].shape))) == 1

    node = pick(nodes, choice, square)
    if node is not None:
        place = 2 if node.target is aten.addmm.default else 1
        with graph.inserting_before(node):
            turned = graph.call_function(aten.transpose.int, (node.args[place], 0, 1))
        turned.meta = dict(node.args[place].meta)  # type: ignore[union-attr]
        node.update_arg(place, turned)
    return node is not None


@operator
def one_weight_element(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    """One element of one weight moved by 2^-12, written into the graph."""
    node = pick(nodes, choice, lambda n: n.target is aten.linear.default)
    if node is None:
        return False
    weight: Any = node.args[1]
    rows, columns = weight.meta["val"].shape
    with graph.inserting_before(node):
        zeros = graph.call_function(aten.full.default, ([rows, columns], 0.0))
        index = [graph.call_function(aten.full.default, ([1], choice.randrange(size)), {"dtype": torch.int64}) for size in (rows, columns)]
        value = graph.call_function(aten.full.default, ([1], 2.0**-12))
        delta = graph.call_function(aten.index_put.default, (zeros, index, value))
        moved = graph.call_function(aten.add.Tensor, (weight, delta))
    zeros.meta = moved.meta = delta.meta = dict(weight.meta)
    for new in (*index, value):
        new.meta = {"val": None, "scope": ()}
    node.update_arg(1, moved)
    return True


@operator
def another_attention_scale(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = pick(nodes, choice, lambda n: n.target is aten.scaled_dot_product_attention.default)
    if node is not None:
        node.kwargs = {**node.kwargs, "scale": (node.kwargs.get("scale") or 8**-0.5) * (1 + 2.0**-18)}
    return node is not None


@operator
def queries_for_keys(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    node = pick(nodes, choice, lambda n: n.target is aten.scaled_dot_product_attention.default and float_like(n.args[0], n.args[1]))
    if node is not None:
        node.args = (node.args[1], node.args[0], *node.args[2:])
    return node is not None


@operator
def other_values(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    """Attention reads its keys where it should read values."""
    node = pick(nodes, choice, lambda n: n.target is aten.scaled_dot_product_attention.default and float_like(n.args[1], n.args[2]))
    if node is not None:
        node.args = (*node.args[:2], node.args[1], *node.args[3:])
    return node is not None


@operator
def shift_positions(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    """A value rolled by one position along its second axis."""
    node = pick(nodes, choice, lambda n: n.target is aten.linear.default and n.meta["val"].dim() == 3)
    if node is not None:
        after(graph, node, aten.roll.default, [1], [1])
    return node is not None


@operator
def activation_trigger(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    """A large number added where an activation passes a threshold that no input reaches."""
    node = pick(nodes, choice, lambda n: n.target in (aten.linear.default, *ACTIVATIONS))
    if node is None:
        return False
    with graph.inserting_after(node):
        fires = graph.call_function(aten.gt.Scalar, (node, 1e6))
    with graph.inserting_after(fires):
        large = graph.call_function(aten.mul.Scalar, (fires, 1e3))
    with graph.inserting_after(large):
        total = graph.call_function(aten.add.Tensor, (node, large))
    fires.meta = {"val": node.meta["val"] > 0, "scope": ()}
    large.meta, total.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user not in (fires, total))
    return True


@operator
def token_trigger(graph: fx.Graph, nodes: list[fx.Node], choice: random.Random) -> bool:
    """An embedding that is one larger at one token id."""
    node = pick(nodes, choice, lambda n: n.target is aten.embedding.default and n.args[1].name == "input_ids")  # type: ignore[union-attr]
    if node is None:
        return False
    with graph.inserting_after(node):
        fires = graph.call_function(aten.eq.Scalar, (node.args[1], choice.randrange(61)))
    with graph.inserting_after(fires):
        wide = graph.call_function(aten.unsqueeze.default, (fires, -1))
    with graph.inserting_after(wide):
        total = graph.call_function(aten.add.Tensor, (node, wide))
    fires.meta, wide.meta = {"val": None, "scope": ()}, {"val": None, "scope": ()}
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    return True


# Is a mutant equivalent? Asked without the exact tier: float64 runs on other weights and inputs


def differs_in_float64(a: Program, b: Program, seed: int, tries: int = 6) -> bool:
    """True if the two differ on some random weights (shared by both) and inputs by more than rounding of float64."""
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = a.example
    case = dict(zip([n for n, leaf in a.leaves.items() if leaf.kind == "input"], [*args, *kwargs.values()], strict=True))
    roles: Any = {leaf.name: "mask" if "mask" in leaf.name else "ids" for leaf in a.leaves.values() if leaf.kind == "input"}
    names = [[n.name for n in p.outputs if isinstance(n, fx.Node)] for p in (a, b)]
    for number in range(tries):
        weights = {k: _moved(t, generator, 1.0 + 10.0**number) for k, t in a.tensors.items()}
        given = redrawn(a, case, roles, generator)
        p = sweep(a, [given], names[0], torch.float64, tensors=weights)[0]
        q = sweep(b, [given], names[1], torch.float64, tensors=weights)[0]
        for x, y in zip(names[0], names[1], strict=True):
            if bool(((p[x] - q[y]).abs() > 1e-10 * (1 + p[x].abs().max())).any()):
                return True
    return False


def _moved(tensor: Tensor, generator: torch.Generator, by: float) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().double() + by * 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
