"""Exact ablation, one address after another: what predictions are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from analysis.attribution.gating import Target
from analysis.attribution.references import References, setting
from analysis.data import Batch, Metric, inputs, measured, size
from rewrite import Program


def exact(
    program: Program,
    targets: Sequence[Target],
    data: Sequence[Batch],
    metric: Metric,
    references: References,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """The change of the metric when each target alone is ablated.

    Shapes: [example] for each address.
    """
    found: dict[str, list[Tensor]] = {target.address: [] for target in targets}
    gates = list(dict.fromkeys(target.gate for target in targets))
    clean: dict[str, Any] = {gate: {"g": 1.0, "h": 0.0} for gate in gates}
    for number, batch in enumerate(data):
        given, count, reference = inputs(program, batch), size(program, batch), references.of(number)

        def score(gates: dict[str, Any], batch: Batch = batch, given: Any = given, count: int = count) -> Tensor:
            with torch.no_grad():
                return measured(metric, program.run(given, gates=gates)[0], batch, count, "ablate").cpu()

        before = score(clean)
        for target in targets:
            if progress:
                progress(f"ablating {target.address}")
            found[target.address].append(score({**clean, **_closed(target, reference)}) - before)
    return {address: torch.cat(parts) for address, parts in found.items()}


def _closed(target: Target, reference: dict[str, Tensor]) -> dict[str, Any]:
    """The gate of one target at (0, 1) with its reference, at 0 without one."""
    whole = setting(reference, target.gate, 1.0)
    if target.member is None:
        return {target.gate: whole}
    members = {name: value for name, value in whole.items() if name != "r"}
    others = {"g": 1.0, "h": 0.0, **({"r": whole["r"]} if "r" in whole else {})}
    return {target.gate: others, target.address: members}
