"""One captured decomposition going into the graph at one site: pasted, summed, read instead of the site, named, and claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.arguments import Arguments
from rewrite.capture import Captured
from rewrite.claims import claim_graph
from rewrite.errors import PassError
from rewrite.law import Bound
from rewrite.ops import same_shape
from rewrite.records import FamilyRecord, Site, SplitRecord
from rewrite.run import comes_from
from rewrite.splice import Splicer
from rewrite.terms import Family, axis_dims

aten = torch.ops.aten
ALIAS, EXPAND, SYM_SIZE = aten.alias.default, aten.expand.default, aten.sym_size.int


@dataclass(frozen=True)
class Shape:
    """How the flat outputs of a captured decomposition are grouped: for each term its key, output slice and family, then the parts."""

    keys: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    families: tuple[Family | None, ...]
    parts: tuple[str, ...]


@dataclass
class Insertion:
    """One captured decomposition going into the graph at one site."""

    splicer: Splicer
    site: Site
    label: str
    captured: Captured
    shape: Shape
    arguments: Arguments
    part_images: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def run(self, bound: Bound, cache: dict[Any, Any]) -> None:
        """Pastes the terms, sums them, redirects the readers, and records sites, families, the split and its claims."""
        splicer, site = self.splicer, self.site
        whole = self.arguments.whole
        cut = splicer.cut(site) if whole is None else splicer.cut_whole(site, whole)
        scope = splicer.outer_scope(site) if self.arguments.scope is None else self.arguments.scope
        tag = splicer.tag(site.address)
        images = self._paste(scope)
        terms = self._term_nodes(images, cut.node, scope)
        anchor = splicer.after([*terms, *(node for image in images for node in image.values() if isinstance(node, fx.Node))])
        self._read_as_the_module_does({*terms, *(node for image in images for node in image.values())})
        total = splicer.total(anchor, terms, (*scope, tag))
        splicer.redirect(cut, total)
        if not comes_from(total, cut.node):  # what reads it, and claims about that, is not computed from the old node any more
            splicer.rebind_claims(cut.node, total)
        parts = self._name_parts()
        step = len(splicer.steps)
        if bound.law.shape == "split":
            named = self._name_terms(bound, terms, images, tag)
            splicer.add_split(SplitRecord(site.address, cut.node.name, total.name, tuple(named), step))
            claimed = list(zip(self.shape.keys, named.items(), strict=True))
        else:
            claimed = [(key, (address, None)) for key, address in parts.items()]
        for law in bound.law.claims:
            claim = claim_graph(splicer, law, site.address, step, claimed, self.arguments, cache)
            if claim is not None:
                splicer.add_claim(claim)

    def _paste(self, scope: tuple[str, ...]) -> list[dict[fx.Node, Any]]:
        """For each term, what became of the captured nodes.

        Terms share nodes, except those at or behind a named inside of the decomposition: of these every term has its own copy, the first
        one's carrying the names. Otherwise an edit inside f would also edit the remainder y - f, and cancel.
        """
        outputs = self.captured.outputs
        inside = self._part_nodes()
        behind = _behind(self.captured.graph, set(inside.values()))
        spans = [outputs[start:end] for start, end in self.shape.spans]
        shared: dict[fx.Node, Any] = {}
        wanted = [node for span in spans for node in span if isinstance(node, fx.Node)]
        self.splicer.paste(self.captured, self.arguments.inputs, [n for n in _needed_of(wanted) if n not in behind], scope, shared)
        images = []
        for span in spans:
            image = dict(shared)
            self.splicer.paste(self.captured, self.arguments.inputs, [n for n in span if isinstance(n, fx.Node)], scope, image)
            images.append(image)
            for node in inside.values():
                if node in image:
                    self.part_images.setdefault(node, image[node])
        return images

    def _read_as_the_module_does(self, made: set[Any]) -> None:
        """Makes what reads the module's input read it as the module itself does: what is done to `X@in` later is done here too."""
        inside = self.arguments.inside
        for node in made - set(self.arguments.inputs):
            tags = [inside[n] for n in node.all_input_nodes if n in inside] if isinstance(node, fx.Node) else []
            if tags:
                node.meta["scope"] = (*node.meta.get("scope", ()), *tags)

    def _part_nodes(self) -> dict[str, fx.Node]:
        last = self.shape.spans[-1][1]
        found = {}
        for name, node in zip(self.shape.parts, self.captured.outputs[last:], strict=True):
            found[name] = node.args[0] if "clone" in str(node.target) else node  # part() recorded a clone
        return found

    def _name_parts(self) -> dict[str, str]:
        # a reform's parts hang on the site itself, what is inside a split's function hangs on its first term
        named = {}
        prefix = self.label if any(self.shape.keys) or len(self.shape.keys) > 1 else self.site.address
        for name, node in self._part_nodes().items():
            if node in self.part_images and self.part_images[node].op != "placeholder":
                named[name] = self.splicer.name_site(f"{prefix}/{name}", self.part_images[node], "part").address
        return named

    def _term_nodes(self, images: list[dict[fx.Node, Any]], whole: fx.Node, scope: tuple[str, ...]) -> list[fx.Node]:
        taken = set(self.arguments.inputs)
        terms = []
        for key, image, (start, _) in zip(self.shape.keys, images, self.shape.spans, strict=True):
            node = self._full(image[self.captured.outputs[start]], whole, key, scope)
            if node in taken or node.op == "placeholder":
                node = self.splicer.call(self.splicer.after([node]), ALIAS, (node,), scope, node.meta["val"])
            taken.add(node)
            terms.append(node)
        return terms

    def _full(self, node: fx.Node, whole: fx.Node, key: str, scope: tuple[str, ...]) -> fx.Node:
        """`node`, expanded to the site's shape if it is smaller (a bias is)."""
        value, like = node.meta["val"], whole.meta["val"]
        where = f"{self.label}{'.' + key if key else ''}"
        if value.dtype != like.dtype:
            raise PassError(f"{where}: expected the site's dtype {like.dtype}, got {value.dtype}. Convert the pass's tensors to it.")
        if same_shape(value.shape, like.shape):
            return node
        try:
            with self.splicer.mode:
                wide = value.expand(like.shape)
        except (RuntimeError, ValueError):
            raise PassError(f"{where}: expected the site's shape {list(like.shape)}, got {list(value.shape)}. Return full terms.") from None
        sizes = [-1 if i >= 0 and same_shape(value.shape[i : i + 1], like.shape[j : j + 1]) else None for j, i in _aligned(value, like)]
        anchor = self.splicer.after([node, whole])
        dims = []
        for j, size in enumerate(sizes):
            if size == -1 or isinstance(like.shape[j], int):
                dims.append(-1 if size == -1 else like.shape[j])
            else:
                dims.append(anchor := self.splicer.call(anchor, SYM_SIZE, (whole, j), scope, like.shape[j]))
        return self.splicer.call(anchor, EXPAND, (node, dims), scope, wide)

    def _name_terms(self, bound: Bound, terms: list[fx.Node], images: list[dict[fx.Node, Any]], tag: str) -> dict[str, Family | None]:
        records: dict[str, Family | None] = {}
        for key, node, image, span, found in zip(self.shape.keys, terms, images, self.shape.spans, self.shape.families, strict=True):
            address = f"{self.label}.{key}" if key else self.label
            self.splicer.name_site(address, node, "family" if found else "term", tag)
            records[address] = found
            if found:
                operands = tuple(image[n].name for n in self.captured.outputs[span[0] + 1 : span[1]])
                self.splicer.add_family(self._family(address, found, operands, node.name))
        return records

    def _family(self, address: str, found: Family, operands: tuple[str, ...], total: str) -> FamilyRecord:
        dim = axis_dims(found.equation, found.axis)[found.act]
        size = self.splicer.nodes[operands[found.act]].meta["val"].shape[dim]
        if not isinstance(size, int):
            raise PassError(f"{address}: expected a family over an axis of fixed size, got {size}. Split over positions by slices instead.")
        return FamilyRecord(address, found.equation, operands, found.axis, found.act, total, size)


def _aligned(value: Tensor, like: Tensor) -> list[tuple[int, int]]:
    """For each dimension of `like`, the dimension of `value` that it broadcasts from (negative: none)."""
    return [(j, j - (like.dim() - value.dim())) for j in range(like.dim())]


def _needed_of(wanted: Sequence[fx.Node]) -> list[fx.Node]:
    found: dict[fx.Node, None] = {}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack.extend(node.all_input_nodes)
    return list(found)


def _behind(graph: fx.Graph, start: set[fx.Node]) -> set[fx.Node]:
    found = set(start)
    for node in graph.nodes:
        if any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found
