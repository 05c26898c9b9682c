"""The rules that a proof used, compared with torch on the very region it used them for: in float64, with the functions' true values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from verify.algebra import Refused
from verify.selfcheck import self_check, slope_check
from verify.shadow import default_dtype, lifted
from verify.structure import Side
from verify.value import Like
from verify.world import Law

REPEATED = 999_983  # random numbers that stand for those of a tensor without values: a prime, so that rows differ
LARGEST = 1 << 26  # elements of a tensor beyond which a region is not compared: random numbers for it would fill the memory
TOLERANCE = 1e-5  # of the root mean square of torch's result; true rules were measured below 1e-6, false ones above 1e-2


def fault(
    side: Side, want: str, cuts: Mapping[str, tuple[int, ...]], seed: int, theory: Law, *, slopes: bool = False,
    declared: Mapping[Any, str] | None = None,
) -> str | None:  # fmt: skip
    """What is wrong with the rules in the region of `want` (up to `cuts`, given by name and shape), None if nothing shows.

    With `slopes` it is their derivatives that are compared.
    """
    graph, data, ids, plain = _as_graph(side, want, cuts, torch.Generator().manual_seed(seed))
    with default_dtype(torch.float64):
        try:
            if slopes:
                leaves = side.program.leaves
                buffers = [
                    name for name in data if name not in cuts and leaves[name].kind == "buffer"
                ]  # of statistics torch has no derivative
                error = slope_check(graph, data, ids, want, plain, seed, theory, declared, buffers)
                return None if error <= TOLERANCE else f"derivatives are {error:.0e} off torch's at {want}"
            found = self_check(graph, data, ids, [want], plain, theory, declared)
        except Refused as refused:
            return str(refused)
        except (KeyError, ValueError, RuntimeError) as error:
            return f"the rules could not be compared with torch: {type(error).__name__} {error}"
    return f"rules are {found.error:.0e} off torch at {found.node}" if not found.error <= TOLERANCE else None


def too_large(side: Side, want: str, cuts: Mapping[str, tuple[int, ...]]) -> bool:
    """True if the region reads a tensor that is too large to be given numbers."""
    read = (side.leaves[node.name] for node in side.region(want, cuts) if node.op == "placeholder" and node.name not in cuts)
    return any(math.prod(leaf.shape) > LARGEST for leaf in read)


def _as_graph(
    side: Side, want: str, cuts: Mapping[str, tuple[int, ...]], generator: torch.Generator
) -> tuple[fx.Graph, dict[str, Tensor], list[str], list[str]]:
    """The region as a graph of its own in float64, data for its cuts and leaves, and which of these are ids, and which plain."""
    graph, image = fx.Graph(), {}
    data: dict[str, Tensor] = {}
    ids: list[str] = []
    plain: list[str] = []
    inside = side.region(want, cuts)
    for node in (n for n in side.graph.nodes if n in inside):
        if node.name in cuts:
            data[node.name] = torch.randn(cuts[node.name], generator=generator, dtype=torch.float64)
        elif node.name in side.numbers:
            image[node] = side.numbers[node.name]
        elif node.op == "placeholder":
            leaf = side.leaves[node.name]
            if leaf.kind == "number":
                image[node] = leaf.data
                continue
            data[node.name] = lifted(_numbers(side, node.name, generator), torch.float64)
            ids += [node.name] if leaf.kind == "ids" else []
            plain += [node.name] if leaf.kind == "plain" else []
        else:
            args, kwargs = map_aggregate(
                (node.args, node.kwargs), lambda x: image[x] if isinstance(x, fx.Node) else lifted(x, torch.float64)
            )  # type: ignore[misc]
            image[node] = graph.create_node("call_function", node.target, args, kwargs, name=node.name)
            image[node].meta = {**node.meta, "val": lifted_meta(node.meta.get("val"))}
        if node.name in data:
            image[node] = graph.create_node("placeholder", node.name, name=node.name)
            image[node].meta = {**node.meta, "val": lifted_meta(node.meta.get("val"))}
    graph.output((image[side.nodes[want]],))
    return graph, data, ids, plain


def lifted_meta(value: Any) -> Any:
    """What a node's recorded value is like in float64."""
    lifted_one: Any = lambda x: Like(x.shape, torch.float64) if isinstance(x, Tensor) and x.is_floating_point() else x  # noqa: E731
    return map_aggregate(value, lifted_one)


def _numbers(side: Side, name: str, generator: torch.Generator) -> Tensor:
    leaf = side.leaves[name]
    if leaf.kind != "random":
        return leaf.data
    program = side.program.leaves[name]
    held = side.case.get(name) if program.kind == "input" else side.program.tensors[program.name]
    if isinstance(held, Tensor) and not held.is_meta:
        return held.detach().cpu()
    few = torch.randn(min(math.prod(leaf.shape), REPEATED), generator=generator, dtype=torch.float64)
    return few.repeat(-(-math.prod(leaf.shape) // REPEATED))[: math.prod(leaf.shape)].view(leaf.shape)
