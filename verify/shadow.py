"""Float runs of a graph in a precision of one's choice: the same ops with their dtype literals lifted and tensors converted.

Derived constants are expressions of the graph, so they are computed in that precision too. Numbers that depend on no weight and no input
(rotary angles, slopes of a bias) can be read in two ways: computed in that precision, or, as a proof reads them, rounded as traced. One
model may hold as a buffer, rounded, what another one computes; another may write as a product what this one writes as a power.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg
from torch.utils._pytree import tree_map

from rewrite.program import Program
from rewrite.run import needed

Case = dict[str, Any]  # input values by placeholder node name
RMS_NORM = torch.ops.aten.rms_norm.default
BIT_CASTS = (torch.ops.aten.view.dtype,)


class CannotLift(Exception):
    """A graph that has no meaning in another precision; the message says why."""


REFUSALS = (IndexError, RuntimeError, TypeError, ValueError)  # of torch: sizes or values that a model does not accept


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Makes `dtype` torch's default inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def lifted(value: Any, dtype: torch.dtype | None) -> Any:
    """A float tensor, or float dtype, in the precision `dtype`; anything else as it is."""
    if dtype is None:
        return value
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype != dtype and value.is_floating_point() else value
    return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value


def sweep(
    program: Program,
    cases: Sequence[Case],
    want: Sequence[str],
    dtype: torch.dtype | None = None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    keep: bool = False,
    after: Callable[[fx.Node, Any], Any] | None = None,
    rounded: bool = False,
) -> list[dict[str, Any]]:
    """The values of the nodes in `want`, for each case; weights are converted once for all cases and dropped when read last.

    A case may name inner nodes, which are then not computed. `dtype` None runs as traced. `tensors` replace the program's by leaf
    name and may require gradients; `keep` keeps what has been read; `after` has the last word on what an op gives.
    With `rounded` numbers that depend on no weight and no input are computed as traced, and converted where they are read.
    Raises: CannotLift for a graph that reads the bits of a float.
    """
    nodes = program.nodes
    given = set(cases[0]) if cases else set()
    order, last = _plan(program, given, want)
    held = {**program.tensors, **(tensors or {})}
    plain = plain_nodes(program, order, given) if rounded and dtype is not None else frozenset()
    values: dict[str, list[Any]] = {}
    with torch.set_grad_enabled(keep):
        for node in order:
            own = None if node in plain else dtype
            if node.name in given:
                values[node.name] = [lifted(case[node.name], dtype) for case in cases]
            elif node.op == "placeholder":
                values[node.name] = [lifted(held[program.leaves[node.name].name], own)] * len(cases)
            else:
                with default_dtype(own):
                    values[node.name] = _call(node, values, len(cases), own)
                values[node.name] = [after(node, value) for value in values[node.name]] if after else values[node.name]
            for name in () if keep else last.get(node.name, ()):
                del values[name]
    return [{name: _told(lifted(values[name][i], dtype)) for name in want if name in nodes} for i in range(len(cases))]


def _told(value: Any) -> Any:
    """A number as a tensor of it."""
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None) if isinstance(value, int | float) else value


def plain_nodes(program: Program, order: Iterable[fx.Node], given: Collection[str] = ()) -> frozenset[fx.Node]:
    """The nodes of `order` that depend on plain leaves alone; sizes do not count."""
    leaves = plain_leaves(program)
    found: set[fx.Node] = set()
    for node in order:
        if node.op == "placeholder":
            found |= {node} if node.name in leaves else set()
        elif node.name not in given and all(n in found or not _of_numbers(n) for n in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def plain_leaves(program: Program) -> set[str]:
    """The nodes of leaves that are neither weights nor inputs nor brought along by a pass: a proof takes their numbers as they are."""
    traced = {leaf.name for leaf in program.origin.leaves.values()}
    rest = {"buffer": lambda leaf: not leaf.persistent, "constant": lambda leaf: leaf.name in traced}
    return {node for node, leaf in program.leaves.items() if leaf.kind in rest and rest[leaf.kind](leaf)}


def _of_numbers(node: fx.Node) -> bool:
    """True if the node is no size, but tensors."""
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _plan(program: Program, given: set[str], want: Sequence[str]) -> tuple[list[fx.Node], dict[str, list[str]]]:
    nodes = program.nodes
    reached = needed([nodes[name] for name in want], {nodes[name] for name in given})
    order = _weights_late(node for node in program.graph.nodes if node in reached)
    reader: dict[str, str] = {}
    for node in order:
        if node.name not in given:
            reader.update((n.name, node.name) for n in node.all_input_nodes)
    last: dict[str, list[str]] = {}
    for name, by in reader.items():
        if name not in want:
            last.setdefault(by, []).append(name)
    return order, last


def _weights_late(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """The nodes in order, each leaf right before its first reader: a weight is converted when it is needed, not before."""
    order: dict[fx.Node, None] = {}
    leaves = []
    for node in nodes:
        if node.op == "placeholder":
            leaves.append(node)
            continue
        order.update((n, None) for n in node.all_input_nodes if n.op == "placeholder")
        order[node] = None
    return list(order | dict.fromkeys(leaves))


def _call(node: fx.Node, values: Mapping[str, list[Any]], cases: int, dtype: torch.dtype | None) -> list[Any]:
    """What an op gives in each case: once for all where it reads the same in all of them, as derived constants do."""
    target: Any = node.target
    if dtype is not None and target in BIT_CASTS:
        raise CannotLift(f"{node.name} reads the bits of a number")
    literal = lambda leaf: leaf if isinstance(leaf, fx.Node) else lifted(leaf, dtype)  # noqa: E731
    given = map_aggregate((node.args, _keywords(node)), literal)
    read = {n: [lifted(value, dtype) for value in values[n.name]] for n in node.all_input_nodes}
    found: list[Any] = []
    for case in range(cases):
        if found and all(own[case] is own[0] for own in read.values()):
            found.append(found[0])
            continue
        args, kwargs = map_arg(given, lambda n, case=case: read[n][case])  # type: ignore[misc]
        out = target(*args, **kwargs)
        found.append(lifted(out, dtype) if isinstance(out, Tensor) else tree_map(lambda one: lifted(one, dtype), out))
    return found


def _keywords(node: fx.Node) -> dict[str, Any]:
    """The keyword arguments, with the epsilon that an RMS norm takes from the type it was traced in written out."""
    own = node.target is RMS_NORM and len(node.args) < 4 and node.kwargs.get("eps") is None
    return {**node.kwargs, "eps": torch.finfo(node.meta["val"].dtype).eps} if own else dict(node.kwargs)
