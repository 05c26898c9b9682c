"""Ablation: what a metric changes by when values are taken out, all together (`ablate`) or each by itself (`sweep`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from analysis.data import Batch, Metric, batches
from analysis.effects import effects
from analysis.reference import Mode, Over, References, Value
from analysis.standing import standing
from analysis.table import Table, summary
from analysis.targets import Target, check_alive, prepared, singles, together
from analysis.targets import pairs as pairs_of
from rewrite import Program


def ablate(
    program: Program,
    addresses: str | Iterable[str],
    data: Iterable[Batch] | Batch,
    metric: Metric,
    *,
    mode: Mode = "zero",
    over: Over = "dataset",
    value: Value | None = None,
    seed: int = 0,
    unproved: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Table:
    """A table of one row: what the metric changes by when everything at `addresses` is ablated at once."""
    return _table(
        "ablation", program, addresses, data, metric, lambda found: [together(found)], mode, over, value, seed, unproved, progress
    )


def sweep(
    program: Program,
    addresses: str | Iterable[str],
    data: Iterable[Batch] | Batch,
    metric: Metric,
    *,
    mode: Mode = "zero",
    over: Over = "dataset",
    value: Value | None = None,
    pairs: bool = False,
    seed: int = 0,
    unproved: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Table:
    """A table of a row for each target: what the metric changes by when it alone is ablated; with `pairs`, of each two targets too."""

    def targets(found: list[Target]) -> list[Target]:
        return [*found, *(pairs_of(found) if pairs else [])]

    return _table("sweep", program, addresses, data, metric, targets, mode, over, value, seed, unproved, progress)


def _table(
    title: str,
    program: Program,
    addresses: str | Iterable[str],
    data: Iterable[Batch] | Batch,
    metric: Metric,
    choose: Callable[[list[Target]], list[Target]],
    mode: Mode,
    over: Over,
    value: Value | None,
    seed: int,
    unproved: bool,
    progress: Callable[[str], None] | None,
) -> Table:
    program, full = prepared(program, addresses, title)
    listed = batches(program, data, title)
    targets = choose(singles(program, full))
    known = standing(program, unproved=unproved, seed=seed, progress=progress)
    check_alive(program, targets, seed)
    parts = list(dict.fromkeys(part for target in targets for part in target.parts))
    references = References(program, listed, parts, mode, over, value, seed).prepare()
    found = effects(program, listed, targets, metric, references, progress)
    changes = {target.address: row - found.clean for target, row in zip(targets, found.ablated, strict=True)}
    rows = [{"address": address, **summary(change, seed)} for address, change in changes.items()]
    settings = {"mode": mode, **({"over": over} if mode == "mean" else {}), "seed": seed, "baseline": f"{found.clean.mean().item():.6g}"}
    return Table(title, known, rows, settings, changes)
