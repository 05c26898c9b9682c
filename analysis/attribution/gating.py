"""Which gate stands for which address: the program with the passes that addresses need, and what is read off where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.checks import listed
from passes import gates, heads, neurons, paths
from rewrite import Program, SiteError
from rewrite.address import Address, find, indices, matching, parse
from rewrite.ops import depends_on_inputs, same_shape
from rewrite.paths import split_path
from rewrite.run import needed

FAMILIES = {heads.name: heads, neurons.name: neurons}  # what the last name of an address asks for


@dataclass(frozen=True)
class Target:
    """One address that is asked about: the gate that stands for it, and the member if it is one of a family's."""

    address: str
    gate: str
    member: int | None = None


def gated(program: Program, addresses: str | Iterable[str], where: str) -> tuple[Program, list[Target], dict[str, str]]:
    """(program, targets, {address: reason it is left out}): the program with heads, neurons, paths and gates where addresses need them.

    A family's address stands for all its members together, `head[:]` for each of them. A path `a -> b` may have globs on both sides.
    Raises: SiteError for an address that matches nothing, PassError where a pass does not apply.
    """
    names = listed(addresses, where)
    for address in names:
        for end in split_path(address) if "->" in address else (address,):
            program = _with_family(program, end)
    edges = [edge for address in names if "->" in address for edge in _edges(program, address)]
    ways = [gate for gate, _ in edges]
    named = [target for address in names if "->" not in address for target in _named(program, address, where)]
    # a path's factor is worked out when it is made: gates on what it crosses come first
    program, left = _with_gates(program, [target.gate for target in named])
    missing = [way for way in dict.fromkeys(ways) if way not in program.sites_by_address]
    if missing:  # each gated before the next one, which may cross it
        program = program.apply(*(law.at(way) for way in missing for law in (paths, gates)))
    program, more = _with_gates(program, ways)
    wanted = dict.fromkeys([*named, *(target for gate, member in edges for target in _members(program, gate, member))])
    left |= more
    return program, [target for target in wanted if target.gate not in left], left


def _with_family(program: Program, address: str) -> Program:
    """The program with heads or neurons split where `address` names them and they are not there yet."""
    site = parse(address).site
    parent, _, name = site.rpartition("/")
    if matching(site, program.sites_by_address) or name not in FAMILIES or "**" in parent:
        return program
    return program.apply(FAMILIES[name].at(parent))


def _named(program: Program, address: str, where: str) -> list[Target]:
    if address in program.sites_by_address:
        return [Target(address, address)]
    parsed = parse(address)
    if parsed.act or parsed.slice is not None:
        raise SiteError(f"{where}: expected a site, family, member or path, got {address!r}. Name the whole value.")
    found = [site.address for site in find(parsed.site, program.sites_by_address)]
    if parsed.member is None:
        return [Target(one, one) for one in found]
    _check_families(program, found, parsed.member, where)
    return [target for one in found for target in _members(program, one, parsed.member)]


def _check_families(program: Program, found: Iterable[str], member: str, where: str) -> None:
    """Raises: SiteError if members are asked of what is no family."""
    plain = [one for one in found if one not in program.families]
    if plain:
        raise SiteError(f"{where}: expected a family before [{member}], got {plain[0]!r}, which is none.")


def _members(program: Program, gate: str, member: str | None) -> list[Target]:
    """The family behind a gate as a target, or each of its members that `member` picks."""
    if member is None:
        return [Target(gate, gate)]
    picked = indices(member, program.families[gate].size, f"{gate}[{member}]")
    return [Target(Address("", gate, str(i)).of(gate), gate, i) for i in picked]


def _edges(program: Program, address: str) -> list[tuple[str, str | None]]:
    """The paths that `address` names, and which members; of a glob's pairs only those whose reader is downstream of the term.

    Raises: SiteError if there is none, or members are asked of what is no family.
    """
    (term, reader), member = split_path(address), parse(address).member
    pairs = [(t, r) for t in find(term, program.sites_by_address) for r in find(reader, program.sites_by_address)]
    if "*" in address:
        nodes = program.nodes
        pairs = [(t, r) for t, r in pairs if t.node != r.node and nodes[t.node] in needed([nodes[r.node]])]
    if member is not None:
        _check_families(program, (t.address for t, _ in pairs), member, address)
    if not pairs:
        raise SiteError(f"no path matches {address!r}: no such reader is downstream of such a term. Name a reader behind the term.")
    return [(f"{t.address} -> {r.address}", member) for t, r in pairs]


def _with_gates(program: Program, addresses: Sequence[str]) -> tuple[Program, dict[str, str]]:
    missing = [address for address in dict.fromkeys(addresses) if address not in program.gate_records]
    if not missing:
        return program, {}
    program = program.apply(gates.at(missing))
    return program, dict(program.steps[-1].skipped)


def sizes(program: Program, gate: str, examples: int) -> list[int] | None:
    """The shape of a gate with numbers for each example, or None if the value has no axis of examples.

    Shapes: [example, 1, ...], the last axis the members' if it gates a family.
    """
    held = program.gates[gate]
    size = held.record.size
    rank = len(held.shape) if held.axis is None else held.axis + 1
    if rank < (1 if size is None else 2) or not _of_examples(program, gate):
        return None
    return [examples, *[1] * (rank - 1)] if size is None else [examples, *[1] * (rank - 2), size]


def _of_examples(program: Program, gate: str) -> bool:
    """True if the first axis of the gated value is that of the examples: it varies with an input, and is of an input's first size."""
    family = program.families.get(gate)
    node = program.nodes[family.operands[family.act] if family else program.sites_by_address[gate].node]
    names = frozenset(name for name, leaf in program.leaves.items() if leaf.kind == "input")
    first = [program.nodes[name].meta["val"].shape[:1] for name in names if hasattr(program.nodes[name].meta["val"], "shape")]
    return depends_on_inputs(node, names) and any(same_shape(node.meta["val"].shape[:1], one) for one in first if len(one))
