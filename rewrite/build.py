"""From a functional export with taps to a program: own names, own graph, sites, leaves, calling convention."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from rewrite.errors import TraceError
from rewrite.nested import argument_names, input_names, spec_names
from rewrite.ops import same_shape
from rewrite.program import Program
from rewrite.readers import reads
from rewrite.records import Calling, Header, Leaf, LeafKind, Site
from rewrite.shapes import Example
from rewrite.strip import is_random, merge_aliases, robust
from rewrite.taps import PREFIX, Tap

aten = torch.ops.aten
ORDER: tuple[LeafKind, ...] = ("parameter", "buffer", "constant", "input")
KINDS: dict[InputKind, LeafKind] = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}


def build(model: nn.Module, exported: ExportedProgram, taps: tuple[Tap, ...], example: Example, header: Header) -> Program:
    """The program of an exported model whose last outputs are the taps.

    Raises: TraceError when it writes to its buffers or inputs, draws random numbers or holds ops that a program cannot.
    """
    where = f"trace({header.model})"
    _refuse_writes(exported, where)
    branches = [node for node in exported.graph.nodes if node.op == "get_attr" or isinstance(node.target, torch._ops.HigherOrderOperator)]
    if branches:
        raise TraceError(f"{where}: expected plain tensor ops, got the control flow of {branches[-1].target}. Write it with torch.where.")
    strange = [spec for spec in exported.graph_signature.input_specs if spec.kind not in KINDS]
    if strange:
        raise TraceError(
            f"{where}: expected tensors alone as state, got a {strange[0].kind.name.lower()}. Keep other objects out of forward."
        )
    signature = inspect.signature(model.forward)
    flat: list[Any] = list(exported.graph.output_node().args[0])  # type: ignore[arg-type]
    count = len(flat) - len(taps)
    call: Any = exported.call_spec
    in_spec, out_spec = call.in_spec, call.out_spec.children()[0]
    calling = Calling(argument_names(signature), in_spec, out_spec, spec_names(out_spec))
    tapped = [_tapped(node) for node in flat[count:]]
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    copier = Copier(exported, {_innermost(node): tap.tag for node, tap in zip(flat[count:], taps, strict=True)}, own)
    copier.copy(flat[:count], tapped, input_names(in_spec, signature))
    _refuse_ops(copier.graph, where)
    sites = _sites(copier, taps, tapped, calling)
    merge_aliases(copier.graph, sites)
    header = replace(header, notes=(*header.notes, *_unread(copier.graph, sites)))
    return Program(copier.graph, copier.leaves, copier.tensors, calling, header, example, sites)


def _unread(graph: fx.Graph, sites: dict[str, Site]) -> list[str]:
    """A note on the module outputs that nothing reads: they have values, and rewriting them is in vain."""
    nodes = {node.name: node for node in graph.nodes}
    outputs = [site for site in sites.values() if site.kind == "output"]
    unread = list({site.node: site.address for site in outputs if not any(reads(user, site) for user in nodes[site.node].users)}.values())
    if not unread:
        return []
    shown = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
    return [f"{len(unread)} site{'s' * (len(unread) > 1)} that nothing reads: {shown}"]


def _refuse_writes(exported: ExportedProgram, where: str) -> None:
    signature = exported.graph_signature
    written = [spec for spec in signature.output_specs if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)]
    inputs = list(signature.user_inputs_to_mutate.values())
    if written:
        kind, name = written[0].kind.name.partition("_")[0].lower(), str(written[0].target).removeprefix(f"{PREFIX}.")
        raise TraceError(
            f"{where}: expected a forward that leaves the model as it is, got one that writes to the {kind} {name!r}."
            " Pass that state in as an argument and return the new one."
        )
    if inputs:
        raise TraceError(
            f"{where}: expected a forward that leaves its arguments as they are, got one that writes to {inputs[0]!r}. Clone it first."
        )


def _refuse_ops(graph: fx.Graph, where: str) -> None:
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if is_random(node):
            raise TraceError(
                f"{where}: expected a deterministic forward, got the random op {node.target} in {_place(node)}."
                " Draw the random numbers outside and pass them in."
            )
        overload = isinstance(node.target, torch._ops.OpOverload)
        if not overload and getattr(node.target, "__module__", "") not in ("_operator", "math", "torch", "torch.sym_ops"):
            raise TraceError(f"{where}: expected plain tensor ops, got {node.target} in {_place(node)}. Write it with torch functions.")


def _place(node: fx.Node) -> str:
    return node.meta["scope"][-1] if node.meta["scope"] else "the model's own forward"


def _innermost(node: fx.Node) -> str:
    return next(reversed(node.meta["nn_module_stack"]))


def _tapped(node: fx.Node) -> fx.Node:
    return node.args[0] if node.target is aten.clone.default else node  # type: ignore[return-value]


def ancestors(wanted: Iterable[Any]) -> set[fx.Node]:
    """The nodes among `wanted` and all that they are computed from."""
    found: set[fx.Node] = set()
    waiting = [value for value in wanted if isinstance(value, fx.Node)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


@dataclass
class Copier:
    """Copies an exported graph into a program's; `image` says what became of each node, `tags` which call each module stack key is."""

    exported: ExportedProgram
    tags: dict[str, str]
    own: dict[str, Tensor]  # the model's parameters and buffers by all their names
    graph: fx.Graph = field(default_factory=fx.Graph)
    leaves: dict[str, Leaf] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    image: dict[fx.Node, fx.Node] = field(default_factory=dict)
    _known_as: dict[tuple[int, str], fx.Node] = field(default_factory=dict)  # (tensor, path of a module that holds it) -> placeholder

    def copy(self, outputs: list[Any], tapped: list[fx.Node], names: tuple[str, ...]) -> None:
        """Copies what `outputs` and `tapped` nodes need; `names` are the inputs' names."""
        keep = ancestors([*outputs, *tapped])
        self._placeholders(keep, iter(names))
        for node in self.exported.graph.nodes:
            if node.op == "call_function" and node in keep:
                self._copied(node) if node.target is aten.copy.default else self._call(node)
        results = tuple(self.image[value] if isinstance(value, fx.Node) else value for value in outputs)
        values = tuple(value.meta["val"] if isinstance(value, fx.Node) else value for value in outputs)
        self.graph.output(results).meta = {"val": values, "scope": ()}

    def _placeholders(self, keep: set[fx.Node], inputs: Iterator[str]) -> None:
        specs = zip(self.exported.graph.find_nodes(op="placeholder"), self.exported.graph_signature.input_specs, strict=True)
        for node, spec in sorted(specs, key=lambda pair: ORDER.index(KINDS[pair[1].kind])):
            kind = KINDS[spec.kind]
            if kind == "constant" and node not in keep:
                continue
            name = next(inputs) if kind == "input" else str(spec.target).removeprefix(f"{PREFIX}.").replace("lifted_tensor_", "constant_")
            new = self.image[node] = self.graph.placeholder(re.sub(r"\W+", "_", name))
            new.target = new.name  # a clash is resolved in the name only, and code is generated from the target
            new.meta = {"val": node.meta["val"], "scope": ()}
            self.leaves[new.name] = Leaf(kind, name, spec.persistent is not False)
            if kind != "input":
                self.tensors[name] = self.own[name] if name in self.own else self.exported.constants[str(spec.target)]  # type: ignore[assignment]
                self._known_as.setdefault((id(self.tensors[name]), name.rpartition(".")[0]), new)

    def _call(self, node: fx.Node) -> None:
        stack = node.meta.get("nn_module_stack", {})
        owner = next(reversed(stack.values()))[0].removeprefix(PREFIX).removeprefix(".") if stack else ""

        def image(old: fx.Node) -> fx.Node:
            new = self.image[old]
            leaf = self.leaves.get(new.name)
            if leaf is None or leaf.name not in self.tensors or leaf.name.rpartition(".")[0] == owner:
                return new
            return self._known_as.get((id(self.tensors[leaf.name]), owner), new)  # a tied weight, as the reading module calls it

        target: Any = robust(node.target)
        args, kwargs = fx.map_arg((node.args, node.kwargs), image)  # type: ignore[misc]
        name = getattr(target, "overloadpacket", target).__name__
        new = self.image[node] = self.graph.create_node("call_function", target, args, kwargs, name=name)
        new.meta = {"val": node.meta["val"], "scope": tuple(self.tags[key] for key in stack if key in self.tags)}

    def _copied(self, node: fx.Node) -> None:
        """What a write of a whole value leaves there, its source in the type and shape of the target: as ops that have derivatives."""
        target, source = (self.image[old] for old in node.args[:2])  # type: ignore[index]
        stack = node.meta.get("nn_module_stack", {})
        scope = tuple(self.tags[key] for key in stack if key in self.tags)
        value, like = source.meta["val"], node.meta["val"]
        if value.dtype != like.dtype:
            value = value.to(like.dtype)
            source = self.graph.create_node("call_function", aten._to_copy.default, (source,), {"dtype": like.dtype})
            source.meta = {"val": value, "scope": scope}
        op, args = (aten.alias.default, (source,)) if same_shape(value.shape, like.shape) else (aten.expand_as.default, (source, target))
        new = self.image[node] = self.graph.create_node("call_function", op, args, {})
        new.meta = {"val": like, "scope": scope}


def _sites(copier: Copier, taps: tuple[Tap, ...], tapped: list[fx.Node], calling: Calling) -> dict[str, Site]:
    """The root's inputs, then every module call's inputs and outputs in order of the taps, then the root's outputs."""
    sites: dict[str, Site] = {}
    inputs = [(leaf.name, name) for name, leaf in copier.leaves.items() if leaf.kind == "input"]
    nodes = {node.name: node for node in copier.graph.nodes}
    inputs = [(leaf, name) for leaf, name in inputs if isinstance(nodes[name].meta["val"], Tensor)]
    for address, name in [*((f"@in:{leaf}", name) for leaf, name in inputs), *(("@in", name) for _, name in inputs[:1])]:
        sites[address] = Site(address, name, "input")
    for tap, old in zip(taps, tapped, strict=True):
        for address in tap.addresses:
            sites[address] = Site(address, copier.image[old].name, tap.kind, tap.tag if tap.kind == "input" else None)
    results: Any = copier.graph.output_node().args[0]
    for name, node in zip(calling.outputs, results, strict=True):
        if isinstance(node, fx.Node) and isinstance(node.meta["val"], Tensor):
            sites[f":{name or 0}"] = Site(f":{name or 0}", node.name, "output")
    return sites
