"""Resuming: one plain run, and then only what depends on edited values, run again for many edits side by side.

What an edit cannot reach is taken from the plain run. Copies of the examples lie side by side along their axis, one for each set of
edits; sizes, being numbers known from the inputs, are worked out anew. With `positions`, what comes after the last place at which
positions mix runs at these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite.address import parse
from rewrite.axes import axis_of, first_sizes
from rewrite.call import bind, restore
from rewrite.errors import SiteError
from rewrite.excerpt import Excerpt, Fork, Taken, positionwise
from rewrite.layout import Layout
from rewrite.readers import reads
from rewrite.run import needed

if TYPE_CHECKING:
    from rewrite.program import Program

Positions = int | Sequence[int] | Tensor
TOLERANCE = 1e-4  # of the largest output: far above rounding, far below what a spoilt neighbour does


@dataclass(frozen=True)
class Start:
    """A plain run: its output, and what resuming takes from it."""

    output: Any
    leaves: tuple[Any, ...]
    taken: Mapping[Taken, Any]
    layout: Layout


class Resume:
    """A program made ready to be run again from edited values: `start` once for some inputs, then `finish` for each group of addresses.

    `groups` are addresses of sites, or of families' coordinates (`...@act`): those of a group are edited in one run.
    """

    def __init__(self, program: Program, groups: Sequence[Sequence[str]], *, positions: bool = False, each: bool = False):
        """With `positions` outputs hold only some positions; `each`: other ones for each example.

        Raises: SiteError for an address that matches nothing, InputError for an output without positions.
        """
        self.program, self.groups = program, [tuple(group) for group in groups]
        forks = [Fork.of(program, group) for group in self.groups]
        for fork, group in zip(forks, self.groups, strict=True):
            if not {one for one in fork.outputs if isinstance(one, fx.Node)} & fork.behind:
                raise SiteError(f"{', '.join(group)}: expected an edit that reaches an output, got one that reaches none.")

        def inside(fork: Fork, **more: Sequence[fx.Node]) -> set[fx.Node]:
            return positionwise(fork, program, each, **more) if positions else set()

        self._tails = [Excerpt(program, fork, fork.behind, inside(fork), select=positions) for fork in forks]
        self._wanted = list(dict.fromkeys(taken for tail in self._tails for taken in tail.taken))
        self._computed = [taken for taken in self._wanted if program.nodes[taken.name].op == "call_function"]
        plain = Fork.of(program)
        whole = [program.nodes[taken.name] for taken in self._wanted if not taken.selected]
        some = [program.nodes[taken.name] for taken in self._wanted if taken.selected]
        self._first = Excerpt(program, plain, None, inside(plain, whole=whole, more=some), select=positions, also=self._computed)
        self._apart: list[tuple[frozenset[str], bool]] = []

    # ------------------------------------------------------------------------------------------------ running

    def start(self, inputs: Mapping[str, Any], positions: Positions | None = None) -> Start:
        """The plain run for these inputs.

        Raises: InputError for inputs that do not fit, or positions that are not there.
        """
        bound = bind(self.program, (), inputs)
        layout = Layout.of(self.program, bound, positions)
        flat = self._first(bound, layout)
        count = len(self.program.outputs)
        taken = dict(zip(self._computed, flat[count:], strict=True))
        for one in self._wanted:
            if one not in taken:  # an input
                taken[one] = layout.select(bound[one.name], self.program.nodes[one.name]) if one.selected else bound[one.name]
        return Start(restore(self.program, flat[:count]), flat[:count], taken, layout)

    def finish(self, start: Start, group: int, edits: Mapping[str, Callable[[Tensor], Tensor]], copies: int = 1) -> list[Any]:
        """The output for each copy of the examples: `edits` are given the copies' values side by side along the axis of examples."""
        return [restore(self.program, leaves) for leaves in self._leaves(start, group, edits, copies)]

    def _leaves(self, start: Start, group: int, edits: Mapping[str, Any], copies: int) -> list[tuple[Any, ...]]:
        tail, layout = self._tails[group], start.layout.copied(copies)
        nodes = self.program.nodes
        given = {name: layout.repeated(start.taken[one], nodes[one.name]) for one, name in tail.taken.items()}
        functions = dict(zip(tail.functions, (edits[address] for address in self.groups[group]), strict=True))
        flat = tail({**given, **functions}, layout)
        return list(zip(*(layout.parted(leaf, node) for leaf, node in zip(flat, self.program.outputs, strict=True)), strict=True))

    def axis(self, address: str) -> int | None:
        """The axis along which an edit at `address` finds the copies; None if the value has no axis of examples."""
        for tail, group in zip(self._tails, self.groups, strict=True):
            if address in group:
                value = tail.fork.value_edited(group.index(address))
                return None if value is None else axis_of(value.shape, first_sizes(self.program)[0], 0)
        return None

    # ------------------------------------------------------------------------------------------------ copies side by side

    def apart(self, start: Start, group: int) -> bool:
        """True if copies of the examples can run side by side without seeing one another; tried on one example beside a spoilt copy.

        What holds for a group holds for those that only run a part of what it runs.
        """
        names = frozenset(node.name for node in self._tails[group].fork.behind)
        for known, found in self._apart:
            if (names <= known) if found else (known <= names):
                return found
        found = self._try_apart(start, group)
        self._apart.append((names, found))
        return found

    def _try_apart(self, start: Start, group: int) -> bool:
        axes = {address: self.axis(address) for address in self.groups[group]}
        nodes = [self.program.nodes[one.name] for one in self._tails[group].taken]
        if None in axes.values() or not start.layout.repeatable([*nodes, *self.program.outputs]):
            return False
        one = self._of_first(start)
        expected = [leaf for leaf in one.leaves if isinstance(leaf, Tensor)]

        def spoilt(axis: int) -> Callable[[Tensor], Tensor]:
            return lambda value: torch.cat([value.narrow(axis, 0, 1), 1 - 2 * value.narrow(axis, 1, 1)], axis)

        edits = {address: spoilt(axis or 0) for address, axis in axes.items()}
        try:
            found = [leaf for leaf in self._leaves(one, group, edits, 2)[0] if isinstance(leaf, Tensor)]
        except RuntimeError:  # a size that is written into the graph as a number
            return False
        return all(_close(a, b) for a, b in zip(found, expected, strict=True))

    def _of_first(self, start: Start) -> Start:
        """The plain run's values for the first example alone."""
        layout, nodes = start.layout, self.program.nodes
        leaves = tuple(layout.first(leaf, node) for leaf, node in zip(start.leaves, self.program.outputs, strict=True))
        taken = {one: layout.first(value, nodes[one.name]) for one, value in start.taken.items()}
        return Start(None, leaves, taken, layout.of_first())

    # ------------------------------------------------------------------------------------------------ memory

    def kept(self, layout: Layout) -> int:
        """What a plain run keeps for resuming. Units: bytes."""
        return sum(layout.bytes(self.program.nodes[one.name], one.selected) for one in self._wanted)

    def peak(self, group: int, layout: Layout) -> int:
        """What one copy takes at most while it runs, beside the weights and what is kept. Units: bytes."""
        return self._tails[group].peak(layout)


def work_behind(program: Program, edited: Sequence[str]) -> frozenset[str]:
    """What an edit at these addresses makes run again, but for ops that only move or combine numbers one by one, and sums of families.

    Edits with the same work behind them may run as one.
    """
    readers: list[fx.Node] = []
    families: set[str] = set()
    for address in edited:
        parsed = parse(address)
        if address not in program.sites_by_address and parsed.act:
            families.add(address)
            readers += program.nodes[program.families[parsed.site].total].users
        else:
            site = program.sites_by_address[parsed.site]
            readers += [user for user in program.nodes[site.node].users if reads(user, site)]
    wanted = needed(one for one in program.outputs if isinstance(one, fx.Node))
    behind = set(readers) & wanted
    for node in program.graph.nodes:
        if node in wanted and any(one in behind for one in node.all_input_nodes):
            behind.add(node)
    return frozenset(node.name for node in behind if _works(node)) | families


def _works(node: fx.Node) -> bool:
    target: Any = node.target
    light = isinstance(target, torch._ops.OpOverload) and (torch.Tag.pointwise in target.tags or target.is_view)
    return node.op == "call_function" and not light and target is not torch.ops.aten.reshape.default


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    scale = max(float(b.abs().max()) if b.numel() else 0.0, 1e-30)
    return bool(((a - b).abs().nan_to_num(0.0, posinf=torch.inf) <= max(TOLERANCE, 16 * torch.finfo(a.dtype).eps) * scale).all())
