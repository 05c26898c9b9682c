"""What is known of a difference: where each value differs and how, and the witness, made smaller."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from verify.ladder import Sides
from verify.match import WeightCheck
from verify.regions import Composition
from verify.roles import Role
from verify.runs import Setting, lead, places
from verify.witnesses.pattern import EXACTLY, FLOATS, Difference, axis_names, by_mask, of_weights
from verify.witnesses.shrink import RUNS, shrink
from verify.witnesses.witness import Witness

SMALL, FEW_RUNS = 5_000_000, 24  # weights up to which a run is quick, and how many runs there are beyond
MOST_WEIGHTS = 4


class Question(Protocol):
    """What has to be known of a comparison."""

    sides: Sides
    roles: dict[str, Role]
    weights: WeightCheck
    any_weights: bool
    compositions: list[Composition]
    key: bytes


def explained(
    job: Question, differing: Composition | None, witness: Witness | None, site: str, subject: str
) -> tuple[tuple[Difference, ...], Witness | None]:
    """How the first diverging site, the outputs and the weights differ, and the witness made smaller and with all that it is about.

    Values are compared in float64 on the witness as it was found; without one, or where the site agrees on it, exact arithmetic tells.
    """
    made = differing or job.compositions[-1]
    found: tuple[Difference, ...] = ()
    if witness is not None and not witness.of_gradients:
        setting = set_up(job.sides, made, witness)
        found = _on_witness(setting, made, witness)
        witness = shrink(setting, witness, job.roles, _runs(job.sides))
    if site and not any(difference.kind == "site" for difference in found):
        found = (*_exact(made), *found)
    if witness is not None:
        witness = replace(witness, site=site, subject=subject, key=job.key.hex(), any_weights=job.any_weights)
    return (*found, *(() if job.any_weights else _of_weights(job.sides, job.weights))), witness


def _runs(sides: Sides) -> int:
    """How often two programs of this size may be run to make a witness smaller."""
    weights = sum(tensor.numel() for program in (sides.a, sides.b) for tensor in program.tensors.values())
    return RUNS if weights <= 2 * SMALL else FEW_RUNS


def _on_witness(setting: Setting, made: Composition, witness: Witness) -> tuple[Difference, ...]:
    region, outputs = made.diverging, [output[1:] for output in setting.sides.outputs]
    site = (region.pair.name, region.pair.a, region.pair.b) if region else None
    if site is None or site[1:] not in outputs:
        return setting.differences(witness.values, site, FLOATS)
    found = setting.differences(witness.values, None, FLOATS)
    return tuple(replace(difference, kind="site") if difference.place == site[0] else difference for difference in found)


def set_up(sides: Sides, made: Composition, witness: Witness) -> Setting:
    """Where the values of a witness go."""
    if witness.reachable:
        return Setting(sides, made.a.case)
    assert made.diverging is not None
    return Setting(sides, made.a.case, tuple(p for p in places(made, made.diverging.cuts) if p.address in witness.values))


def _exact(made: Composition) -> tuple[Difference, ...]:
    region = made.diverging
    agreement = region.decision.agreement if region else None
    if region is None or agreement is None or not agreement.unequal:
        return ()
    name, seen = region.pair.name, EXACTLY
    if agreement.where is None:
        return (Difference(name, "site", (), agreement.unequal, agreement.elements, "everywhere", seen=seen),)
    difference = by_mask(name, agreement.where, axis_names(agreement.where.shape, *lead(made.a.case)), seen)
    return (difference,) if difference else ()


def _of_weights(sides: Sides, check: WeightCheck) -> tuple[Difference, ...]:
    """How the first matched tensors that are not the same differ, by their names in the first program."""
    theirs = dict(sides.matching.pairs)
    found = [of_weights(name, sides.a.tensors[name], sides.b.tensors[theirs[name]]) for name in check.different[:MOST_WEIGHTS]]
    return tuple(difference for difference in found if difference is not None)
