"""The ledger: what a program records about the nodes of its graph, all of it by name, open for changes. It edits no graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import fx

from rewrite.errors import PassError, SiteError
from rewrite.records import Claim, FamilyRecord, GateRecord, Site, SiteKind, SplitRecord, Step

if TYPE_CHECKING:
    from rewrite.program import Program


class Ledger:
    """Copies of a program's tables, and the nodes of the graph that they speak of."""

    def __init__(self, program: Program, nodes: Mapping[str, fx.Node]):
        self.nodes: dict[str, fx.Node] = dict(nodes)
        self.sites = dict(program.sites_by_address)
        self.families = dict(program.families)
        self.gates = dict(program.gate_records)
        self.splits, self.claims, self.steps = list(program.splits), list(program.claims), list(program.steps)
        self._at: dict[str, list[str]] = defaultdict(list)
        for site in self.sites.values():
            self._at[site.node].append(site.address)
        self._tags = len(self.splits) + len(self.gates) + len(self.steps)
        self._around: dict[str, tuple[str, ...]] = {}
        for scope in {node.meta.get("scope", ()) for node in self.nodes.values()}:
            self._around.update((tag, scope[:i]) for i, tag in enumerate(scope) if "/+" not in tag)

    # ------------------------------------------------------------------------------------------------ sites

    def name_site(self, address: str, node: fx.Node, kind: SiteKind, scope: str | None = None) -> Site:
        """The new site.

        Raises: PassError if the name is taken.
        """
        if address in self.sites:
            raise PassError(f"{address}: expected a name that is not taken at this site, got one that is. Pass name=.")
        site = self.sites[address] = Site(address, node.name, kind, scope)
        self._at[node.name].append(address)
        return site

    def site(self, address: str) -> Site:
        """The site called `address`.

        Raises: SiteError if there is none.
        """
        if address not in self.sites:
            raise SiteError(f"no site is called {address!r} among {len(self.sites)}. List them with program.sites().")
        return self.sites[address]

    def value(self, site: Site) -> Any:
        """The fake value of a site."""
        return self.nodes[site.node].meta["val"]

    def move_site(self, address: str, node: fx.Node) -> None:
        """Makes `address` the name of `node`, whose readers are now the site's."""
        self._at[self.sites[address].node].remove(address)
        self.sites[address] = replace(self.sites[address], node=node.name)
        self._at[node.name].append(address)

    def before_splits(self, site: Site) -> list[fx.Node]:
        """What the site's node was before it was split, and before that, the latest first."""
        whole = {split.total: split.whole for split in self.splits}
        found, name = [], site.node
        while name in whole:
            name = whole[name]
            found.append(self.nodes[name])
        return found

    # ------------------------------------------------------------------------------------------------ scopes

    def outer_scope(self, site: Site) -> tuple[str, ...]:
        """The tags of the code around `site`: around the module whose input or output it is, else those of its node."""
        module = site.address.partition("@in")[0].partition(":")[0]
        if site.kind in ("output", "input"):
            return self._scope_around(module)
        return tuple(tag for tag in self.nodes[site.node].meta.get("scope", ()) if "/+" not in tag)

    def _scope_around(self, module: str) -> tuple[str, ...]:
        if module in self._around:
            return self._around[module]
        # a module without nodes of its own (an identity): the code around it is that of the nearest module that has some
        while "." in module:
            module = module.rpartition(".")[0]
            if module in self._around:
                return (*self._around[module], module)
        return ()

    def tag(self, address: str) -> str:
        """A tag of its own for the sum, gate or path at `address`."""
        self._tags += 1
        return f"{address}/+{self._tags}"

    # ------------------------------------------------------------------------------------------------ records

    def add_family(self, record: FamilyRecord) -> None:
        """Records a family."""
        self.families[record.address] = record

    def add_split(self, record: SplitRecord) -> None:
        """Records a split."""
        self.splits.append(record)

    def add_claim(self, claim: Claim) -> None:
        """Records a claim."""
        self.claims.append(claim)

    def rebind_claims(self, old: fx.Node, new: fx.Node) -> None:
        """Makes claims and splits that speak of `old` speak of `new`, which took its place as what the terms are computed from."""
        moved = {("node", old.name): ("node", new.name), ("fresh", old.name): ("fresh", new.name)}
        renamed = {old.name: new.name}
        self.claims = [
            replace(
                claim,
                bindings={name: moved.get(binding, binding) for name, binding in claim.bindings.items()},
                swaps={name: {renamed.get(n, n): other for n, other in swaps.items()} for name, swaps in claim.swaps.items()},
            )
            for claim in self.claims
        ]
        self.splits = [replace(split, whole=new.name) if split.whole == old.name else split for split in self.splits]

    def rebind_claims_of(self, term: str, image: Callable[[fx.Node], fx.Node]) -> None:
        """Makes the claims that read a term speak of what `image` says of their nodes."""

        def moved(binding: tuple[str, str]) -> tuple[str, str]:
            kind, what = binding
            return (kind, what) if kind == "member" else (kind, image(self.nodes[what]).name)

        def rebound(claim: Claim) -> Claim:
            swaps = {name: {image(self.nodes[n]).name: other for n, other in swapped.items()} for name, swapped in claim.swaps.items()}
            return replace(claim, bindings={name: moved(binding) for name, binding in claim.bindings.items()}, swaps=swaps)

        self.claims = [rebound(claim) if term in claim.reads else claim for claim in self.claims]

    def add_gate(self, record: GateRecord) -> None:
        """Records a gate."""
        self.gates[record.address] = record

    def add_step(self, step: Step) -> None:
        """Records a step of the history."""
        self.steps.append(step)
