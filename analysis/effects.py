"""Effects: what a metric changes by when values are ablated, target by target, example by example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from analysis.data import Metric, inputs, measured, size
from analysis.edits import edit
from analysis.reference import Reference
from analysis.targets import Target
from rewrite import Program


@dataclass(frozen=True)
class Effects:
    """The metric without edits, and with each target ablated. Shapes: clean [example], ablated [target, example]."""

    clean: Tensor
    ablated: Tensor


def effects(
    program: Program,
    data: Sequence[Mapping[str, Any]],
    targets: Sequence[Target],
    metric: Metric,
    references: Callable[[int], Reference],
    progress: Callable[[str], None] | None,
) -> Effects:
    """The metric of every example without edits and with each target ablated."""
    clean, ablated = [], []
    with torch.no_grad():
        for number, batch in enumerate(data):
            given, count = inputs(program, batch), size(program, batch)
            clean.append(measured(metric, program.run(given)[0], batch, count, "metric"))
            reference, rows = references(number), []
            for target in targets:
                edits = {edited: edit(edited, [target], reference, None) for edited in target.edited}
                rows.append(measured(metric, program.run(given, edit=edits)[0], batch, count, f"metric, {target.address} ablated"))
                if progress:
                    progress(f"batch {number + 1} of {len(data)}: {len(rows)} of {len(targets)} targets")
            ablated.append(torch.stack(rows))
    return Effects(torch.cat(clean), torch.cat(ablated, 1))
