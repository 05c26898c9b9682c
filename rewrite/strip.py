"""From an exported graph to a program graph: what export added goes, what is a no-op goes, what is fragile is made robust.

Before the graph is made functional, eval-mode dropout and casts to what a tensor already is become `alias`: in eager mode they hand
on the very same tensor, so later in-place writes must go through. Afterwards an alias stays only where it alone tells a module's output
from a value that others read too.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from rewrite.ops import same_shape
from rewrite.readers import reads
from rewrite.records import Site

aten = torch.ops.aten
ALIAS = aten.alias.default
DROPOUTS = {getattr(aten, name).default for name in ("dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")}
CASTS = {aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default, aten.contiguous.default}
ASSERTIONS = ("_assert_", "sym_constrain_range", "_check", "_guards_fn")
TO_RESHAPE = {aten.view.default, aten._unsafe_view.default}  # the strides seen here need not be those of a later run


def strip(exported: ExportedProgram) -> None:
    """Removes assertions from an exported graph and turns its no-ops into aliases; names stay as they are."""
    for node in reversed(list(exported.graph.nodes)):
        if node.op != "call_function":
            continue
        if not node.users and _name(node).startswith(ASSERTIONS):
            exported.graph.erase_node(node)
        elif node.target is aten.detach_.default:
            node.target = aten.detach.default
        elif _hands_on(node):
            node.target, node.args, node.kwargs = ALIAS, (node.args[0],), {}
    exported.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _mutates(node))


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable


def _hands_on(node: fx.Node) -> bool:
    """True if `node` returns its argument itself."""
    if node.target in DROPOUTS:
        return not (node.args[2] if len(node.args) > 2 else node.kwargs.get("train", True))
    if node.target not in CASTS or node.kwargs.get("copy") or node.kwargs.get("memory_format") is not None:
        return False
    if any(value is True for value in node.args[1:]):
        return False  # a copy asked for by position; non_blocking is caught too, which costs nothing
    source, result = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    if not isinstance(result, Tensor):
        return False
    same = (source.dtype, source.device, source.layout) == (result.dtype, result.device, result.layout)
    return same and same_shape(source.stride(), result.stride())


def robust(target: Any) -> Any:
    """The op that does what `target` does in a functional graph, whatever the strides."""
    return aten.reshape.default if target in TO_RESHAPE else target


def merge_aliases(graph: fx.Graph, sites: dict[str, Site]) -> None:
    """Removes every alias without which each site would still be read by the same readers; `sites` is brought up to date.

    An input site that only the alias read is from then on read by all who read the value.
    """
    at: dict[str, list[str]] = defaultdict(list)
    for site in sites.values():
        at[site.node].append(site.address)
    for node in reversed(list(graph.nodes)):
        if node.target is not ALIAS:
            continue
        source: Any = node.args[0]
        _return_escaped(node, source, sites, at)
        new = _merged(node, source, [sites[address] for address in (*at[source.name], *at[node.name])])
        if new is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
            sites.update((site.address, site) for site in new)
            at[source.name] = [site.address for site in new]


def _return_escaped(alias: fx.Node, source: fx.Node, sites: dict[str, Site], at: dict[str, list[str]]) -> None:
    """Gives readers of `alias` outside of the call that made it back to `source`, unless the call returned it.

    Export knows tensors by identity: a cast inside a module that hands on the very same tensor takes over all of its later readers, the
    residual stream among them. They would pass for readers of the module's input.
    """
    call = alias.meta["scope"][-1] if alias.meta.get("scope") else None
    if call is None or any(sites[address].kind == "output" for address in at[alias.name]):
        return
    escaped = [user for user in alias.users if call not in user.meta.get("scope", ())]
    for address in [a for a in at[alias.name] if any(reads(user, sites[a]) for user in escaped)]:
        at[alias.name].remove(address)
        at[source.name].append(address)
        sites[address] = replace(sites[address], node=source.name)
    for user in escaped:
        user.replace_input_with(alias, source)


def _merged(alias: fx.Node, source: fx.Node, sites: list[Site]) -> list[Site] | None:
    """The sites as they are once `alias` is gone, or None if some site's readers would change."""
    after = [user for user in source.users if user is not alias] + list(alias.users)
    result = []
    for site in sites:
        before = {user for user in (alias if site.node == alias.name else source).users if reads(user, site)}
        if alias in before:
            before = (before - {alias}) | set(alias.users)
        for candidate in (replace(site, node=source.name), replace(site, node=source.name, scope=None)):
            if {user for user in after if reads(user, candidate)} == before:
                result.append(candidate)
                break
        else:
            return None
    return result


def is_random(node: fx.Node) -> bool:
    """True if a run of `node` draws random numbers."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    schema = [argument.name for argument in node.target._schema.arguments]
    given: dict[str, Any] = {**dict(zip(schema, node.args, strict=False)), **node.kwargs}
    if "dropout_p" in schema:
        return bool(given.get("dropout_p", 0.0))
    if "train" in schema:
        return bool(given.get("train", False))
    return not ("training" in schema and not given.get("training", False))
