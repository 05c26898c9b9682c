"""Float runs of two programs from given values, at the model's inputs or at places inside; how far apart they are, and how they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rewrite.run import needed
from verify.gap import SHRINK, Gap, gap
from verify.ladder import DIFFERENT, Sides, nearer
from verify.regions import Composition, Cut
from verify.shadow import REFUSALS, CannotLift, Case, sweep
from verify.structure import Side
from verify.witnesses.pattern import Difference, axis_names, by_floats
from verify.witnesses.steady import jumps, steady

Values = Mapping[str, Tensor]
PRECISIONS = (torch.float32, torch.float64)
SEEN = 16.0  # ulp of float32 by which a difference is seen there, too
FAILURES = (CannotLift, *REFUSALS)


@dataclass(frozen=True)
class Place:
    """One value inside that both programs read: its address, every node of either that holds it, and its shape."""

    address: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    shape: tuple[int, ...]


def places(made: Composition, cuts: Sequence[Cut]) -> tuple[Place, ...]:
    """The cuts of a region as places: cuts that hold one value are one, and equal expressions are one value."""
    found = []
    for number in dict.fromkeys(cut.place for cut in cuts):
        mine = [cut for cut in cuts if cut.place == number]
        ours = equal_nodes(made.a, [cut.pair.a for cut in mine])
        theirs = equal_nodes(made.b, [cut.pair.b for cut in mine])
        found.append(Place(mine[0].pair.name, ours, theirs, mine[0].shape))
    return tuple(found)


def equal_nodes(side: Side, names: Sequence[str]) -> tuple[str, ...]:
    """All the nodes of a side that are the same expression as one of some."""
    firsts = {side.representative[name] for name in names}
    return tuple(name for name, first in side.representative.items() if first in firsts)


@dataclass(frozen=True)
class Setting:
    """Where values are put: at the inputs by their names, or at `places` by address. `case` holds what is not put anywhere."""

    sides: Sides
    case: Case
    places: tuple[Place, ...] = ()

    def values(self, case: Case) -> dict[str, Tensor]:
        """The tensors of a case, by the names of the inputs."""
        return {self.sides.a.leaves[node].name: value for node, value in case.items() if isinstance(value, Tensor)}

    def ends(self, values: Values) -> tuple[Case, Case]:
        """What either program is given, by its own nodes."""
        if not self.places:
            ours = {node: values.get(self.sides.a.leaves[node].name, value) for node, value in self.case.items()}
            return ours, self.sides.of_b(ours)
        ours = {**self.case, **{node: values[place.address] for place in self.places for node in place.a}}
        theirs = {**self.sides.of_b(self.case), **{node: values[place.address] for place in self.places for node in place.b}}
        return ours, theirs

    def pairs(self, values: Values, pairs: Sequence[tuple[str, str, str]], rounded: bool = False) -> list[tuple[str, list[Any]]]:
        """What (name, node of a, node of b) are in float32 and in float64: (p32, q32, p64, q64) under each name. `rounded` as in `sweep`.

        Raises: one of FAILURES where a program does not run on these values.
        """
        ours, theirs = self.ends(values)
        p = [sweep(self.sides.a, [ours], [x for _, x, _ in pairs], d, rounded=rounded)[0] for d in PRECISIONS]
        asked, other = [y for _, _, y in pairs], self.sides.override
        q = [sweep(self.sides.b, [theirs], asked, d, tensors=other, rounded=rounded)[0] for d in PRECISIONS]
        return [(name, [p[0][x], q[0][y], p[1][x], q[1][y]]) for name, x, y in pairs]

    def gap(self, values: Values) -> Gap:
        """The worst gap over the outputs. Raises: one of FAILURES."""
        return nearer(self.sides, lambda rounded: self._gap(values, rounded))

    def _gap(self, values: Values, rounded: bool) -> Gap:
        total = Gap()
        for name, runs in self.pairs(values, self.sides.outputs, rounded):
            p32, q32, p64, q64 = runs
            total = total.worst(gap(p32, q32, p64, q64, name))
        return total

    def differs(self, values: Values) -> Gap | None:
        """The gap, if it is a finite one beyond what rounding explains; ties that rounding may break are not looked for."""
        try:
            found = self.gap(values)
        except FAILURES:
            return None
        return found if shows(found) else None

    def parts(self, values: Values) -> Gap | None:
        """The same, and None where rounding may have done it: by breaking a tie in another way, or where float32 does not see it.

        Float32 sees what is more than all that it lost itself.
        """
        found = self.differs(values)
        seen = found is not None and found.ulp > SEEN and found.rho * SHRINK > 1 and not jumps(self.sides.a) and not jumps(self.sides.b)
        return found if found and (seen or steady(self.sides, *self.ends(values))) else None

    def differences(self, values: Values, site: tuple[str, str, str] | None, seen: str) -> tuple[Difference, ...]:
        """How the programs differ at a site, if it is given, and at the outputs."""
        sites = [site] if site else []
        try:
            runs = self.pairs(values, [*sites, *self.sides.outputs])
        except FAILURES:
            return ()
        found = []
        for number, (name, four) in enumerate(runs):
            if all(isinstance(x, Tensor) for x in four):
                kind: Literal["site", "output"] = "site" if number < len(sites) else "output"
                found.append(by_floats(name, kind, four, axis_names(four[2].shape, *lead(self.ends(values)[0])), seen))
        return tuple(difference for difference in found if difference is not None)

    def read(self) -> tuple[Place, ...]:
        """The places that the outputs read on either side, when all of them are given."""
        reach = [
            {node.name for node in needed([program.nodes[top] for top in tops], {program.nodes[name] for name in known})}
            for program, tops, known in (
                (self.sides.a, [x for _, x, _ in self.sides.outputs], [n for place in self.places for n in place.a]),
                (self.sides.b, [y for _, _, y in self.sides.outputs], [n for place in self.places for n in place.b]),
            )
        ]
        return tuple(p for p in self.places if not reach[0].isdisjoint(p.a) or not reach[1].isdisjoint(p.b))


def shows(found: Gap) -> bool:
    """True for a finite difference beyond rounding: an overflow in one of two equal programs is no witness."""
    return found.rho > DIFFERENT and math.isfinite(found.largest)


def lead(case: Case) -> tuple[int | None, int | None]:
    """The sizes of the batch and sequence axes of the inputs, where there are such."""
    for value in case.values():
        if isinstance(value, Tensor) and value.dim() >= 2:
            sequence = value.dim() == (3 if value.is_floating_point() else 2)
            return value.shape[0], value.shape[1] if sequence else None
    return None, None
