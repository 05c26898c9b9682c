"""Attribution: what ablating each of many addresses would do to a metric, from gradients at their gates.

    m((1 - a) t + a r) - m(t)  ~  -dm/dg + dm/dh at (g, h) = (1, 0), for t -> g t + h r

To first order this is (r - t) . dm/dt: attribution patching, for nodes, terms and members; at the gates of paths it is edge attribution
patching (EAP). Integrated along a way from (1, 0) to (0, 1) it is integrated gradients; along one for the embeddings, EAP-IG.
Source: Nanda 2023, "Attribution Patching"; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery";
Hanna et al. 2024, "Have Faith in Faithfulness"; Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from analysis.attribution.exact import exact
from analysis.attribution.gating import Target, gated, sizes
from analysis.attribution.oracle import rank_correlation
from analysis.attribution.references import Mode, References, values
from analysis.checks import check_functions, check_seed, is_number
from analysis.data import Batch, Metric, batches, check_fit, inputs, measured, size
from analysis.means import Over
from analysis.standing import check_alive, standing
from analysis.table import Table, summary
from rewrite import InputError, Program

WHERE = "attribute"
Method = Literal["gradient", "integrated"]


def attribute(
    program: Program,
    addresses: str | Iterable[str],
    data: Iterable[Batch] | Batch,
    metric: Metric,
    *,
    method: Method = "gradient",
    steps: int = 10,
    along: str | Iterable[str] | None = None,
    mode: Mode = "zero",
    over: Over = "dataset",
    oracle: bool = False,
    seed: int = 0,
    unproved: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Table:
    """A table of the change of the metric that ablating each address is predicted to make, mean over the examples.

    Addresses are sites, terms, families (all members together), members (`head[3]`, `head[:]`) and paths (`a -> b`), or globs; heads,
    neurons, paths and gates are applied where they need them. What takes a value's place is `mode`: zero, its mean, its value on
    another example (resample), or on reference batches that go with the data one by one. Means are `over` all examples and positions
    ("dataset"), those of the same batch ("batch"), or all examples for each position ("position").
    `gradient` takes one backward pass a batch for all addresses. `integrated` takes `steps` of them: all addresses are moved together,
    so that the effects sum to that of ablating all; or with `along` those alone are moved, and the others attributed on the way.
    `oracle` ablates each address as well, and adds what that does as `exact`.
    Units: the metric's. Raises: SiteError for an address that matches nothing, InputError for data or a metric that does not fit,
    TautomerError for a rewrite that is not proved, unless `unproved`.
    """
    _check(method, steps, along, seed, metric=metric, progress=progress)
    listed = batches(program, data, WHERE)
    check_fit(program, listed)
    program, targets, left = gated(program, addresses, WHERE)
    program, moved, _ = (program, targets, {}) if along is None else gated(program, along, WHERE)
    names = list(dict.fromkeys(target.gate for target in [*targets, *moved]))
    references = References(program, names, listed, mode, over, seed, WHERE)
    way = Way.of(program, moved, steps if method == "integrated" else 0)
    passes = (_Pass(program, targets, batch, metric, references.of(number), way).effects() for number, batch in enumerate(listed))
    parts = [next(passes)]  # misuse is found in the first batch, before the proof
    found = standing(program, unproved=unproved, seed=seed, progress=progress)
    check_alive(program, _one_of_each(targets), seed)
    for number in range(1, len(listed)):
        if progress:
            progress(f"batch {number + 1} of {len(listed)}")
        parts.append(next(passes))
    examples = {target.address: torch.cat([part[target.address] for part in parts]) for target in targets}
    settings = {"method": method, "mode": references.name, "seed": seed, "n": len(next(iter(examples.values())))}
    settings |= {"over": over} if mode == "mean" else {}
    settings |= _way_told(way, along, moved, left)
    table = Table("attribution", found, [{"address": a, **summary(v, seed)} for a, v in examples.items()], settings, examples)
    return _with_exact(table, exact(program, targets, listed, metric, references, progress)) if oracle else table


def _check(method: str, steps: Any, along: Any, seed: Any, **functions: Any) -> None:
    if method not in ("gradient", "integrated") or not is_number(steps, 1) or (along is not None and method != "integrated"):
        found = f"{method!r}, {steps} steps, along {along!r}"
        raise InputError(f"{WHERE}: expected method gradient, or integrated with steps and perhaps along, got {found}.")
    check_seed(seed, WHERE)
    check_functions(WHERE, **functions)


def _way_told(way: Way, along: Any, moved: Sequence[Target], left: Mapping[str, str]) -> dict[str, Any]:
    """What a table says of the way that was gone, and of what was left out."""
    told: dict[str, Any] = {}
    if way.steps:
        told = {"steps": way.steps, "along": "all together" if along is None else ", ".join(one.address for one in moved)}
    return told | ({"left out": "; ".join(f"{address}: {why}" for address, why in left.items())} if left else {})


def _one_of_each(targets: Sequence[Target]) -> list[str]:
    """The addresses of targets, of a family's members the first one only, which stands for all."""
    return list({(target.gate, target.member is None): target.address for target in reversed(targets)}.values())


def _with_exact(table: Table, true: Mapping[str, Tensor]) -> Table:
    """The table with what exact ablation gives beside it."""
    rows = [{**row, "exact": true[row["address"]].mean().item()} for row in table.rows]
    rows = [{**row, "error": row["effect"] - row["exact"]} for row in rows]
    rank = rank_correlation([row["effect"] for row in rows], [row["exact"] for row in rows])
    return Table(table.title, table.standing, rows, {**table.settings, "rank correlation": f"{rank:.3f}"}, table.examples)


@dataclass(frozen=True)
class Way:
    """Where gradients are taken: at the middles of `steps` stretches of the way on which what is `moved` goes from (1, 0) to (0, 1).

    `moved` has for each gate 1 where it moves and 0 where it stays: one number, or one for each member of a family. Without steps the
    one point is the beginning, the program as it is.
    """

    steps: int
    moved: Mapping[str, Tensor]

    @staticmethod
    def of(program: Program, targets: Sequence[Target], steps: int) -> Way:
        """The way on which these targets move; of a family only the members that are named, all of them without steps."""
        moved: dict[str, Tensor] = {}
        for target in targets:
            held = program.gates[target.gate]
            size = held.record.size
            mask = moved.setdefault(target.gate, torch.zeros([] if size is None else [size], dtype=held.r.dtype, device=held.r.device))
            mask[... if target.member is None or not steps else target.member] = 1.0
        return Way(steps, moved)

    def points(self) -> list[float]:
        """How far along each point is."""
        return [(step + 0.5) / self.steps for step in range(self.steps)] if self.steps else [0.0]


@dataclass
class _Pass:
    """One batch: the gates of all targets at points of the way, and the gradients there."""

    program: Program
    targets: Sequence[Target]
    batch: Batch
    metric: Metric
    reference: dict[str, Tensor]
    way: Way

    def __post_init__(self) -> None:
        self.examples = size(self.program, self.batch)
        self.gates = list(dict.fromkeys(target.gate for target in self.targets))
        self.reference = {**self.reference, **self._changes()}

    def _moves(self, gate: str) -> Tensor:
        """1 where the gate moves, 0 where it stays. Shapes: [], or [member]."""
        return self.way.moved[gate] if gate in self.way.moved else torch.zeros((), device=self.program.gates[gate].r.device)

    def _changes(self) -> dict[str, Tensor]:
        """For gates that stay where they are, in part or all, while others move: r - t there, as on the way t is not what it was."""
        still = [
            target.gate
            for target in self.targets
            if not bool(self._moves(target.gate)[... if target.member is None else target.member].all())
        ]
        if not still:
            return {}
        clean = values(self.program, self.batch, list(dict.fromkeys([*still, *self.way.moved])))
        found: dict[str, Tensor] = {}
        for gate in dict.fromkeys(still):
            held, moves = self.program.gates[gate], self._moves(gate)
            if moves.dim():
                moves = moves.reshape(-1, *[1] * (len(held.shape) - (held.axis or 0) - 1))
            found[gate] = self.reference.get(gate, torch.zeros_like(held.r)) - clean[gate] * (1 - moves)
        return found

    def effects(self) -> dict[str, Tensor]:
        """The predicted change of the metric for each target. Shapes: [example]."""
        totals: dict[str, Tensor] = {}
        points = self.way.points()
        for alpha in points:
            for gate, effect in self._at(alpha).items():
                totals[gate] = totals.get(gate, torch.zeros_like(effect)) + effect / len(points)
        return {target.address: self._of(target, totals[target.gate]) for target in self.targets}

    def _of(self, target: Target, effect: Tensor) -> Tensor:
        """Shapes: effect [example, ...], with members last if it is a family's; [example]."""
        if target.member is not None:
            effect = effect[..., target.member]
        return effect.reshape(self.examples, -1).sum(1).cpu()

    def _at(self, alpha: float) -> dict[str, Tensor]:
        """The derivative of the metric of each example on the way of each gate. Shapes: [example, ...], members last."""
        live = {gate: self._live(gate, alpha) for gate in dict.fromkeys([*self.gates, *self.way.moved])}
        with torch.enable_grad():
            output, _ = self.program.run(inputs(self.program, self.batch), gates=live)
            values = measured(self.metric, output, self.batch, self.examples, WHERE)
        if not values.requires_grad:
            raise InputError(f"{WHERE}: expected a metric with a gradient at the gates, got one without. Do not detach, round or argmax.")
        return self._gradients(values, {gate: live[gate] for gate in self.gates})

    def _live(self, gate: str, alpha: float) -> dict[str, Tensor]:
        """A gate's numbers at `alpha`, to be differentiated by: one for each example where its value has them apart."""
        held = self.program.gates[gate]
        shape = sizes(self.program, gate, self.examples)
        shape = shape or list(held.g.shape if held.record.size is None else [held.record.size])
        part = (alpha * self._moves(gate)).to(held.r.dtype).expand(shape)
        there = gate in self.reference
        made = {"g": (1.0 - part).requires_grad_(), "h": (part if there else torch.zeros_like(part)).clone().requires_grad_()}
        return {**made, **({"r": self.reference[gate]} if there else {})}

    def _gradients(self, values: Tensor, live: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        apart = [gate for gate in live if sizes(self.program, gate, self.examples) is not None]
        shared = [gate for gate in live if gate not in apart]
        found = self._derivatives(values.sum(), apart, live, keep=bool(shared)) if apart else {}
        if shared:  # one gate for all examples: a backward pass for each of them
            rows = [self._derivatives(value, shared, live, keep=i + 1 < len(values)) for i, value in enumerate(values)]
            found |= {gate: torch.stack([row[gate] for row in rows]) for gate in shared}
        return found

    def _derivatives(self, value: Tensor, gates: list[str], live: dict[str, dict[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
        numbers = [live[gate][name] for gate in gates for name in ("g", "h")]
        slopes = torch.autograd.grad(value, numbers, retain_graph=keep, allow_unused=True)
        found: dict[str, Tensor] = {}
        for i, gate in enumerate(gates):
            by_g, by_h = slopes[2 * i : 2 * i + 2]
            if by_g is None or by_h is None:
                raise InputError(
                    f"{WHERE}: expected values that the metric depends on, got {gate!r}, of which it does not. "
                    "Leave it out, or see verify.liveness for what cancels it."
                )
            slope = by_h - by_g * self._moves(gate) if gate in self.reference else -by_g
            if not bool(torch.isfinite(slope).all()):
                raise InputError(f"{WHERE}: expected finite gradients, got inf or nan at the gate of {gate!r}. Its metric has none there.")
            found[gate] = slope.double()
        return found
