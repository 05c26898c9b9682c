"""Liveness: does an edit at a site reach an output at all? Decided in exact arithmetic with random weights, not on floats.

A term that happens to be zero on an input is alive: its effect there is zero. A term is dead if no weights and inputs give it an effect:
because nothing reads it, or because something computed from the edited copy takes the edit back, as a remainder y - f does that reads
the edited f. A random edit that changes no output is such a term, up to the usual error of exact arithmetic.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, fx

from rewrite import SiteError, TautomerError, rewire
from rewrite.address import indices, parse
from rewrite.program import Program
from rewrite.records import SplitRecord
from verify.cases import given_cases
from verify.decide import sub_key
from verify.interpret import same
from verify.leaves import leaf_values
from verify.match import match
from verify.regions import value_at
from verify.roles import roles_of
from verify.shadow import Case
from verify.structure import Side
from verify.world import World

ALL_MEMBERS, SAMPLED, PRIMES = 64, 16, 2


@dataclass(frozen=True)
class Liveness:
    """What was found for one address: alive, or the reason why no edit there reaches an output."""

    address: str
    alive: bool
    reason: str = ""


@rewire
def scaled(read: Tensor, *, factor: Tensor) -> Tensor:
    """`read` times a factor. Shapes: read [...], factor []."""
    return factor * read


@rewire
def member_scaled(read: Tensor, *, factor: Tensor, chosen: Tensor) -> Tensor:
    """`read` with the chosen members times a factor. Shapes: read [..., members, ...], factor [], chosen [members]."""
    return read + chosen * (factor - 1) * read


def liveness(
    program: Program,
    addresses: Iterable[str] | None = None,
    *,
    inputs: Any = None,
    roles: Mapping[str, str] | None = None,
    seed: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Liveness]:
    """For each address (by default every term, part, path and family member) whether an edit there can reach an output.

    Of families of more than 64 members a sample is tried. `inputs`, `roles` and `seed` as for `equivalence`.
    """
    key = secrets.token_bytes(16) if seed is None else blake2b(str(seed).encode(), digest_size=16).digest()
    checker = _Checker(program, given_cases(program, inputs)[0], roles, key)
    found = []
    for address in addresses_of(program, key) if addresses is None else addresses:
        if progress:
            progress(address)
        found.append(checker.check(address))
    return found


def addresses_of(program: Program, key: bytes) -> list[str]:
    """Every term, path and named inside, and every member of each family up to 64 members, else a keyed sample."""
    found = [site.address for site in program.sites_by_address.values() if site.kind in ("term", "path", "part")]
    for record in program.families.values():
        members = range(record.size)
        if record.size > ALL_MEMBERS:
            members = sorted(random.Random(key + record.address.encode()).sample(range(record.size), SAMPLED))
        found += [f"{record.address}[{member}]" for member in members]
    return found


class _Checker:
    """Shares what the edits have in common: the program's own values, and whether each split's own sum reaches an output."""

    def __init__(self, program: Program, case: Case, roles: Mapping[str, str] | None, key: bytes):
        self.program, self.case, self.roles = program, case, roles_of(program, case, roles)
        self.world = World(sub_key(key, "liveness"), PRIMES)
        self.home = {term: split for split in program.splits for term in split.terms}
        self.own = self._side(program)
        self.known: dict[str, Liveness] = {}

    def check(self, address: str) -> Liveness:
        """What is found for one address."""
        site = address if address in self.program.sites_by_address else parse(address).site
        split = self._split_of(site)
        try:
            edited = _edited(self.program, address, site)
        except SiteError as error:
            return Liveness(address, False, f"nothing reads it ({error})")
        if not self._differs(edited, split):
            return Liveness(address, False, self._why(site, split))
        above = self._sum(split) if split else None
        return Liveness(address, True) if above is None else Liveness(address, above.alive, above.reason)

    def _split_of(self, site: str) -> SplitRecord | None:
        """The split whose sum an edit at `site` goes through: its own if it is a term, the one around it if it is inside a term."""
        if site in self.home:
            return self.home[site]
        around = [term for term in self.home if site.startswith(term + "/")]
        return self.home[max(around, key=len)] if around else None

    def _sum(self, split: SplitRecord) -> Liveness:
        """Whether the sum of a split reaches an output; asked once a split."""
        if split.total not in self.known:
            outer = self.home.get(split.site)
            alive = self._differs(_edited(self.program, split.site, split.site), outer)
            result = Liveness(split.site, alive, "" if alive else f"{split.site} itself reaches no output")
            self.known[split.total] = self._sum(outer) if alive and outer else result
        return self.known[split.total]

    def _differs(self, edited: Program, split: SplitRecord | None) -> bool:
        """True if the edit changes the sum of `split`, or without one an output."""
        side = self._side(edited)
        if split is not None:
            names = [(split.total, split.total)]
        else:
            outputs = zip(self.program.outputs, edited.outputs, strict=True)
            names = [(x.name, y.name) for x, y in outputs if isinstance(x, fx.Node) and isinstance(y, fx.Node)]
        return any(not same(self._value(self.own, x), self._value(side, y), self.world).equal for x, y in names)

    def _side(self, program: Program) -> Side:
        labels = match(self.program, program).b
        return Side(program, leaf_values(program, labels, self.case, self.roles, open_gates=True), self.case)

    def _value(self, side: Side, name: str) -> Any:
        want = side.representative[name]
        return value_at(side, want, {}, self.world)

    def _why(self, site: str, split: SplitRecord | None) -> str:
        if split is None:
            return "no output depends on it: what reads it takes the edit back, or reaches no output"
        others = ", ".join(term for term in split.terms if term != site) or "another term"
        return f"the sum at {split.site} does not change with it: {others} is computed from the edited copy and takes the edit back"


def _edited(program: Program, address: str, site: str) -> Program:
    node = program.nodes[program.sites_by_address[site].node]
    dtype = node.meta["val"].dtype
    factor = torch.full((), 0.5, dtype=dtype)
    if address == site:
        return program.apply(scaled.at(address, factor=factor))
    record = program.families[site]
    member = parse(address).member
    chosen = torch.zeros(record.size, dtype=torch.int64)
    chosen[indices(member or ":", record.size, address)] = 1
    return program.apply(member_scaled.at(site, factor=factor, chosen=chosen))


def raise_unless_alive(found: Iterable[Liveness]) -> None:
    """Raises: TautomerError naming the first dead site and what cancels it."""
    dead = [one for one in found if not one.alive]
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        raise TautomerError(f"{dead[0].address}{more}: expected an edit that can reach an output, got one that cannot: {dead[0].reason}.")
