"""What a report says about a comparison, in words: what was compared, in which theory, with what scope, and where it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from rewrite.program import Program
from verify.assume import ROOTS
from verify.equations import equation
from verify.leaves import digest
from verify.match import WeightCheck
from verify.proof import Proof
from verify.regions import Composition, Region
from verify.report import ClaimLine
from verify.roles import Role
from verify.shadow import Case


def count(n: int, what: str) -> str:
    """`n` of something, in the plural if need be."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def subject(a: Program, b: Program) -> str:
    """What is compared."""
    if b.traced_from is a:
        return f"{b.header.model} after {count(len(b.steps), 'step')}, against its origin"
    return f"{a.header.model} against itself" if a is b else f"{b.header.model} against {a.header.model}"


def weights(check: WeightCheck, waived: bool) -> str:
    """How the weights compare."""
    if waived:
        return "any: the same function of weights, these or others"
    parts = {
        "the same tensor": check.same_object,
        "the same bits": check.same_bits,
        "different": len(check.different),
        "without values": len(check.unread),
    }
    return "matched: " + (", ".join(f"{n} {what}" for what, n in parts.items() if n) or "none")


def other_weights(check: WeightCheck, waived: bool) -> list[str]:
    """What stands against the weights being the same, by name."""
    against = {
        "other weights": check.different,
        "tied in one of them only": check.tied_in_one,
        "not the same tensor object, and no values": check.unread,
    }
    shown = {
        what: f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}" for what, names in against.items() if names
    }
    return [] if waived else [f"{what}: {names}" for what, names in shown.items()]


THEORIES = {
    "signs": "signs as quadratic characters",
    "exponents": "exp as a homomorphism",
    "maxima": "largest and smallest as functions of sets",
    "roots": ROOTS,
}


def theory(made: Sequence[Composition]) -> tuple[str, ...]:
    """The laws that the exact tier used."""
    decisions = [region.decision for composition in made for region in composition.regions]
    names = sorted({name for decision in decisions for name in decision.tally.calls})
    used = {decision.theory for decision in decisions if decision.equal}
    others = [text for name, text in THEORIES.items() if name in used]
    return ("field arithmetic", *others, *([f"functions known by their laws: {', '.join(names)}"] if names else []))


def way_out(refused: str) -> str:
    """What can be done about an op without a rule."""
    found = re.match(r"(?!aten\b)(\w+)\.(\w+)\.\w+ at .*: it has no rule$", refused)
    return f'; if it is elementwise, row-wise or linear, say so: assuming "{found[1]}::{found[2]} is elementwise"' if found else ""


def assumptions(made: Sequence[Composition], proofs: Sequence[Proof]) -> tuple[str, ...]:
    """What was taken on a user's word in what is called proved."""
    decisions = [region.decision for composition in made for region in composition.regions if region.proved]
    found = [ROOTS] if any(decision.theory == "roots" for decision in decisions) else []
    found += [text for decision in decisions for text in decision.tally.assumed]
    found += [text for proof in proofs if proof.proved for text in proof.assumed]
    return tuple(dict.fromkeys(found))


def literals(made: Sequence[Composition]) -> str:
    """Which literals were read as roots where that was needed."""
    regions = [region for composition in made for region in composition.regions if region.proved and region.decision.theory == "roots"]
    return listed(list(dict.fromkeys(text for region in regions for text in region.decision.tally.literals)), most=8)


def counts(made: Sequence[Composition], proofs: Sequence[Proof]) -> dict[str, int]:
    """How much was proved, and how."""
    regions = [region for composition in made for region in composition.regions if region.proved and not region.again]
    return {
        "distinct regions": len(regions),
        **({"claims": sum(proof.proved for proof in proofs)} if proofs else {}),
        "primes at most": max((region.decision.primes for region in regions), default=0),
        "expressions whose rules were compared with torch": sum(len(composition.sound) for composition in made),
        **({"too large for that": unchecked} if (unchecked := sum(len(composition.unchecked) for composition in made)) else {}),
    }


def steering(made: Sequence[Composition]) -> list[str]:
    """Where the true bits of ids decide in what was compared."""
    return sorted({name for composition in made for region in composition.regions for name in region.decision.tally.steering})


def inputs(a: Program, cases: Sequence[Case], roles: Mapping[str, Role], steered: bool) -> str:
    """The inputs that a proof is for, by role; `steered` if ids decide on masks or positions."""
    shown = []
    for node, leaf in a.leaves.items():
        value = cases[0].get(node)
        if leaf.kind == "input" and isinstance(value, Tensor):
            shown.append(f"{leaf.name} {list(value.shape)} ({_how(roles[leaf.name], [case[node] for case in cases], steered)})")
    return ", ".join(shown)


def _how(role: Role, values: Sequence[Tensor], steered: bool) -> str:
    if role == "mask":
        return f"a mask, {count(len({digest(value) for value in values}), 'pattern')} as given"
    return "any numbers" if role == "values" else "any ids that build the same masks and positions" if steered else "any ids"


def limits(a: Program, b: Program, made: Sequence[Composition]) -> dict[str, str]:
    """Further limits of what was proved: ids that steer, undefined elements, divisions of the rewrite's own."""
    tallies = [region.decision.tally for composition in made for region in composition.regions]
    old = set(a.nodes) if b.traced_from is a or a is b else set()
    steered = steering(made)
    divisions = sorted({name for tally in tallies for name in tally.divisions} - old)
    undefined = max((tally.undefined for tally in tallies), default=0)
    return {
        "steering": f"{count(len(steered), 'place')} where ids build masks or positions, for the ids given only: {listed(steered)}"
        if steered
        else "",
        "undefined": f"{undefined} elements undefined in one of them, left out" if undefined else "",
        "divisions": f"wherever these are defined: {listed(divisions)}" if divisions else "",
    }


def not_finite(at: str, made: Sequence[Composition]) -> list[str]:
    """Why what is equal in exact arithmetic is not proved: on the inputs run, the second is no number where the original is one."""
    divisions = sorted({name for composition in made for region in composition.regions for name in region.decision.tally.divisions})
    return [
        f"equal wherever both are defined, but on inputs run {at} of the second is infinite or NaN where that of the first is not",
        f"divisions, which may be by zero: {listed(divisions)}"
        if divisions
        else "no division: it may be an overflow, or a function beyond its domain",
    ]


def even_masks(masks: Mapping[str, float]) -> str:
    """Which masks that claims read have one value everywhere."""
    shown = [f"{name} is {value:g} everywhere" for name, value in masks.items()]
    return f"{listed(shown)}: what claims say of other masks was not tried; give some with inputs=" if shown else ""


def steered_claims(proofs: Sequence[Proof]) -> str:
    """Where claims are for the ids given only."""
    sites = dict.fromkeys(proof.claim.site for proof in proofs if proof.proved and proof.steered)
    return f"for the masks and positions that the ids given build: {listed(list(sites))}" if sites else ""


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names of many."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def not_covered(made: Sequence[Composition], roles: Mapping[str, Role], gradients: bool) -> tuple[str, ...]:
    """What a verdict says nothing about."""
    casts = {name for composition in made for region in composition.regions for name in region.decision.tally.narrowings}
    return (
        "tracing: outputs and one vector-Jacobian product were compared with the model on floats, not proved",
        "rounding: measured on the inputs run, not proved",
        "other shapes" + (", other mask patterns" if "mask" in roles.values() else ""),
        *([f"{count(len(casts), 'cast')} to shorter floats, taken as exact"] if casts else []),
        *([] if gradients else ["gradients: not asked for"]),
    )


def claim_line(program: Program, proof: Proof) -> ClaimLine:
    """One row of the claims table."""
    status: Literal["proved", "fails", "undecided"] = "proved" if proof.proved else "undecided" if proof.refused else "fails"
    members = ""
    if proof.members:
        tried, total = proof.members
        members = f"all {total} members" if tried == total else f"{tried} members sampled of {total}"
    return ClaimLine(proof.claim.site, proof.claim.sentence, equation(program, proof.claim), status, members, proof.refused or "")


def place(made: Composition) -> tuple[str, str]:
    """The first diverging site, and the step that rewrote it or something in its region."""
    region = made.diverging
    if region is None:
        return "", ""
    return region.pair.name, _step(made, region)


def _step(made: Composition, region: Region) -> str:
    """The last step of the rewritten program that was applied at a site inside the region."""
    side, b = made.b, made.b.program
    cuts = {side.representative[cut.pair.b]: cut for cut in region.cuts}
    inside = {node.name for node in side.region(side.representative[region.pair.b], cuts)} - set(cuts)
    sites = {address for address, site in b.sites_by_address.items() if side.representative.get(site.node) in inside}
    sites |= {split.site for split in b.splits if side.representative[split.total] in inside} | {region.pair.name}
    for number, step in reversed(list(enumerate(b.steps, 1))):
        touched = [site for site in step.sites if site in sites]
        if touched:
            return f"{number} of {len(b.steps)}, {step.name} at {touched[0]}"
    return ""
