"""Claims: what a term is, as an equation captured beside the program, so that it can be proved without the pass's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewrite.arguments import Arguments
from rewrite.capture import Captured, capture, value_key
from rewrite.errors import PassError
from rewrite.law import ClaimLaw
from rewrite.records import Claim
from rewrite.run import needed
from rewrite.splice import Splicer
from rewrite.terms import Family, Terms, taking_notes

Labelled = Sequence[tuple[str, tuple[str, Family | None]]]  # key -> (address, family or None)


class ClaimBuilder:
    """One claim being captured: the values it takes, in order, and what each is bound to."""

    def __init__(self, splicer: Splicer, terms: Labelled, arguments: Arguments, law: ClaimLaw):
        self.splicer, self.terms, self.arguments, self.law = splicer, terms, arguments, law
        self.values: list[Any] = []
        self.bindings: list[tuple[str, str]] = []
        self.term_of: list[str | None] = []

    def add(self, value: Any, binding: tuple[str, str], term: str | None = None) -> int:
        self.values.append(value)
        self.bindings.append(binding)
        self.term_of.append(term)
        return len(self.values) - 1

    def add_node(self, name: str, term: str | None = None) -> int:
        return self.add(self.splicer.nodes[name].meta["val"], ("node", name), term)

    def add_terms(self) -> dict[str, list[int]]:
        slots = {}
        for key, (address, family) in self.terms:
            names = self.splicer.families[address].operands if family else (self.splicer.sites[address].node,)
            slots[key] = [self.add_node(name, address) for name in names]
        return slots

    def rebuild_terms(self, slots: dict[str, list[int]], values: Sequence[Any]) -> Terms:
        found: dict[str, Any] = {}
        for key, (_, family) in self.terms:
            parts = [values[i] for i in slots[key]]
            found[key] = Family(family.equation, *parts, axis=family.axis, act=parts[family.act]) if family else parts[0]
        return Terms(found.pop("", None), **found)

    def member_family(self) -> str:
        families = [address for _, (address, family) in self.terms if family]
        if not families:
            raise PassError(f"claim {self.law.sentence!r}: expected a family among the terms for member=, got none.")
        return families[0]


def claim_graph(
    splicer: Splicer, law: ClaimLaw, site: str, step: int, terms: Labelled, arguments: Arguments, cache: dict[Any, Any]
) -> Claim | None:
    """The captured claim, or None if its function says that it does not apply; equal claims at sites of one shape share one graph.

    Raises: PassError if it does not return two sides, or reads no term.
    """
    builder = ClaimBuilder(splicer, terms, arguments, law)
    slots = builder.add_terms()
    inputs = [builder.add_node(node.name) for node in arguments.inputs]
    member = None
    if law.member:
        with splicer.mode:
            member = builder.add(torch.empty((), dtype=torch.int64), ("member", builder.member_family()))
    key = (id(law), *map(value_key, builder.values), *map(repr, arguments.key), tuple(slots))
    if key not in cache:
        cache[key] = _capture(builder, slots, inputs, member)
    if cache[key] is None:
        return None
    captured, likes = cache[key]
    bound = [*builder.bindings, *(("fresh", builder.bindings[i][1]) for i in likes)]
    used = needed(captured.outputs)
    reads = {term for term, node in zip(builder.term_of, captured.inputs, strict=False) if term and node in used}
    if not reads:
        raise PassError(f"claim {law.sentence!r}: expected a claim that reads a term, got one that reads none. It would say nothing.")
    bindings = {node.name: binding for node, binding in zip(captured.inputs, bound, strict=True)}
    bindings |= {node.name: ("node", splicer.leaf(tensor, "constant").name) for node, tensor in captured.constants.items()}
    return Claim(law.sentence, site, step, captured.graph, bindings, tuple(sorted(reads)))


def _capture(
    builder: ClaimBuilder, slots: dict[str, list[int]], inputs: list[int], member: int | None
) -> tuple[Captured, list[int]] | None:
    law, splicer = builder.law, builder.splicer

    def sides(values: Sequence[Any], give: Any) -> list[Any] | None:
        args, kwargs = builder.arguments.rebuild([values[i] for i in inputs])
        extra = {law.member: values[member]} if law.member and member is not None else {}
        with taking_notes(give):
            return _two(law, law.function(builder.rebuild_terms(slots, values), *args, **kwargs, **extra))

    likes: list[int] = []

    def want(like: Tensor) -> Tensor:
        source = next((i for i, value in enumerate(builder.values) if value is like), None)
        if source is None or builder.bindings[source][0] != "node":
            raise PassError(f"claim {law.sentence!r}: expected fresh() of one of the claim's arguments, got another value.")
        likes.append(source)
        with splicer.mode:
            return torch.empty_like(like)

    with splicer.mode, torch.no_grad():
        if sides(builder.values, want) is None:  # a dry run: how many independent values are asked for, and of what shapes
            return None
    count = len(builder.values)

    def traced(*values: Any) -> list[Any]:
        waiting = iter(values[count:])
        return sides(values, lambda _: next(waiting)) or []

    captured = capture(traced, [*builder.values, *(builder.values[i] for i in likes)], splicer.mode, f"claim {law.sentence!r}")
    for node in captured.graph.nodes:
        node.meta = {"val": node.meta.get("val"), "scope": ()}
    return captured, likes


def _two(law: ClaimLaw, result: Any) -> list[Any] | None:
    if result is None:
        return None
    if not isinstance(result, tuple) or len(result) != 2 or not any(isinstance(side, Tensor) for side in result):
        raise PassError(f"claim {law.sentence!r}: expected two sides (left, right), got {type(result).__name__}. Return a pair.")
    like = next(side for side in result if isinstance(side, Tensor))
    return [side if isinstance(side, Tensor) else torch.full_like(like, side) for side in result]
