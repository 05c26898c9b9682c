"""Running: from the append-only graph to the least code that computes what is wanted.

Only what the wanted values need is kept; equal expressions are computed once (so a remainder's own copy of f costs nothing until
something inside f is edited); values that depend on parameters alone are computed once and cached, keyed by the storage and version
of every tensor that they read. An edit through `p.data` changes neither: call `program.refresh()` after one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from rewrite.ops import same_shape
from rewrite.records import Leaf

aten = torch.ops.aten
FIXED = ("parameter", "buffer", "constant")


def needed(wanted: Iterable[Any], given: Collection[fx.Node] = ()) -> set[fx.Node]:
    """Every node that computing `wanted` (nodes; other values are ignored) takes when the nodes `given` are known."""
    found: set[fx.Node] = set()
    stack = [value for value in wanted if isinstance(value, fx.Node)]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            if node not in given:
                stack.extend(node.all_input_nodes)
    return found


def comes_from(node: fx.Node, source: fx.Node) -> bool:
    """True if `node` is computed from `source`; nothing before the source in the graph's order can be."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node is source:
            return True
        if node not in seen and not node < source:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return False


def descendants(start: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes in `start` and all that are computed from them."""
    found: set[fx.Node] = set()
    stack = list(start)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.users)
    return found


def prune(graph: fx.Graph, wanted: Sequence[Any], keep: Sequence[fx.Node] = ()) -> tuple[fx.Graph, list[fx.Node]]:
    """A new graph that returns `wanted` and holds nothing else but `keep`, each expression once; with its placeholders' originals."""
    needs = needed([*wanted, *keep])
    result, image, known = fx.Graph(), {}, {}
    placeholders = []
    for node in graph.nodes:
        if node not in needs:
            continue
        if node.op == "placeholder":
            placeholders.append(node)
            image[node] = result.placeholder(node.name)
            image[node].target = image[node].name
            image[node].meta = node.meta
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: image[n])  # type: ignore[misc]
        key = expression(node.target, args, kwargs)
        if key not in known:
            known[key] = result.call_function(node.target, args, kwargs)
            known[key].meta = node.meta
        image[node] = known[key]
    result.output(tuple(image[value] if isinstance(value, fx.Node) else value for value in wanted))
    _restore_ops(result)
    return result, placeholders


def _restore_ops(graph: fx.Graph) -> None:
    """Puts back what splits took apart and nobody reads: a linear op's bias, a reshape of a reshape."""
    for node in graph.nodes:
        if node.target is aten.reshape.default and node.args[0].target is aten.reshape.default:
            inner = node.args[0].args[0]
            node.args = (inner, node.args[1])
            if same_shape(inner.meta["val"].shape, node.meta["val"].shape):
                node.replace_all_uses_with(inner)
        elif node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            product, bias = node.args
            if _is_product(product) and _is_expanded_vector(bias) and _fits(node, product, bias.args[0]):
                node.target, node.args = aten.linear.default, (*product.args[:2], bias.args[0])
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _is_product(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.linear.default and len(node.users) == 1 and node.args[2:] in ((), (None,))


def _is_expanded_vector(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.target is not aten.expand.default:
        return False
    (vector, *_) = node.args
    return isinstance(vector, fx.Node) and vector.meta["val"].dim() == 1


def _fits(total: fx.Node, product: fx.Node, bias: fx.Node) -> bool:
    """True if adding the vector to the product is what a linear op's bias does: one number a column, no new axes, one dtype."""
    sums, values, vector = (node.meta["val"] for node in (total, product, bias))
    shapes = same_shape(sums.shape, values.shape) and same_shape(vector.shape, values.shape[-1:])
    return shapes and sums.dtype == values.dtype == vector.dtype


def expression(target: Any, args: Any, kwargs: Any) -> Any:
    """What two nodes have in common if they compute the same: a key."""

    def frozen(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(map(frozen, value))
        if isinstance(value, dict):
            return tuple((name, frozen(item)) for name, item in value.items())
        if isinstance(value, slice):
            return ("slice", frozen(value.start), frozen(value.stop), frozen(value.step))
        # 1, 1.0 and True are one dict key but not one argument; 0.0 and -0.0 likewise
        return (type(value).__name__, repr(value)) if isinstance(value, int | float) else value

    return target, frozen(args), frozen(kwargs)


class Runner:
    """Compiled code for some wanted values of a graph, called with the program's tensors and flat inputs."""

    def __init__(self, graph: fx.Graph, wanted: Sequence[Any], leaves: Mapping[str, Leaf], extra: Sequence[str] = ()):
        """`extra` names placeholders beyond the program's leaves, given by name at each call (edits)."""
        self._graph, self._placeholders = prune(graph, wanted)
        self.extra = tuple(extra)
        self._sources = [None if node.name in extra else leaves[node.name] for node in self._placeholders]
        self._names = [node.name for node in self._placeholders]
        self._live: fx.GraphModule | None = None
        self._folded: tuple[fx.GraphModule, fx.GraphModule, list[int], list[int]] | None = None
        self._cache: tuple[Any, tuple[Any, ...]] | None = None

    def refresh(self) -> None:
        """Forgets cached constants."""
        self._cache = None

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The wanted values. `tensors` by leaf name, `inputs` (and extras) by placeholder name."""
        values = [
            inputs[name] if leaf is None or leaf.kind == "input" else tensors[leaf.name]
            for name, leaf in zip(self._names, self._sources, strict=True)
        ]
        if torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in values):
            self._live = self._live or fx.GraphModule(nn.Module(), self._graph)
            return self._live(*values)
        return self._run_folded(values)

    def _run_folded(self, values: list[Any]) -> tuple[Any, ...]:
        self._folded = self._folded or _fold(self._graph, [leaf is not None and leaf.kind in FIXED for leaf in self._sources])
        fixed_module, module, fixed_inputs, module_inputs = self._folded
        fixed = [values[i] for i in fixed_inputs]
        stamp = [(t, t.data_ptr(), 0 if t.is_inference() else t._version) for t in fixed]
        if self._cache is None or not _same_stamp(self._cache[0], stamp):
            with torch.no_grad():
                self._cache = (stamp, fixed_module(*fixed))
        return module(*(values[i] for i in module_inputs), *self._cache[1])


def _same_stamp(old: list[Any], new: list[Any]) -> bool:
    return len(old) == len(new) and all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(old, new, strict=True))


def _returned(graph: fx.Graph) -> set[fx.Node]:
    """The computed values that are returned, and those that a returned one is a view of."""
    found: set[fx.Node] = set()
    stack = list(graph.output_node().all_input_nodes)
    while stack:
        node = stack.pop()
        if node.op == "call_function" and node not in found:
            found.add(node)
            if not isinstance(node.target, torch._ops.OpOverload) or node.target is aten.reshape.default or node.target.is_view:
                stack.extend(node.all_input_nodes)
    return found


def _fold(graph: fx.Graph, fixed_leaf: list[bool]) -> tuple[fx.GraphModule, fx.GraphModule, list[int], list[int]]:
    """Two modules: what only fixed tensors feed, and the rest, which takes the first one's results after its own inputs."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    fixed = {node for node, is_fixed in zip(placeholders, fixed_leaf, strict=True) if is_fixed}
    for node in graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
    fixed -= _returned(graph)  # a caller may write to what it gets
    handed = [n for n in graph.nodes if n in fixed and n.op == "call_function" and any(u not in fixed for u in n.users)]
    first, inputs_of_first = prune(graph, handed)
    second, image = fx.Graph(), {}
    stay = needed(graph.output_node().all_input_nodes, set(handed))
    inputs_of_second = [node for node in placeholders if node in stay]
    for node in [*inputs_of_second, *handed]:
        image[node] = second.placeholder(node.name)
        image[node].target = image[node].name
    for node in graph.nodes:
        if node.op == "call_function" and node in stay and node not in image:
            image[node] = second.node_copy(node, lambda n: image[n])
    second.output(fx.map_arg(graph.output_node().args[0], lambda n: image[n]))
    position = {node: i for i, node in enumerate(placeholders)}
    return (
        fx.GraphModule(nn.Module(), first),
        fx.GraphModule(nn.Module(), second),
        [position[node] for node in inputs_of_first],
        [position[node] for node in inputs_of_second],
    )
