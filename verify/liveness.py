"""Liveness: does an edit at a site reach an output at all? Decided in exact arithmetic with random weights, not on floats.

A term that happens to be zero on an input is alive: its effect there is zero. A term is dead if no weights and inputs give it an effect:
because nothing reads it, or because something computed from the edited copy takes the edit back, as a remainder y - f does that reads
the edited f. A random edit that changes no output is such a term, up to the usual error of exact arithmetic.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import torch
from torch import fx

from rewrite import InputError, SiteError, TautomerError
from rewrite.address import indices, parse
from rewrite.program import Program
from rewrite.readers import reads
from rewrite.records import FamilyRecord, SplitRecord
from rewrite.run import descendants, needed
from rewrite.terms import axis_dims
from verify.cases import given_cases
from verify.decide import sub_key
from verify.interpret import evaluate, same
from verify.leaves import leaf_values
from verify.match import match
from verify.roles import roles_of
from verify.shadow import Case
from verify.structure import Side, at_home, floating
from verify.value import Concrete
from verify.world import World

aten = torch.ops.aten
ALL_MEMBERS, SAMPLED, PRIMES = 64, 16, 1  # one prime: the dead are those that agree everywhere


@dataclass(frozen=True)
class Liveness:
    """What was found for one address: alive, or the reason why no edit there reaches an output."""

    address: str
    alive: bool
    reason: str = ""


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
    Raises: InputError for anything but addresses, or a `progress` that cannot be called; SiteError for an address of no site.
    """
    if not isinstance(program, Program):
        raise InputError(f"liveness: expected a program, got {type(program).__name__}. Trace it first: trace(model, **inputs).")
    check_progress("liveness", progress)
    chosen = None if addresses is None else _addresses(addresses)
    key = secrets.token_bytes(16) if seed is None else blake2b(str(seed).encode(), digest_size=16).digest()
    checker = _Checker(program, given_cases(program, inputs)[0], roles, key)
    found = []
    for address in addresses_of(program, key) if chosen is None else chosen:
        if progress:
            progress(address)
        found.append(checker.check(address))
    return found


def _addresses(given: Any) -> list[str]:
    found = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wrong = next((one for one in found if not isinstance(one, str)), None)
    if isinstance(given, str) or wrong is not None:
        got = repr(given) if isinstance(given, str) else type(wrong).__name__
        raise InputError(f"liveness: expected a list of addresses, got {got}. Give a list of strings; program.sites() has them.")
    return found


def check_progress(where: str, progress: Any) -> None:
    """Raises: InputError for a `progress` that is neither None nor can be called."""
    if progress is not None and not callable(progress):
        raise InputError(f"{where}: expected progress as a function of a text, got {type(progress).__name__}. print is one.")


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
        self.program = program
        self.world = World(sub_key(key, "liveness"), PRIMES)
        self.factor = float(random.Random(key).randrange(2, 2**15))
        self.home = {term: split for split in program.splits for term in split.terms}
        labels = match(program, program).b
        self.side = Side(program, leaf_values(program, labels, case, roles_of(program, case, roles), open_gates=True), case)
        self.outputs = [node for node in program.outputs if isinstance(node, fx.Node)]
        self.own = self._own_values()
        self.known: dict[str, Liveness] = {}

    def check(self, address: str) -> Liveness:
        """What is found for one address."""
        site = address if address in self.program.sites_by_address else parse(address).site
        if site not in self.program.sites_by_address:
            raise SiteError(f"no site is called {address!r} among {len(self.program.sites_by_address)}. List them with program.sites().")
        split = self._split_of(site)
        edit = self._edit(address, site)
        if not edit.readers:
            return Liveness(address, False, "nothing reads it")
        if not self._changes(edit, split):
            return Liveness(address, False, self._why(site, split))
        above = self._sum(split) if split else None
        return Liveness(address, True) if above is None else Liveness(address, above.alive, above.reason)

    def _split_of(self, site: str) -> SplitRecord | None:
        """The split whose sum an edit at `site` goes through: its own if it is a term, the one around it if it is inside a term."""
        if site in self.home:
            return self.home[site]
        is_path = self.program.sites_by_address[site].kind == "path"
        around = [term for term in self.home if site.startswith(term + "/") and not is_path]
        return self.home[max(around, key=len)] if around else None

    def _sum(self, split: SplitRecord) -> Liveness:
        """Whether the site that a split splits reaches an output; asked once a site."""
        if split.site not in self.known:
            outer = self.home.get(split.site)
            alive = self._changes(self._edit(split.site, split.site), outer)
            result = Liveness(split.site, alive, "" if alive else f"{split.site} itself reaches no output")
            self.known[split.site] = self._sum(outer) if alive and outer else result
        return self.known[split.site]

    def _why(self, site: str, split: SplitRecord | None) -> str:
        if split is None:
            return "no output depends on it: what reads it takes the edit back, or reaches no output"
        others = ", ".join(term for term in split.terms if term != site) or "another term"
        return f"the sum at {split.site} does not change with it: {others} is computed from the edited copy and takes the edit back"

    # Edits, in exact arithmetic: what is not behind an edit has the value that it has anyway

    def _edit(self, address: str, site: str) -> _Edit:
        """Another value at `address` (any other at a site, a multiple at a member or of whole numbers), and who reads it."""
        if address != site:
            return self._member_edit(address, self.program.families[site])
        record = self.program.sites_by_address[site]
        node = self.program.nodes[record.node]
        return _Edit(node, [user for user in node.users if reads(user, record)], self._another(node))

    def _another(self, node: fx.Node) -> Any:
        """Any other value: a multiple of zero, or of what is normalised, would not show."""
        if not floating(node):
            return self._scaled(node, torch.tensor(self.factor))
        return replace(self.world.tensor(f"edit {node.name}", self.side.shape(node.name)), dtype=node.meta["val"].dtype)

    def _member_edit(self, address: str, record: FamilyRecord) -> _Edit:
        coordinates, total = self.program.nodes[record.operands[record.act]], self.program.nodes[record.total]
        axes = coordinates.meta["val"].dim()
        axis = (axis_dims(record.equation, record.axis)[record.act] or 0) % axes
        chosen = indices(parse(address).member or ":", record.size, address)
        factor = torch.ones(record.size)
        factor[chosen] = self.factor
        factor = factor.reshape([-1 if i == axis else 1 for i in range(axes)])
        inner = _Edit(coordinates, list(coordinates.users), self._scaled(coordinates, factor))
        site = self.program.sites_by_address[record.address]
        readers = [user for user in total.users if site.node != total.name or reads(user, site)]
        return _Edit(total, readers, self._after(inner, [total])[total])

    def _scaled(self, node: fx.Node, factor: torch.Tensor) -> Any:
        graph = fx.Graph()
        value, by = graph.placeholder("value"), graph.placeholder("factor")
        value.meta, out = node.meta, graph.call_function(aten.mul.Tensor, (value, by))
        out.meta = node.meta
        given = {"value": self._given(node), "factor": Concrete(factor.to(node.meta["val"].dtype))}
        return evaluate(graph, given, [out.name], self.world)[out.name]

    def _changes(self, edit: _Edit, split: SplitRecord | None) -> bool:
        """True if the edit changes the sum of `split`, or without one an output."""
        targets = self.outputs if split is None else [self.program.nodes[split.total]]
        found = self._after(edit, targets)
        self.world.forget()
        return any(not same(self._given(node), value, self.world).equal for node, value in found.items())

    def _after(self, edit: _Edit, targets: Sequence[fx.Node]) -> dict[fx.Node, Any]:
        """What those of `targets` that are behind the edit are worth with it."""
        behind = descendants(edit.readers) & needed(targets)
        graph, given = fx.Graph(), {}
        image: dict[tuple[fx.Node, bool], fx.Node] = {}
        readers = set(edit.readers)

        def read(node: fx.Node, reader: fx.Node) -> fx.Node:
            edited = node is edit.node and reader in readers
            if (node, edited) not in image:
                made = image[node, edited] = graph.placeholder(f"{node.name}_edited" if edited else node.name)
                made.meta = node.meta
                given[made.name] = edit.value if edited else self._given(node)
            return image[node, edited]

        for node in self.program.graph.nodes:
            if node in behind and node.op == "call_function":
                args, kwargs = at_home(fx.map_arg((node.args, node.kwargs), lambda one, by=node: read(one, by)))  # type: ignore[misc]
                made = image[node, False] = graph.create_node(node.op, node.target, args, kwargs, name=node.name)
                made.meta = node.meta
        found = {node: image[node, False].name for node in targets if node in behind and node.op == "call_function"}
        values = evaluate(graph, given, list(found.values()), self.world)
        result = {node: values[name] for node, name in found.items()}
        if edit.node in targets and any(user.op == "output" for user in edit.readers):
            result[edit.node] = edit.value
        return result

    def _own_values(self) -> dict[str, Any]:
        """What the nodes that depend on an input are worth, by their name in the side's graph."""
        wanted = {self.side.representative[name] for name in self.side.varying if self.program.nodes[name].op == "call_function"}
        wanted -= set(self.side.numbers)
        nodes = needed([self.side.nodes[name] for name in wanted])
        given = {node.name: self._leaf(node.name) for node in nodes if node.op == "placeholder"} | self.side.numbers
        found = evaluate(self.side.graph, given, sorted(wanted), self.world)
        self.world.forget()
        return found

    def _leaf(self, name: str) -> Any:
        return self.side.leaves[name].value(self.world)

    def _given(self, node: fx.Node) -> Any:
        """What a node is worth without edits."""
        name = self.side.representative[node.name]
        if name in self.side.numbers:
            return self.side.numbers[name]
        if name not in self.own:  # of weights only
            graph = self.side.graph
            nodes = needed([self.side.nodes[name]])
            given = {one.name: self._leaf(one.name) for one in nodes if one.op == "placeholder"} | self.side.numbers
            return evaluate(graph, given, [name], self.world)[name]
        return self.own[name]


@dataclass
class _Edit:
    """`value` in place of what `readers` read from `node`."""

    node: fx.Node
    readers: list[fx.Node]
    value: Any


def raise_unless_alive(found: Iterable[Liveness]) -> None:
    """Raises: TautomerError naming the first dead site and what cancels it."""
    dead = [one for one in found if not one.alive]
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        raise TautomerError(f"{dead[0].address}{more}: expected an edit that can reach an output, got one that cannot: {dead[0].reason}.")
