"""Functions as graphs, and pairs of them compared in one random draw: what the tests of the exact tier are written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from verify.interpret import evaluate, same
from verify.selfcheck import SelfCheck, self_check
from verify.value import Agreement, Value
from verify.world import World, concrete

KEY = bytes(range(16))


def graph_of(function: Callable[..., Any], *inputs: Tensor) -> tuple[fx.Graph, dict[str, Tensor], list[str]]:
    """The graph of a function, its data by node name (inputs first, then constants), and its outputs."""
    with torch.no_grad():
        module = make_fx(function, pre_dispatch=True)(*inputs)
    nodes = list(module.graph.nodes)
    for node in nodes:
        if node.target is torch.ops.aten.detach_.default:  # what make_fx makes of a literal tensor
            node.target = torch.ops.aten.detach.default
    data = dict(zip((n.name for n in nodes if n.op == "placeholder"), inputs, strict=True))
    data.update((n.name, getattr(module, n.target).detach()) for n in nodes if n.op == "get_attr")
    outputs = module.graph.output_node().args[0]
    return module.graph, data, [n.name for n in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


def values_of(data: dict[str, Tensor], world: World, ids: Sequence[int] = ()) -> dict[str, Value]:
    """A random value for each float tensor by its position, plain data for the others, ids for those numbered in `ids`."""
    given: dict[str, Value] = {}
    for i, (name, tensor) in enumerate(data.items()):
        if tensor.dtype.is_floating_point and "_tensor_constant" not in name:
            given[name] = world.tensor(f"input {i}", tensor.shape)
        else:
            given[name] = concrete(tensor, role="ids" if i in ids else None, label=f"input {i}", world=world)
    return given


def compare(
    one: Callable[..., Any], other: Callable[..., Any], *inputs: Tensor, ids: Sequence[int] = (), world: World | None = None
) -> Agreement:
    """How the first outputs of two functions of the same inputs compare in one random draw."""
    world = world or World(KEY)
    results = []
    for function in (one, other):
        graph, data, outputs = graph_of(function, *inputs)
        results.append(evaluate(graph, values_of(data, world, ids), outputs[:1], world)[outputs[0]])
    return same(results[0], results[1], world)


def checked(function: Callable[..., Any], *inputs: Tensor, ids: Sequence[int] = ()) -> SelfCheck:
    """The self-check of a function on its inputs."""
    graph, data, _ = graph_of(function, *inputs)
    return self_check(graph, data, [name for i, name in enumerate(data) if i in ids])
