"""What is ablated: addresses as targets, each one or several places of a program, and the passes that the addresses need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from analysis.checks import listed
from passes import heads, neurons, paths
from rewrite import InputError, Program
from rewrite.address import Address, coordinate, find, indices, matching, parse, slices
from rewrite.paths import split_path
from rewrite.poke import expand
from rewrite.terms import axis_dims

FAMILIES = {"head": heads, "neuron": neurons}  # the passes that make a family of that name


@dataclass(frozen=True)
class Part:
    """One place: the value at `edited` (a site, or a family's coordinate), or of it some members, or some entries."""

    edited: str
    member: int | None = None
    axis: int | None = None  # of the members, in the coordinate
    index: str | None = None  # of the entries, as slices are written


@dataclass(frozen=True)
class Target:
    """What is ablated at once, under its address."""

    address: str
    parts: tuple[Part, ...]

    @property
    def edited(self) -> tuple[str, ...]:
        """The addresses whose values are edited, in order and once each."""
        return tuple(dict.fromkeys(part.edited for part in self.parts))


def prepared(program: Program, addresses: str | Iterable[str], where: str) -> tuple[Program, list[str]]:
    """The program with the passes that the addresses need, and the addresses in full.

    Raises: InputError for no address, SiteError for one that matches nothing, PassError for a pass that does not apply.
    """
    names = [parse(address).of(" -> ".join(split_path(address))) if "->" in address else address for address in listed(addresses, where)]
    program = _rewritten(program, tuple(names))
    full = [one for address in names for one in expand(address, program.sites_by_address)]
    return program, list(dict.fromkeys(full))


@lru_cache(maxsize=4)
def _rewritten(program: Program, addresses: tuple[str, ...]) -> Program:
    """The same program for the same addresses, so that it is proved once."""
    for address in addresses:
        program = _with_passes(program, address)
    return program


def _with_passes(program: Program, address: str) -> Program:
    known = program.sites_by_address
    if matching(address, known):
        return program
    if "->" in address:
        term, reader = split_path(address)
        program = _with_passes(program, term)
        known = program.sites_by_address
        wanted = [f"{t.address} -> {r.address}" for t in find(term, known) for r in find(reader, known)]
        return program.apply(paths.at([path for path in wanted if path not in known]))
    site, _, name = parse(address).site.rpartition("/")
    if name in FAMILIES and not matching(f"{site}/{name}", known) and matching(site, known):
        outermost = {known[found].node: found for found in matching(site, known)}  # one value under two names is split once
        return program.apply(FAMILIES[name].at(list(outermost.values())))
    return program


def singles(program: Program, addresses: Sequence[str]) -> list[Target]:
    """A target for each address, members of families each by itself."""
    found: dict[str, Target] = {}
    for text in addresses:
        for target in _targets(program, text):
            found.setdefault(target.address, target)
    return list(found.values())


def together(targets: Sequence[Target]) -> Target:
    """All targets as one."""
    parts = tuple(dict.fromkeys(part for target in targets for part in target.parts))
    return Target(" + ".join(target.address for target in targets), parts)


def pairs(targets: Sequence[Target]) -> list[Target]:
    """Every two targets as one."""
    return [together(two) for two in combinations(targets, 2)]


def _targets(program: Program, text: str) -> list[Target]:
    known = program.sites_by_address
    address = Address(text, text) if text in known else parse(text)
    index = address.slice
    if index is not None:
        slices(index, text)
    record = program.families.get(address.site)
    if address.member is None and not address.act:
        return [Target(text, (Part(address.site, index=index),))]
    if record is None:
        raise InputError(f"{text}: expected a family, got {address.site!r}, which is none. Members and @act belong to families.")
    edited, axis = coordinate(address.site), axis_dims(record.equation, record.axis)[record.act]
    if address.member is None:
        return [Target(text, (Part(edited, index=index),))]
    members = indices(address.member, record.size, text)
    return [Target(replace(address, member=str(i)).of(address.site), (Part(edited, i, axis, index),)) for i in members]


def _asked(part: Part) -> str:
    """The address whose liveness a part's is: the site, or the member of a family."""
    site = parse(part.edited).site
    return Address("", site, None if part.member is None else str(part.member)).of(site)


def asked(targets: Sequence[Target]) -> list[str]:
    """The addresses whose liveness is that of the targets. Of a family its first member among the targets stands for all."""
    parts = {part.edited: part for target in reversed(targets) for part in reversed(target.parts)}
    return list(dict.fromkeys(map(_asked, parts.values())))
