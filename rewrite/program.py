"""The program: a traced model as a value. Applying a pass returns a new program; this file never edits a graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite import address as addresses
from rewrite.call import bind, restore
from rewrite.errors import InputError, SiteError, nearest
from rewrite.gates import Gates, Setting
from rewrite.records import Calling, Claim, Edit, FamilyRecord, GateRecord, Header, Leaf, Site, SiteKind, SplitRecord, Step
from rewrite.run import Runner
from rewrite.weights import Weight

if TYPE_CHECKING:
    from rewrite.law import Bound
    from rewrite.resume import Resume
    from rewrite.show import Cost, SiteTable


@dataclass(frozen=True, eq=False)
class Program:
    """A functional graph, its tensors by reference, its calling convention, sites, history, example and origin.

    Called exactly like the model. `leaves`: placeholder node name -> Leaf, in graph order. `tensors`: leaf name -> tensor, for every
    leaf that is not an input (tied weights are one tensor object under two names). Every node has `meta["val"]` (fake tensor, SymInt
    or number) and `meta["scope"]` (a tuple of tags: the module calls around it, outermost first, and the sums it belongs to).
    """

    graph: fx.Graph
    leaves: dict[str, Leaf]
    tensors: dict[str, Tensor]
    calling: Calling
    header: Header
    example: tuple[tuple[Any, ...], dict[str, Any]]
    sites_by_address: dict[str, Site]
    families: dict[str, FamilyRecord] = field(default_factory=dict)
    splits: tuple[SplitRecord, ...] = ()
    gate_records: dict[str, GateRecord] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    steps: tuple[Step, ...] = ()
    traced_from: Program | None = None  # None: this is the origin itself

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def origin(self) -> Program:
        """The program as traced, before any pass."""
        return self.traced_from or self

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Node by name."""
        return {node.name: node for node in self.graph.nodes}

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The flat output leaves: nodes, or plain constants such as None."""
        return tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]

    def sites(self, glob: str = "**", *, kind: SiteKind | None = None) -> SiteTable:
        """The sites that `glob` matches, as a table that prints; possibly empty."""
        from rewrite.show import site_table

        return site_table(self, glob, kind)

    def select(self, glob: str, *, kind: SiteKind | None = None) -> tuple[str, ...]:
        """The addresses that `glob` matches, at least one.

        Raises: SiteError naming the nearest sites if there is none.
        """
        found = [site.address for site in addresses.find(glob, self.sites_by_address) if kind in (None, site.kind)]
        if not found:
            raise SiteError(f"no {kind} site matches {glob!r} among {len(self.sites_by_address)}. Other kinds do: leave out kind=.")
        return tuple(found)

    @property
    def gates(self) -> Gates:
        """The gates by address: settable, without retracing."""
        return Gates(self)

    def weight(self, name: str) -> Weight:
        """The model's tensor `name` for use in a pass's arguments; expressions of it (`[ids]`, `@`, ...) stay graph nodes.

        Raises: SiteError naming the nearest tensors if there is none.
        """
        if name not in self.tensors:
            raise SiteError(f"no tensor is called {name!r} among {len(self.tensors)}.{nearest(name, self.tensors)}")
        return Weight((self.tensors[name],), lambda values: values[0], name)

    def __str__(self) -> str:
        from rewrite.show import listing

        return listing(self)

    def __repr__(self) -> str:
        return f"Program({self.header.model}, {len(self.sites_by_address)} sites, {len(self.steps)} steps)"

    # ------------------------------------------------------------------------------------------------ rewriting

    def apply(self, *passes: Bound) -> Program:
        """A new program with the passes applied in order; this one is unchanged.

        Raises: SiteError if an address matches nothing; PassError if a pass applies at none of its sites, with the reasons.
        """
        from rewrite.apply import apply

        return apply(self, passes)

    # ------------------------------------------------------------------------------------------------ running

    @cached_property
    def _runners(self) -> dict[Any, Runner]:
        return {}

    def _runner(self, key: Any, graph: fx.Graph, wanted: Sequence[Any], leaves: Mapping[str, Leaf], extra: Sequence[str] = ()) -> Runner:
        if key not in self._runners:
            self._runners[key] = Runner(graph, wanted, leaves, extra)
        return self._runners[key]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, in the model's own type."""
        inputs = bind(self, args, kwargs)
        return restore(self, self._runner("call", self.graph, self.outputs, self.leaves)(self.tensors, inputs))

    def values(self, wanted: Sequence[str] | str, /, *args: Any, **inputs: Any) -> dict[str, Tensor]:
        """The values at the addresses or globs `wanted`, for these inputs (the example's if none are given)."""
        if not args and not inputs:
            args, inputs = self.example
        _, found = self.run(inputs, *args, read=[wanted] if isinstance(wanted, str) else wanted)
        return found

    def run(
        self,
        inputs: Mapping[str, Any],
        /,
        *args: Any,
        edit: Mapping[str, Edit] | None = None,
        read: Sequence[str] = (),
        gates: Mapping[str, Setting] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """(output, {address: value}) of one run with the values at the addresses in `edit` replaced and `gates` set.

        A number or tensor takes the value's place (broadcast to its shape), a function is given the value. What is read is read after
        the edits. A gate is set, for this run, by a number or tensor (its g) or a dict of g, h and r; gradients flow to these.
        Raises: SiteError for addresses that match nothing, or no gate.
        """
        from rewrite.poke import poke

        if not isinstance(inputs, Mapping):
            raise InputError(
                f"run: expected keyword inputs as a dict, got {type(inputs).__name__}. Write run(dict(input_ids=ids)) or run({{}}, ids)."
            )
        tensors = self.gates.held(gates) if gates else self.tensors
        return poke(self, tensors, bind(self, args, inputs), dict(edit or {}), list(read))

    @cached_property
    def _resumed(self) -> dict[Any, Resume]:
        return {}

    def resume(self, groups: Sequence[Sequence[str]], *, positions: bool = False, each: bool = False) -> Resume:
        """The program made ready to run once, and then again only what depends on the values at some addresses, for each group of them.

        `positions`: its outputs hold some positions only, `each`: other ones for each example.
        Raises: SiteError for addresses that match nothing or reach no output.
        """
        from rewrite.resume import Resume

        key = (tuple(map(tuple, groups)), positions, each)
        if key not in self._resumed:
            self._resumed[key] = Resume(self, groups, positions=positions, each=each)
        return self._resumed[key]

    def refresh(self) -> None:
        """Forgets cached constants: needed only after a weight was changed through `.data`, which leaves no trace."""
        for runner in self._runners.values():
            runner.refresh()

    def cost(self) -> Cost:
        """What one run takes: parameters, nodes, floating point operations on the example; prints as a line."""
        from rewrite.show import cost

        return cost(self)

    # ------------------------------------------------------------------------------------------------ handing on

    @cached_property
    def graph_module(self) -> fx.GraphModule:
        """The program as a plain fx.GraphModule, parameters and gates as its attributes, flat inputs and outputs."""
        from rewrite.export import to_graph_module

        return to_graph_module(self)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the program to a folder, atomically; `rewrite.load` reads it back without running anything of it."""
        from rewrite.save import save

        save(self, directory)

    def export(self, path: str | os.PathLike[str], *, gates: str = "buffers") -> None:
        """Writes a `.pt2` that plain torch runs; gates are named buffers at their values, or with gates="inputs" inputs."""
        from rewrite.export import export

        export(self, path, gates=gates)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Program:
        """The program with its tensors and device literals on `device`.

        Raises: InputError for a dtype: trace the model in that dtype instead.
        """
        from rewrite.device import to_device

        return to_device(self, device)
