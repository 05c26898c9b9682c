"""Liveness: does an edit at a site reach an output at all? Decided in exact arithmetic with random weights, not on floats.

A term that happens to be zero on an input is alive: its effect there is zero. A term is dead if no weights and inputs give it an effect:
because nothing reads it, or because something computed from the edited copy takes the edit back, as a remainder y - f does that reads
the edited f. A random edit that changes no output is such a term, up to the usual error of exact arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rewrite import SiteError, TautomerError, rewire
from rewrite.address import indices, parse
from rewrite.program import Program
from rewrite.records import SplitRecord
from verify.interpret import same
from verify.regions import Side, sub_key
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


def addresses_of(program: Program, key: bytes) -> list[str]:
    """Every term, path and named inside, and every member of each family up to 64 members, else a keyed sample."""
    found = [site.address for site in program.sites_by_address.values() if site.kind in ("term", "path", "part")]
    for record in program.families.values():
        members = range(record.size)
        if record.size > ALL_MEMBERS:
            members = sorted(random.Random(key + record.address.encode()).sample(range(record.size), SAMPLED))
        found += [f"{record.address}[{member}]" for member in members]
    return found


def liveness(
    program: Program, side: Callable[[Program], Side], key: bytes, addresses: Iterable[str] | None = None, progress: Callable[[str], None] | None = None
) -> list[Liveness]:
    """For each address (by default every term, part, path and family member) whether an edit there can reach an output."""
    checker = _Checker(program, side, sub_key(key, "liveness"))
    found = []
    for address in addresses_of(program, key) if addresses is None else addresses:
        if progress:
            progress(f"liveness of {address}")
        found.append(checker.check(address))
    return found


class _Checker:
    """Shares what the edits have in common: whether each split's own sum reaches an output."""

    def __init__(self, program: Program, side: Callable[[Program], Side], key: bytes):
        self.program, self.side, self.key = program, side, key
        self.home = {term: split for split in program.splits for term in split.terms}
        self.known: dict[str, Liveness] = {}

    def check(self, address: str) -> Liveness:
        site = address if address in self.program.sites_by_address else parse(address).site
        split = self._split_of(site)
        try:
            edited = _edited(self.program, address, site)
        except SiteError as error:
            return Liveness(address, False, f"nothing reads it ({error})")
        wanted = [split.total] if split else None
        if not self._differs(edited, wanted):
            return Liveness(address, False, self._why(site, split))
        if split is None:
            return Liveness(address, True)
        above = self._sum(split)
        return Liveness(address, above.alive, above.reason)

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
            edited = _edited(self.program, split.site, split.site)
            alive = self._differs(edited, [outer.total] if outer else None)
            reason = "" if alive else f"{split.site} itself reaches no output"
            result = Liveness(split.site, alive, reason)
            self.known[split.total] = self._sum(outer) if alive and outer else result
        return self.known[split.total]

    def _differs(self, edited: Program, wanted: list[str] | None) -> bool:
        before, after = self.side(self.program), self.side(edited)
        names = wanted or [node.name for node in self.program.outputs if hasattr(node, "name")]
        image = [node.name for node in edited.outputs if hasattr(node, "name")] if wanted is None else names
        world = World(self.key, PRIMES)
        for a, b in zip(names, image, strict=True):
            if not same(before.value(world, {}, a), after.value(world, {}, b), world).equal:
                return True
        return False

    def _why(self, site: str, split: SplitRecord | None) -> str:
        if split is None:
            return "no output depends on it: what reads it takes the edit back, or reaches no output"
        others = [term for term in split.terms if term != site]
        return f"the sum at {split.site} does not change with it: {', '.join(others) or 'another term'} is computed from the edited copy and takes the edit back"


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


