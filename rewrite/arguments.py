"""Arguments of a law at a site: which graph values they are, and how to hand traced values back in the form the law expects.

Every tensor becomes an input of the captured graph: a model's own tensor stays its node, others become constants, a module's
parameters are inputs of its inlined body. Numbers stay numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from rewrite.errors import PassError, SiteError, TautomerError
from rewrite.law import Free, Law
from rewrite.ops import Match, Operand
from rewrite.ops import match as find_op
from rewrite.records import Site
from rewrite.splice import Splicer
from rewrite.sums import Sum, sum_behind
from rewrite.terms import Skip, part
from rewrite.weights import Weight

if TYPE_CHECKING:
    from rewrite.program import Program

SYM_SIZE = torch.ops.aten.sym_size.int
Rebuild = Callable[[Sequence[Any]], Any]


def module_of(address: str) -> str:
    """The module part of an address."""
    return re.split(r"@in|[:/]", address, maxsplit=1)[0]


@dataclass(frozen=True)
class SiteView:
    """What an argument that is a function of the site may look at; read-only.

    `program` is the program before this apply; `node` writes the site; `match` is the op of the law's class.
    """

    program: Program
    address: str
    node: fx.Node
    match: Match | None

    @property
    def module(self) -> str:
        """The path of the module whose value this is, or is inside of."""
        return module_of(self.address)

    @property
    def shape(self) -> torch.Size:
        """The shape of the site's value; symbolic where sizes are dynamic."""
        return self.node.meta["val"].shape


@dataclass
class Arguments:
    """A law's arguments at one site: graph `inputs`, and functions that rebuild them from traced values."""

    inputs: list[Any] = field(default_factory=list)
    positional: list[Rebuild] = field(default_factory=list)
    keyword: dict[str, Rebuild] = field(default_factory=dict)
    real: dict[str, Any] = field(default_factory=dict)  # keywords as given, for guards
    whole: fx.Node | None = None  # the value to split, if the site was split since its op wrote it
    scope: tuple[str, ...] | None = None  # where the new code belongs, if it takes the place of an op
    inside: dict[fx.Node, str] = field(default_factory=dict)  # the module's inputs among `inputs`, and the tag of what reads them as such
    key: list[Any] = field(default_factory=list)  # what, besides the inputs' shapes, the captured graph depends on

    def rebuild(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The law's (args, kwargs) with `values` in place of the graph inputs."""
        return [one(values) for one in self.positional], {name: one(values) for name, one in self.keyword.items()}

    def add(self, node: fx.Node) -> Rebuild:
        """Adds a graph input; the same node once only."""
        if node not in self.inputs:
            self.inputs.append(node)
        index = self.inputs.index(node)
        self.key.append(index)
        return lambda values: values[index]


def gather(splicer: Splicer, law: Law, site: Site, arguments: dict[str, Any], label: str) -> Arguments | Skip:
    """The arguments of `law` at `site`, or the reason why the law does not apply there. `label` prefixes new constants' names."""
    node = splicer.nodes[site.node]
    found = Arguments()
    match = None
    if law.of == "sum":
        behind = sum_behind(splicer, site, arguments.get("over"))
        if isinstance(behind, Skip):
            return behind
        _take_sum(found, behind)
    elif law.of is not None:
        match = find_op(law.of, node)
        for whole in splicer.before_splits(site) if isinstance(match, Skip) else ():
            earlier = find_op(law.of, whole)
            if not isinstance(earlier, Skip) and all(user.target is SYM_SIZE for user in whole.users):
                return Skip(f"its {law.of} op was split before, and nothing reads its own value any more: split one of those terms")
            if not isinstance(earlier, Skip):
                match, found.whole = earlier, whole
                break
        if isinstance(match, Skip):
            return match
        found.scope = tuple(tag for tag in match.node.meta.get("scope", ()) if "/+" not in tag)
        found.positional = [_canonical(splicer, found, value) for value in match.arguments]
    else:
        found.positional = [_value_named(splicer, found, site, name, first=i == 0) for i, name in enumerate(law.positional)]
    view = SiteView(splicer.program, site.address, node, match)
    if law.preparation is not None:
        arguments = law.preparation(view, arguments)
    for name, value in arguments.items():
        if name not in law.callables and callable(value) and not isinstance(value, nn.Module | Weight | sympy.Basic | Tensor):
            value = _called(value, view, f"{label}.{name}")
            if isinstance(value, Skip):
                return value
        if name in law.tensors:
            value = _as_tensor(value, splicer, node, f"{label}.{name}")
        found.real[name] = value
        found.keyword[name] = transport(splicer, found, value, f"{label}.{name}")
    return found


def _take_sum(found: Arguments, behind: Sum) -> None:
    """The arguments of a law of sums: the summands by name, the linear map that takes each to the site, and the constant."""
    given = {node: found.add(node) for node in behind.inputs}
    found.inside |= {one.node: one.site.scope for one in behind.summands if one.site and one.site.scope and "/+" in one.site.scope}
    outside = {node: given[node] for node in behind.map.outside}

    def summands(values: Sequence[Any]) -> dict[str, Tensor]:
        made = {one.name: one.value(lambda node: given[node](values)) for one in behind.summands}
        short = [one.name for one in behind.summands if not behind.full(one)]
        like = given[behind.map.start](values) if short else None
        return {name: value.expand(like.shape) if like is not None and name in short else value for name, value in made.items()}

    def through(values: Sequence[Any]) -> Callable[[Tensor], Tensor]:
        known = {node: one(values) for node, one in outside.items()}
        return lambda x: behind.map.linear(x, known)

    def constant(values: Sequence[Any]) -> Tensor | None:
        known = {node: one(values) for node, one in outside.items()}
        return None if behind.map.homogeneous else behind.map(torch.zeros_like(given[behind.map.start](values)), known)

    found.positional = [summands, through, constant]
    found.key.append(("sum", *(node.name for node in (behind.map.start, *behind.map.nodes, *given))))


def _called(function: Callable[..., Any], view: SiteView, what: str) -> Any:
    try:
        return function(view)
    except TautomerError:
        raise
    except Exception as error:
        raise PassError(f"{what}: expected a function of the site, got one that fails: {type(error).__name__}: {error}") from error


def _as_tensor(value: Any, splicer: Splicer, site: fx.Node, what: str) -> Any:
    """An argument that the law takes as a tensor: numbers in a list or array are made one, in the site's type."""
    like = site.meta["val"]
    if isinstance(value, list | tuple | np.ndarray):
        try:
            value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PassError(f"{what}: expected numbers in rows of one length, got others ({error}). Give a tensor.") from error
    if isinstance(value, Weight | Free | nn.Module):
        return value
    if not isinstance(value, Tensor):
        raise PassError(f"{what}: expected a tensor, got {type(value).__name__}. Give its numbers as a tensor or list.")
    if splicer.is_leaf(value):
        return value
    if value.is_floating_point() and not value.is_meta and not bool(value.isfinite().all()):
        raise PassError(f"{what}: expected finite numbers, got inf or nan. They would spoil every term.")
    return value.to(like.dtype) if value.is_floating_point() and like.is_floating_point() else value


def _canonical(splicer: Splicer, found: Arguments, value: Any) -> Rebuild:
    if isinstance(value, Operand):
        return found.add(splicer.operand(value))
    found.key.append(value)
    return lambda _: value


def _value_named(splicer: Splicer, found: Arguments, site: Site, name: str, *, first: bool) -> Rebuild:
    if first:
        return found.add(splicer.nodes[site.node])
    module = module_of(site.address)
    for address in (f"{module}@in:{name}", f"{module}@in", f"@in:{name}"):  # the module's own input, or the model's
        if address in splicer.sites and (name == "x" or address.endswith(f":{name}")):
            read = splicer.sites[address]
            node = splicer.nodes[read.node]
            if read.scope is not None and read.node != site.node:
                found.inside[node] = read.scope
            return found.add(node)
    inputs = [a.partition("@in:")[2] for a in splicer.sites if a.startswith((f"{module}@in:", "@in:"))]
    raise SiteError(f"{site.address}: expected a module input called {name!r}, got {inputs or 'none'}. Use x for the first tensor.")


def transport(splicer: Splicer, found: Arguments, value: Any, label: str) -> Rebuild:
    """How to rebuild a keyword argument; its tensors are added to `found.inputs`."""
    if isinstance(value, Tensor):
        return found.add(splicer.leaf(value, label))
    if isinstance(value, Weight):
        parts = [found.add(splicer.leaf(tensor, label)) for tensor in value.tensors]
        found.key.append(("weight", value.recipe))
        return lambda values: value.compute([one(values) for one in parts])
    if isinstance(value, nn.Module):
        return _inline(splicer, found, value, label)
    if isinstance(value, sympy.Basic):
        found.key.append(value)
        return lambda _: value
    if isinstance(value, list | tuple):
        items = [transport(splicer, found, item, f"{label}.{i}") for i, item in enumerate(value)]
        return lambda values: type(value)(one(values) for one in items)
    if isinstance(value, dict):
        pairs = {key: transport(splicer, found, item, f"{label}.{key}") for key, item in value.items()}
        return lambda values: {key: one(values) for key, one in pairs.items()}
    found.key.append((type(value).__name__, value if isinstance(value, int | float | str | bool | None) else id(value)))
    return lambda _: value


class Inlined:
    """A module whose parameters are traced values; called like the module, its attributes are the traced tensors."""

    def __init__(self, module: nn.Module, tensors: dict[str, Any], prefix: str = ""):
        self._module, self._tensors, self._prefix = module, tensors, prefix

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = {name.removeprefix(self._prefix): value for name, value in self._tensors.items() if name.startswith(self._prefix)}
        handles = [child.register_forward_hook(_recorder(self._prefix + name)) for name, child in self._module.named_modules() if name]
        try:
            return functional_call(self._module, own, args, kwargs, tie_weights=True)
        finally:
            for handle in handles:
                handle.remove()

    def __getattr__(self, name: str) -> Any:
        full = self._prefix + name
        if full in self._tensors:
            return self._tensors[full]
        value = getattr(self._module, name)
        return Inlined(value, self._tensors, full + ".") if isinstance(value, nn.Module) else value


def _recorder(path: str) -> Callable[..., None]:
    calls = 0

    def record(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal calls
        calls += 1
        if isinstance(output, Tensor) and output.is_floating_point():
            part(path if calls == 1 else f"{path}#{calls}", output)

    return record


def _inline(splicer: Splicer, found: Arguments, module: nn.Module, label: str) -> Rebuild:
    if module.training:
        raise PassError(f"{label}: expected a module in eval mode, got training mode. Call .eval() on it first.")
    named = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
    parts = {name: found.add(splicer.leaf(tensor, f"{label}.{name}")) for name, tensor in named.items()}
    found.key.append(("module", id(module)))
    return lambda values: Inlined(module, {name: one(values) for name, one in parts.items()})
