"""Applying passes: from a law bound to addresses to edits by the splicer, one site at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rewrite import family
from rewrite.address import find
from rewrite.arguments import Arguments, gather
from rewrite.capture import Captured, capture, value_key
from rewrite.errors import PassError
from rewrite.insertion import Insertion, Shape
from rewrite.law import Bound, Law
from rewrite.records import Step
from rewrite.rewiring import rewire_addresses, rewire_at
from rewrite.splice import Splicer
from rewrite.terms import Family, Skip, Terms, taking_notes
from rewrite.unshare import unshare

if TYPE_CHECKING:
    from rewrite.program import Program

Cache = dict[Any, Any]


def apply(program: Program, passes: Sequence[Bound]) -> Program:
    """`program` with `passes` applied in order; the graph is copied once.

    Raises: PassError when a pass applies at none of its sites, with the reasons.
    """
    splicer, cache = Splicer(program), {}
    for bound in passes:
        if not isinstance(bound, Bound):
            advice = "Unpack it: apply(*passes)." if isinstance(bound, list | tuple) else "Bind the law with .at."
            raise PassError(f"apply: expected passes such as direction.at(address, d=d), got {type(bound).__name__}. {advice}")
        applied: list[str] = unshare(splicer, bound) if "here" in bound.law.positional else []
        skipped: dict[str, str] = {}
        for address in [] if applied else addresses(splicer, bound):
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
