"""The splicer: the one file that edits a graph. It works on a fork; `finish` returns it as a new program.

The graph is append-only. A rewrite adds nodes and changes what readers read; a definition, once there, stays what it was, so claims
and names that speak of it stay true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rewrite.capture import Captured, fake_mode
from rewrite.errors import PassError, SiteError
from rewrite.ledger import Ledger
from rewrite.ops import Operand
from rewrite.readers import before, coordinate_tag, reads
from rewrite.records import FamilyRecord, Leaf, LeafKind, Site

if TYPE_CHECKING:
    from rewrite.program import Program

aten = torch.ops.aten
ORDER: tuple[LeafKind, ...] = ("parameter", "buffer", "constant", "gate", "input")


@dataclass(frozen=True, slots=True)
class Cut:
    """A site, its node, the nodes that read it, and the addresses that follow when those readers are redirected."""

    site: Site
    node: fx.Node
    readers: list[fx.Node]
    followers: list[str]


class Splicer(Ledger):
    """A fork of a program's graph and tables, open for edits until `finish`."""

    def __init__(self, program: Program):
        self.program = program
        self.graph = fx.Graph()
        image: dict[fx.Node, fx.Node] = {}
        result = self.graph.graph_copy(program.graph, image)
        self.graph.output(result).meta.update(program.graph.output_node().meta)
        super().__init__(program, {new.name: new for new in self.graph.nodes})
        self.leaves = dict(program.leaves)
        self.tensors = dict(program.tensors)
        self.mode = fake_mode(self.graph)
        self._leaf_of_tensor = {
            id(self.tensors[leaf.name]): name for name, leaf in reversed(self.leaves.items()) if leaf.name in self.tensors
        }
        self._leaf_names = {leaf.name for leaf in self.leaves.values()}
        self._last: dict[LeafKind, fx.Node] = {leaf.kind: self.nodes[name] for name, leaf in self.leaves.items()}

    def finish(self) -> Program:
        """The new program."""
        rank = {kind: i for i, kind in enumerate(ORDER)}
        leaves = dict(sorted(self.leaves.items(), key=lambda item: rank[item[1].kind]))
        return replace(
            self.program,
            graph=self.graph,
            leaves=leaves,
            tensors=self.tensors,
            sites_by_address=self.sites,
            families=self.families,
            gate_records=self.gates,
            splits=tuple(self.splits),
            claims=tuple(self.claims),
            steps=tuple(self.steps),
            traced_from=self.program.origin,
        )

    # ------------------------------------------------------------------------------------------------ leaves

    def leaf(self, tensor: Tensor, name: str, kind: LeafKind = "constant") -> fx.Node:
        """The placeholder of `tensor`: the model's own if it is one of the model's tensors, else a new leaf called `name`."""
        known = self._leaf_of_tensor.get(id(tensor))
        if known is not None and kind == "constant":
            return self.nodes[known]
        name = _unused(name, self._leaf_names)
        node = self._placeholder(re.sub(r"\W+", "_", name), kind)
        with self.mode:
            value = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        node.meta.update(val=value, scope=())
        self.leaves[node.name] = Leaf(kind, name)
        self.tensors[name] = tensor
        self._leaf_names.add(name)
        if kind == "constant":
            self._leaf_of_tensor[id(tensor)] = node.name
        return node

    def is_leaf(self, tensor: Tensor) -> bool:
        """True if the tensor is one of the program's own."""
        return id(tensor) in self._leaf_of_tensor

    def copy_of_input(self, original: str, copy: str) -> fx.Node:
        """A new input: a copy of the input whose placeholder is called `original`, under the name `<its name>@<copy>`.

        Raises: PassError if the name is taken.
        """
        leaf, like = self.leaves[original], self.nodes[original].meta["val"]
        name = f"{leaf.name}@{copy}"
        if name in self._leaf_names:
            raise PassError(f"{name}: expected a name for a copy that is not taken, got one that is. Call the copy something else.")
        node = self._placeholder(re.sub(r"\W+", "_", name), "input")
        with self.mode:
            value = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
        node.meta.update(val=value, scope=())
        self.leaves[node.name] = Leaf("input", name, copy_of=leaf.name)
        self._leaf_names.add(name)
        return node

    def extra_input(self, name: str) -> fx.Node:
        """A placeholder that is no leaf of the program: its value is given at each run."""
        node = self._placeholder(name, "input")
        node.meta.update(val=None, scope=())
        return node

    def _placeholder(self, name: str, kind: LeafKind) -> fx.Node:
        before = [self._last[k] for k in ORDER[: ORDER.index(kind) + 1] if k in self._last]
        with self.graph.inserting_after(before[-1]) if before else self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(name)
        node.target = node.name  # a clash is resolved in the name only, and code is generated from the target
        self.nodes[node.name] = node
        self._last[kind] = node
        return node

    # ------------------------------------------------------------------------------------------------ nodes

    def after(self, nodes: Iterable[fx.Node]) -> fx.Node:
        """The node behind which everything in `nodes` is known: the last of them, at least the last placeholder."""
        last = self._last["input"] if "input" in self._last else next(reversed(self._last.values()))
        for node in nodes:
            last = node if last < node else last
        return last

    def call(
        self, anchor: fx.Node, target: Any, args: tuple[Any, ...], scope: tuple[str, ...], value: Any, kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        """A new node right behind `anchor`; `value` is its fake value."""
        with self.graph.inserting_after(anchor):
            node = self.graph.call_function(target, args, kwargs or {})
        node.meta.update(val=value, scope=scope)
        self.nodes[node.name] = node
        return node

    def again(self, node: fx.Node, image: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """A copy of `node` that reads what `image` says in the place of what it reads."""
        with self.graph.inserting_after(self.after(image.get(n, n) for n in node.all_input_nodes)):
            made = self.graph.node_copy(node, lambda n: image.get(n, n))
        made.meta = dict(node.meta)
        self.nodes[made.name] = made
        return made

    def return_instead(self, image: Mapping[fx.Node, fx.Node]) -> None:
        """Makes the program return what `image` says in the place of what it returns."""
        output = self.graph.output_node()
        output.args = fx.map_arg(output.args, lambda n: image.get(n, n))  # type: ignore[assignment]

    def operand(self, operand: Operand) -> fx.Node:
        """The node of a canonical operand; what moves it first becomes nodes of its own."""
        node = operand.node
        for move in operand.moves:
            needed = pytree.arg_tree_leaves(move.arguments)
            args = (node, *move.arguments)
            with self.mode:
                value = move.target(*fx.map_arg(args, lambda one: one.meta["val"]))
            node = self.call(self.after([node, *(one for one in needed if isinstance(one, fx.Node))]), move.target, args, (), value)
        return node

    def paste(
        self, captured: Captured, inputs: Sequence[Any], wanted: Sequence[fx.Node], scope: tuple[str, ...], image: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        """The last node pasted of what `wanted` nodes of `captured` take; `image` says, and is told, what became of each node."""
        for given, node in zip(captured.inputs, inputs, strict=True):
            image.setdefault(given, node)
        for given, tensor in captured.constants.items():
            image.setdefault(given, self.leaf(tensor, "constant"))
        anchor = self.after(node for node in image.values() if isinstance(node, fx.Node))
        keep = _needed(wanted, image)
        for node in captured.graph.nodes:
            if node in keep and node not in image:
                with self.graph.inserting_after(anchor):
                    anchor = image[node] = self.graph.node_copy(node, lambda n: image[n])
                anchor.meta = {"val": node.meta["val"], "scope": scope}
                self.nodes[anchor.name] = anchor
        return anchor

    def total(self, anchor: fx.Node, terms: Sequence[fx.Node], scope: tuple[str, ...]) -> fx.Node:
        """The sum of `terms`, from left to right."""
        value = terms[0]
        for term in terms[1:]:
            value = self.call(self.after([anchor, value]), aten.add.Tensor, (value, term), scope, terms[0].meta["val"])
        if len(terms) == 1:
            value = self.call(self.after([anchor]), aten.alias.default, (value,), scope, terms[0].meta["val"])
        return value

    def move_literals(self, device: torch.device) -> None:
        """Replaces every device literal in the graph, and the devices of the fake values."""
        for node in self.graph.nodes:
            literals = {k: device for k, v in node.kwargs.items() if isinstance(v, torch.device)}
            if literals:
                node.kwargs = {**node.kwargs, **literals}
            if any(isinstance(arg, torch.device) for arg in node.args):
                node.args = tuple(device if isinstance(arg, torch.device) else arg for arg in node.args)
            value = node.meta.get("val")
            if isinstance(value, Tensor):
                with self.mode:
                    node.meta["val"] = value.to(device)

    # ------------------------------------------------------------------------------------------------ readers

    def cut(self, site: Site) -> Cut:
        """Who reads `site` now, and which sites have no other readers. Taken before a rewrite adds readers of its own.

        Raises: SiteError when nothing reads it.
        """
        node = self.nodes[site.node]
        readers = [user for user in node.users if reads(user, site)]
        if not readers:
            raise SiteError(f"{site.address}: expected a site that something reads, got one that nothing does. It cannot be rewritten.")
        self._check_told_apart(site)
        moved, followers = set(readers), []
        for address in self._at[site.node]:
            other = self.sites[address]
            own = {user for user in node.users if reads(user, other)}
            if other is site or (own and own <= moved and not before(other, site)):
                followers.append(address)
        return Cut(site, node, readers, followers)

    def _check_told_apart(self, site: Site) -> None:
        """One tensor given to a module twice, or returned twice, has one node: who reads which cannot be told."""
        module, _, leaf = site.address.partition("@in:" if site.kind == "input" else ":")
        twins = [
            address
            for address in self._at[site.node]
            if leaf and address != site.address and self.sites[address].kind == site.kind and address.startswith(site.address[: -len(leaf)])
        ]
        if twins:
            raise SiteError(
                f"{site.address}: expected a value of its own, got the same tensor as {', '.join(twins)}. "
                f"Edit it where it is computed, or inside {module or 'the model'}."
            )

    def cut_family(self, record: FamilyRecord) -> Cut:
        """Who reads the sum over a family's members: the site's readers, or the split that the site was put through since."""
        site, node = self.site(record.address), self.nodes[record.total]
        return self.cut(site) if site.node == record.total else Cut(site, node, list(node.users), [])

    def cut_whole(self, site: Site, node: fx.Node) -> Cut:
        """Who reads what a site was before it was split: the splits alone."""
        return Cut(site, node, list(node.users), [])

    def redirect(self, cut: Cut, value: fx.Node) -> None:
        """Makes the readers of a cut read `value`, and moves the sites that have no other readers along."""
        for reader in cut.readers:
            reader.replace_input_with(cut.node, value)
        for address in cut.followers:
            self.sites[address] = replace(self.sites[address], node=value.name)
        followers = set(cut.followers)
        self._at[value.name] += cut.followers
        self._at[cut.node.name] = [address for address in self._at[cut.node.name] if address not in followers]

    def redirect_coordinate(self, record: FamilyRecord, value: fx.Node) -> None:
        """Makes the paths of a family read `value` as its coordinates."""
        act = self.nodes[record.operands[record.act]]
        for reader in [user for user in act.users if coordinate_tag(record.address) in user.meta.get("scope", ())]:
            reader.replace_input_with(act, value)


def _needed(wanted: Sequence[fx.Node], image: Mapping[fx.Node, Any]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            if node not in image:
                stack.extend(node.all_input_nodes)
    return found


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
