"""The program: a traced model as a value. Applying a pass returns a new program; this file never edits a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.records import Calling, Claim, FamilyRecord, Header, Leaf, Site, SplitRecord, Step


@dataclass(frozen=True, eq=False)
class Program:
    """A functional graph, its tensors by reference, its calling convention, sites, history, example and origin.

    `leaves`: placeholder node name -> Leaf, in graph order. `tensors`: leaf name -> tensor, for every leaf that is not an input
    (tied weights are one tensor object under two names). Every node has `meta["val"]` (fake tensor, SymInt or number) and
    `meta["scope"]` (a tuple of tags: the module calls around it, and the sums it belongs to).
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
    claims: tuple[Claim, ...] = ()
    steps: tuple[Step, ...] = ()
    traced_from: Program | None = None  # None: this is the origin itself

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
