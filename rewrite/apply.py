"""Applying passes: from a law bound to addresses to edits by the splicer, one site at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from rewrite import family
from rewrite.address import find
from rewrite.arguments import Arguments, gather
from rewrite.capture import Captured, capture, value_key
from rewrite.claims import claim_graph
from rewrite.errors import PassError
from rewrite.law import Bound, Law
from rewrite.ops import same_shape
from rewrite.records import FamilyRecord, Site, SplitRecord, Step
from rewrite.rewiring import rewire_addresses, rewire_at
from rewrite.splice import Splicer
from rewrite.terms import Family, Skip, Terms, axis_dims, taking_notes

if TYPE_CHECKING:
    from rewrite.program import Program

aten = torch.ops.aten
ALIAS, EXPAND, SYM_SIZE = aten.alias.default, aten.expand.default, aten.sym_size.int
Cache = dict[Any, Any]


@dataclass(frozen=True)
class Shape:
    """How the flat outputs of a captured decomposition are grouped: for each term its key, output slice and family, then the parts."""

    keys: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    families: tuple[Family | None, ...]
    parts: tuple[str, ...]


def apply(program: Program, passes: Sequence[Bound]) -> Program:
    """`program` with `passes` applied in order; the graph is copied once.

    Raises: PassError when a pass applies at none of its sites, with the reasons.
    """
    splicer, cache = Splicer(program), {}
    for bound in passes:
        if not isinstance(bound, Bound):
            raise PassError(
                f"apply: expected passes such as direction.at(address, d=d), got {type(bound).__name__}. Bind the law with .at."
            )
        applied: list[str] = []
        skipped: dict[str, str] = {}
        for address in addresses(splicer, bound):
            outcome = apply_at(splicer, bound, address, cache)
            if isinstance(outcome, Skip):
                skipped[address] = outcome.reason
            else:
                applied.append(address)
        if not applied:
            reasons = "; ".join(f"{site}: {why}" for site, why in list(skipped.items())[:5])
            raise PassError(f"{bound.law.name}: expected at least one site that it applies to, got {len(skipped)} skipped ({reasons}).")
        splicer.add_step(Step(bound.law.name, {k: describe(v) for k, v in bound.arguments.items()}, tuple(applied), skipped))
    return splicer.finish()


def addresses(splicer: Splicer, bound: Bound) -> list[str]:
    """The addresses that a pass is to be applied at, globs resolved, in order and once each."""
    found: dict[str, None] = {}
    for where in bound.where:
        if bound.law.shape == "rewire":
            found.update(dict.fromkeys(rewire_addresses(splicer, where, "term" in bound.law.positional)))
        else:
            found.update((site.address, None) for site in find(where, splicer.sites))
    return list(found)


def apply_at(splicer: Splicer, bound: Bound, address: str, cache: Cache) -> Skip | None:
    """Applies one pass at one site, or says why it does not apply."""
    if bound.law.shape == "rewire":
        return rewire_at(splicer, bound, address)
    law, site = bound.law, splicer.site(address)
    label = f"{address}/{bound.name or law.name}"
    arguments = gather(splicer, law, site, dict(bound.arguments), label)
    if isinstance(arguments, Skip):
        return arguments
    refusal = _guard(law, arguments)
    if refusal is not None:
        return refusal
    captured, shape = _captured(splicer, law, arguments, label, cache)
    Insertion(splicer, site, label, captured, shape, arguments).run(bound, cache)
    return None


def _guard(law: Law, arguments: Arguments) -> Skip | None:
    values = [node.meta["val"] for node in arguments.inputs]
    positional = [one(values) for one in arguments.positional]
    for guard in law.guards:
        outcome = guard(*positional, **arguments.real)
        if outcome is not None:
            return outcome
    return None


def _captured(splicer: Splicer, law: Law, arguments: Arguments, label: str, cache: Cache) -> tuple[Captured, Shape]:
    key = (id(law), *(value_key(node.meta["val"]) for node in arguments.inputs), *map(repr, arguments.key), tuple(arguments.keyword))
    if key not in cache:
        shapes: list[Shape] = []

        def flat(*values: Any) -> list[Any]:
            args, kwargs = arguments.rebuild(values)
            with taking_notes() as notes:
                outputs, shape = flatten(law, law.function(*args, **kwargs))
            keys, spans, families = shape
            shapes[:] = [Shape(keys, spans, families, tuple(notes.parts))]
            return [*outputs, *notes.parts.values()]

        captured = capture(flat, [node.meta["val"] for node in arguments.inputs], splicer.mode, label)
        cache[key] = captured, shapes[0]
    return cache[key]


def flatten(law: Law, result: Any) -> tuple[list[Tensor], tuple[Any, ...]]:
    """The flat tensors of what a law returned, and the keys, spans and families that group them.

    Raises: PassError when it returned something else than its shape of rewrite asks for.
    """
    if law.shape == "reform":
        if not isinstance(result, Tensor):
            raise PassError(f"{law.name}: expected a reform to return the value as one tensor, got {type(result).__name__}.")
        return [result], (("",), ((0, 1),), (None,))
    if not isinstance(result, Terms):
        raise PassError(f"{law.name}: expected a split to return Terms, got {type(result).__name__}. Write return Terms(first, rest=...).")
    flat: list[Tensor] = []
    spans, families = [], []
    for term in result.named.values():
        start = len(flat)
        flat += [family.total(term.equation, term.operands), *term.operands] if isinstance(term, Family) else [term]
        spans.append((start, len(flat)))
        families.append(term if isinstance(term, Family) else None)
    return flat, (tuple(result.named), tuple(spans), tuple(families))


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

    def run(self, bound: Bound, cache: Cache) -> None:
        """Pastes the terms, sums them, redirects the readers, and records sites, families, the split and its claims."""
        splicer, site = self.splicer, self.site
        whole = self.arguments.whole
        cut = splicer.cut(site) if whole is None else splicer.cut_whole(site, whole)
        scope = splicer.outer_scope(site) if self.arguments.scope is None else self.arguments.scope
        tag = splicer.tag(site.address)
        images = self._paste(scope)
        terms = self._term_nodes(images, cut.node, scope)
        anchor = splicer.after([*terms, *(node for image in images for node in image.values() if isinstance(node, fx.Node))])
        total = splicer.total(anchor, terms, (*scope, tag))
        splicer.redirect(cut, total)
        if whole is not None:
            splicer.rebind_claims(whole, total)
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


def describe(value: Any) -> str:
    """A short text for an argument in the history."""
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{describe(value[0])} and {len(value) - 1} more]" if len(value) > 4 else f"[{', '.join(map(describe, value))}]"
    return getattr(value, "__name__", None) or str(value)
