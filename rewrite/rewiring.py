"""Rewiring: changing what the readers of a site, or of a path, read.

A law of this shape is called with (read) at a site: what its readers read; if it asks for it also with `unedited`, what they would read
if nothing were gated or edited upstream. On a path `t -> r` it is called with
(read, term, own, coefficient): what r read, the term, the path's own copy of the term, and the factor the term reaches r with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rewrite import family
from rewrite.address import find, parse
from rewrite.arguments import Arguments
from rewrite.capture import capture
from rewrite.claims import claim_graph
from rewrite.errors import PassError, SiteError
from rewrite.law import Bound, Free
from rewrite.paths import additive, crossed, factor_nodes, path_claim, same_sum, split_path
from rewrite.readers import coordinate_tag
from rewrite.records import FamilyRecord, GateRecord, Site
from rewrite.splice import Splicer
from rewrite.terms import Skip, axis_dims
from rewrite.unedited import unedited

aten = torch.ops.aten
CARRYING = frozenset(  # ops whose result holds what an argument holds
    "add sub where masked_fill full full_like scalar_tensor maximum minimum clamp cat stack to _to_copy alias clone contiguous".split()
    + "view reshape expand permute transpose unsqueeze squeeze slice select index gather split chunk flatten".split()
)


def rewire_addresses(splicer: Splicer, where: str, on_path: bool) -> list[str]:
    """The sites, or with `on_path` the paths, that `where` names; a member of a family stands for its family."""
    if not on_path:
        if where in splicer.sites:
            return [where]
        parsed = parse(where)
        if parsed.act or parsed.slice:
            raise SiteError(f"{where}: expected a site, family or member, got a coordinate or slice. Gate the whole and set entries.")
        return [site.address for site in find(parsed.site, splicer.sites)]
    term, reader = split_path(where)
    return [f"{t.address} -> {r.address}" for t in find(term, splicer.sites) for r in find(reader, splicer.sites)]


def rewire_at(splicer: Splicer, bound: Bound, address: str) -> Skip | None:
    """Applies a rewire at one site, family or path."""
    if "term" in bound.law.positional:
        return _rewire_path(splicer, bound, address)
    crossing = crossed(splicer, splicer.site(address))
    if crossing:
        raise PassError(
            f"{address}: expected a value that no path crosses, got one on the way of {crossing}, which has its factor from before. "
            "Apply this first, then the path."
        )
    site = splicer.site(address)
    if any(isinstance(value, Free) for value in bound.arguments.values()):
        if address in splicer.gates:
            return Skip("gated already")
        if masked(splicer, splicer.nodes[site.node]):
            return Skip("it is masked: 0 times -inf is NaN. Gate what it is before the mask")
    for guard in bound.law.guards:
        refusal = guard(splicer.value(site), **bound.arguments)
        if refusal is not None:
            return refusal
    if site.address not in splicer.families:
        _rewire_site(splicer, bound, site)
    elif "unedited" in bound.law.positional:
        return Skip("it is a family, whose members have no value of their own here: apply this to the site that it is a term of")
    else:
        _rewire_family(splicer, bound, splicer.families[site.address], site)
    return None


def masked(splicer: Splicer, node: fx.Node) -> bool:
    """True if the value may hold -inf on purpose: it is written into it, or added to it, on the way here."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        held = splicer.tensors.get(splicer.leaves[node.name].name) if node.name in splicer.leaves else None
        if held is not None and held.is_floating_point() and not held.is_meta and held.numel() and bool(held.isneginf().any()):
            return True
        if node.op == "call_function" and _name(node) in CARRYING:
            if any(isinstance(x, float) and x == -math.inf for x in (*node.args, *node.kwargs.values())):
                return True
            stack += node.all_input_nodes
    return False


def _name(node: fx.Node) -> str:
    return str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target))


def _free_leaves(splicer: Splicer, bound: Bound, address: str, like: Tensor, size: int | None) -> dict[str, fx.Node]:
    """Placeholders for the law's settable arguments, recorded as a gate."""
    leaves: dict[str, fx.Node] = {}
    for name, value in bound.arguments.items():
        if isinstance(value, Free):
            shape = (size,) if size is not None and name != "r" else ()
            tensor = torch.full(shape, value.value, dtype=like.dtype, device=like.device)
            leaves[name] = splicer.leaf(tensor, f"{address}.{name}", "gate")
    if leaves:
        names = {name: splicer.leaves[node.name].name for name, node in leaves.items()}
        if set(names) != {"g", "h", "r"}:
            raise PassError(f"{bound.law.name}: expected free arguments g, h and r, got {sorted(names)}. A gate has these three.")
        splicer.add_gate(GateRecord(address, names["g"], names["h"], names["r"], size))
    return leaves


def _given(splicer: Splicer, bound: Bound, address: str) -> tuple[dict[str, fx.Node], dict[str, Any]]:
    """The law's other arguments: tensors as constants, and plain values."""
    tensors = {k: splicer.leaf(v, f"{address}.{k}") for k, v in bound.arguments.items() if isinstance(v, Tensor)}
    return tensors, {k: v for k, v in bound.arguments.items() if not isinstance(v, Tensor | Free)}


def _rewire_site(splicer: Splicer, bound: Bound, site: Site) -> None:
    cut, scope = splicer.cut(site), splicer.outer_scope(site)
    leaves = _free_leaves(splicer, bound, site.address, splicer.value(site), None)
    tensors, plain = _given(splicer, bound, site.address)
    named = {**leaves, **tensors, **_unedited(splicer, bound, site.address, cut.node)}
    inputs = [cut.node, *named.values()]

    def law(read: Tensor, *values: Tensor) -> list[Tensor]:
        return [_checked(bound, bound.law.function(read, **dict(zip(named, values, strict=True)), **plain), read)]

    captured = capture(law, [node.meta["val"] for node in inputs], splicer.mode, site.address)
    image: dict[fx.Node, Any] = {}
    splicer.paste(captured, inputs, [captured.outputs[0]], scope, image)
    splicer.redirect(cut, _own_node(splicer, image[captured.outputs[0]], scope))
    _claim(splicer, bound, site.address, {"read": cut.node, **named})


def _unedited(splicer: Splicer, bound: Bound, address: str, node: fx.Node) -> dict[str, fx.Node]:
    """The un-edited copy of what is read, for a law that asks for it; claims about the site speak of the copy then."""
    if "unedited" not in bound.law.positional:
        return {}
    path = next(
        (c.site for c in splicer.claims if address in c.reads and c.site in splicer.sites and splicer.sites[c.site].kind == "path"), ""
    )
    if path:
        raise PassError(f"{address}: expected a value that no path starts from, got the term of {path}. Apply this first, then the path.")
    found = unedited(splicer, node)
    splicer.rebind_claims_of(address, lambda n: n if n.op == "placeholder" else unedited(splicer, n))
    return {"unedited": found}


def _claim(splicer: Splicer, bound: Bound, address: str, named: Mapping[str, fx.Node]) -> None:
    """The law's claims about what the site is now, its only term."""
    for law in bound.law.claims:
        arguments = Arguments()
        given = {name: arguments.add(node) for name, node in named.items()}
        arguments.positional = [given.pop(name) for name in bound.law.positional]
        arguments.keyword = given
        claim = claim_graph(splicer, law, address, len(splicer.steps), [("", (address, None))], arguments, {})
        if claim is not None:
            splicer.add_claim(claim)


def _own_node(splicer: Splicer, node: fx.Node, scope: tuple[str, ...]) -> fx.Node:
    if node.op != "placeholder":
        return node
    return splicer.call(splicer.after([node]), aten.alias.default, (node,), scope, node.meta["val"])


def _rewire_family(splicer: Splicer, bound: Bound, record: FamilyRecord, site: Site) -> None:
    cut, scope = splicer.cut_family(record), splicer.outer_scope(site)
    operands = [splicer.nodes[name] for name in record.operands]
    act = operands[record.act]
    leaves = _free_leaves(splicer, bound, site.address, act.meta["val"], record.size)
    tensors, plain = _given(splicer, bound, site.address)
    named = {**leaves, **tensors}
    dim = axis_dims(record.equation, record.axis)[record.act]
    behind = -1 - dim if dim is not None and dim < 0 else act.meta["val"].dim() - 1 - (dim or 0)

    def law(*values: Tensor) -> list[Tensor]:
        given = list(values[: len(operands)])
        free = dict(zip(named, values[len(operands) :], strict=True))
        wide = {k: _at_members(v, behind) if v.shape == (record.size,) and k != "r" else v for k, v in free.items()}
        given[record.act] = _checked(bound, bound.law.function(given[record.act], **wide, **plain), given[record.act])
        return [family.total(record.equation, given), given[record.act]]

    inputs = [*operands, *named.values()]
    captured = capture(law, [node.meta["val"] for node in inputs], splicer.mode, site.address)
    image: dict[fx.Node, Any] = {}
    splicer.paste(captured, inputs, list(captured.outputs), scope, image)
    total, coordinate = (image[node] for node in captured.outputs)
    splicer.redirect(cut, total)
    splicer.redirect_coordinate(record, coordinate)
    splicer.rebind_claims(cut.node, total)
    names = [*record.operands]
    names[record.act] = coordinate.name
    splicer.add_family(replace(record, operands=tuple(names), total=total.name))


def _at_members(value: Tensor, behind: int) -> Tensor:
    """A vector over members, with `behind` axes added after it: counted from the back, so that it may be given axes in front."""
    for _ in range(behind):
        value = value.unsqueeze(-1)
    return value


def _checked(bound: Bound, value: Any, like: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise PassError(f"{bound.law.name}: expected a value like what was read, {like.dtype} {list(like.shape)}, got {found}.")
    return value


def _own_family(splicer: Splicer, record: FamilyRecord, address: str, own: fx.Node, scope: tuple[str, ...]) -> fx.Node:
    """A path's own copy of a family, a family itself: what the sum is read as, and how much its own members differ from those.

    own + (sum over own coordinates - sum over the coordinates)        nothing, until a gate or an edit is put on its own
    """
    act = splicer.nodes[record.operands[record.act]]
    reading = (*scope, coordinate_tag(record.address))  # what is done to the coordinates later is done here too
    copies = [splicer.call(splicer.after([own]), aten.alias.default, (act,), reading, act.meta["val"]) for _ in range(2)]
    operands = [splicer.nodes[name] for name in record.operands]
    inputs = [own, *copies, *operands[: record.act], *operands[record.act + 1 :]]

    def law(own: Tensor, mine: Tensor, theirs: Tensor, *others: Tensor) -> list[Tensor]:
        mine, theirs = (family.total(record.equation, [*others[: record.act], one, *others[record.act :]]) for one in (mine, theirs))
        return [own + (mine - theirs), mine]

    captured = capture(law, [node.meta["val"] for node in inputs], splicer.mode, address)
    image: dict[fx.Node, Any] = {}
    splicer.paste(captured, inputs, list(captured.outputs), scope, image)
    value, total = (image[node] for node in captured.outputs)
    names = [*record.operands]
    names[record.act] = copies[0].name
    splicer.add_family(replace(record, address=address, operands=tuple(names), total=total.name))
    splicer.add_claim(same_sum(address, record.address, total, splicer.nodes[record.total], act, len(splicer.steps)))
    return value


def _rewire_path(splicer: Splicer, bound: Bound, address: str) -> Skip | None:
    term_address, reader_address = split_path(address)
    term, reader = splicer.site(term_address), splicer.site(reader_address)
    if address in splicer.sites:
        return Skip("this path is there already")
    cut = splicer.cut(reader)
    found = additive(splicer, term, cut.node)
    scope, tag = splicer.outer_scope(reader), splicer.tag(address)
    coefficient = factor_nodes(splicer, found, splicer.after([cut.node]), scope)
    # the path's own copy reads the term as the sum does, so what is done to the term later is done here too
    as_sum = (term.scope,) if term.scope is not None and "/+" in term.scope else ()
    own = splicer.call(splicer.after([cut.node]), aten.alias.default, (found.start,), (*scope, *as_sum), found.start.meta["val"])
    if term_address in splicer.families:
        own = _own_family(splicer, splicer.families[term_address], address, own, scope)
    inputs = [cut.node, found.start, own, *([coefficient] if isinstance(coefficient, fx.Node) else [])]

    def law(read: Tensor, term: Tensor, own: Tensor, *factor: Tensor) -> list[Tensor]:
        return [_checked(bound, bound.law.function(read, term, own, factor[0] if factor else coefficient), read)]

    captured = capture(law, [node.meta["val"] for node in inputs], splicer.mode, address)
    image: dict[fx.Node, Any] = {}
    splicer.paste(captured, inputs, [captured.outputs[0]], (*scope, tag, *as_sum), image)
    splicer.redirect(cut, image[captured.outputs[0]])
    splicer.name_site(address, own, "path", tag)
    splicer.add_claim(path_claim(splicer, address, found, captured, coefficient, len(splicer.steps)))
    return None
