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
from analysis.attribution.references import Mode, References, setting, values
from analysis.data import Batch, Metric, batches, inputs, measured, size
from analysis.means import Over
from analysis.standing import standing
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
    `gradient` takes one backward pass a batch for all addresses. `integrated` takes `steps` of them: all gates are moved together, so
    that the effects sum to that of ablating all; or with `along` those gates alone are moved, and the others attributed on the way.
    `oracle` ablates each address as well, and adds what that does as `exact`.
    Units: the metric's. Raises: SiteError for an address that matches nothing, InputError for data or a metric that does not fit,
    TautomerError for a rewrite that is not proved, unless `unproved`.
    """
    if method not in ("gradient", "integrated") or steps < 1 or (along is not None and method != "integrated"):
        found = f"{method!r}, {steps} steps, along {along!r}"
        raise InputError(f"{WHERE}: expected method gradient, or integrated with steps and perhaps along, got {found}.")
    listed = batches(program, data, WHERE)
    program, targets, left = gated(program, addresses, WHERE)
    program, moved, _ = (program, [], {}) if along is None else gated(program, along, WHERE)
    found = standing(program, unproved=unproved, seed=seed, progress=progress)
    names = list(dict.fromkeys(target.gate for target in [*targets, *moved]))
    references = References(program, names, listed, mode, over, seed, WHERE)
    way = Way(1 if method == "gradient" else steps, None if along is None else tuple(dict.fromkeys(target.gate for target in moved)))
    way = way if method == "integrated" else Way(1, ())
    parts = []
    for number, batch in enumerate(listed):
        if progress:
            progress(f"batch {number + 1} of {len(listed)}")
        parts.append(_Pass(program, targets, batch, metric, references.of(number), way).effects())
    examples = {target.address: torch.cat([part[target.address] for part in parts]) for target in targets}
    settings = {"method": method, "mode": references.name, "seed": seed, "n": len(next(iter(examples.values())))}
    settings |= {"over": over} if mode == "mean" else {}
    settings |= {"steps": steps, "along": "all together" if along is None else ", ".join(way.moved or ())} if method == "integrated" else {}
    settings |= {"left out": "; ".join(f"{address}: {why}" for address, why in left.items())} if left else {}
    rows: list[Mapping[str, Any]] = [{"address": address, **summary(values, seed)} for address, values in examples.items()]
    if oracle:
        true = exact(program, targets, listed, metric, references, progress)
        rows = [{**row, "exact": true[row["address"]].mean().item()} for row in rows]
        rows = [{**row, "error": row["effect"] - row["exact"]} for row in rows]
        settings["rank correlation"] = f"{rank_correlation([row['effect'] for row in rows], [row['exact'] for row in rows]):.3f}"
    return Table("attribution", found, rows, settings, examples)


@dataclass(frozen=True)
class Way:
    """Where gradients are taken: at the middles of `steps` stretches of the way on which the gates `moved` go from (1, 0) to (0, 1).

    None moves all gates that are asked about; with no gate moved the one point is the program as it is.
    """

    steps: int
    moved: tuple[str, ...] | None

    def points(self) -> list[float]:
        """How far along each point is."""
        return [(step + 0.5) / self.steps for step in range(self.steps)]


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
        self.moved = set(self.gates if self.way.moved is None else self.way.moved)
        self.change = self._changes()

    def _changes(self) -> dict[str, Tensor]:
        """r - t for gates that stay where they are while others move: on the way t is not what it was."""
        still = [gate for gate in self.gates if gate not in self.moved] if self.moved else []
        if not still:
            return {}
        clean = values(self.program, self.batch, still)
        return {gate: self.reference[gate] - value if gate in self.reference else -value for gate, value in clean.items()}

    def effects(self) -> dict[str, Tensor]:
        """The predicted change of the metric for each target. Shapes: [example]."""
        totals: dict[str, Tensor] = {}
        for alpha in self.way.points():
            for gate, effect in self._at(alpha).items():
                totals[gate] = totals.get(gate, torch.zeros_like(effect)) + effect / self.way.steps
        return {target.address: self._of(target, totals[target.gate]) for target in self.targets}

    def _of(self, target: Target, effect: Tensor) -> Tensor:
        """Shapes: effect [example, ...], with members last if it is a family's; [example]."""
        if target.member is not None:
            effect = effect[..., target.member]
        return effect.reshape(self.examples, -1).sum(1).cpu()

    def _at(self, alpha: float) -> dict[str, Tensor]:
        """The derivative of the metric of each example on the way of each gate. Shapes: [example, ...], members last."""
        live = {gate: self._live(gate, alpha if gate in self.moved else 0.0) for gate in self.gates}
        set_only = {gate: setting(self.reference, gate, alpha) for gate in self.moved if gate not in live}
        with torch.enable_grad():
            output, _ = self.program.run(inputs(self.program, self.batch), gates={**set_only, **live})
            values = measured(self.metric, output, self.batch, self.examples, WHERE)
        if not values.requires_grad:
            raise InputError(f"{WHERE}: expected a metric with a gradient at the gates, got one without. Do not detach, round or argmax.")
        return self._gradients(values, live)

    def _live(self, gate: str, alpha: float) -> dict[str, Tensor]:
        """A gate's numbers at `alpha`, to be differentiated by: one for each example where its value has them apart."""
        held = self.program.gates[gate]
        shape = sizes(self.program, gate, self.examples)
        shape = shape or list(held.g.shape if held.record.size is None else [held.record.size])
        reference = self.change if gate in self.change else self.reference
        made = {"g": torch.full(shape, 1.0 - alpha, dtype=held.r.dtype, device=held.r.device).requires_grad_()}
        made["h"] = torch.full_like(made["g"], alpha if gate in reference else 0.0).requires_grad_()
        return {**made, **({"r": reference[gate]} if gate in reference else {})}

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
            slope = by_h if gate in self.change else by_h - by_g if gate in self.reference else -by_g
            if not bool(torch.isfinite(slope).all()):
                raise InputError(f"{WHERE}: expected finite gradients, got inf or nan at the gate of {gate!r}. Its metric has none there.")
            found[gate] = slope.double()
        return found
