"""Ablation: what a metric changes by when values are taken out, all together (`ablate`) or each by itself (`sweep`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from analysis.ablation.checkpoint import Checkpoint
from analysis.ablation.edits import check_places
from analysis.ablation.effects import MEMORY, Effects, Plan, Positions
from analysis.ablation.reference import Mode, Over, References, Value
from analysis.ablation.targets import Target, asked, prepared, singles, together
from analysis.ablation.targets import pairs as every_two
from analysis.checks import check_functions, check_seed, is_number
from analysis.data import Batch, Metric, batches, size
from analysis.fingerprint import fingerprint
from analysis.standing import check_alive, standing
from analysis.table import Table, summary
from rewrite import InputError, Program
from rewrite.errors import nearest


class Settings(TypedDict, total=False):
    """How to ablate; all may be left out.

    mode: what takes a value's place: "zero", "mean", "resample" (what another example has there), "value". over: what a mean is over:
    "dataset", "batch" (examples and positions of all data, or of the batch), "position" (all examples, for each position). value: a
    number, a tensor, or a dict of these by address. positions: those that the metric reads, as numbers, a tensor [position] or [example,
    position], or the name of one in the batches; the metric is given outputs of these alone. memory: bytes to stay within. checkpoint: a
    folder that keeps finished pieces. unproved: go on with a rewrite that is not known to be the same function.
    """

    mode: Mode
    over: Over
    value: Value | None
    positions: Positions | None
    seed: int
    memory: int
    checkpoint: str | Path | None
    unproved: bool
    progress: Callable[[str], None] | None


def ablate(
    program: Program, addresses: str | Iterable[str], data: Iterable[Batch] | Batch, metric: Metric, **settings: Unpack[Settings]
) -> Table:
    """A table of one row: what the metric changes by when everything at `addresses` is ablated at once.

    Effects are the metric with the ablation less the metric without, for each example; see `Settings` for the keywords.
    Raises: SiteError for an address that matches nothing, InputError for data or a metric that do not fit, TautomerError for an edit that
    cannot reach an output or a rewrite that is not the same function.
    """
    return _table("ablation", program, addresses, data, metric, lambda found: [together(found)], settings)


def sweep(
    program: Program,
    addresses: str | Iterable[str],
    data: Iterable[Batch] | Batch,
    metric: Metric,
    *,
    pairs: bool = False,
    **settings: Unpack[Settings],
) -> Table:
    """A table of a row for each target: what the metric changes by when it alone is ablated; with `pairs`, of each two targets too.

    Members of families are targets each. What two targets change beyond the sum of what each does is their `interaction`.
    Settings and errors as for `ablate`.
    """
    table = _table("sweep", program, addresses, data, metric, lambda found: [*found, *(every_two(found) if pairs else [])], settings)
    return _with_interactions(table) if pairs else table


def _table(
    title: str,
    program: Program,
    addresses: str | Iterable[str],
    data: Iterable[Batch] | Batch,
    metric: Metric,
    choose: Callable[[list[Target]], list[Target]],
    settings: Settings,
) -> Table:
    _check(title, metric, settings)
    mode, over, value = settings.get("mode", "zero"), settings.get("over", "dataset"), settings.get("value")
    seed, positions, progress = settings.get("seed", 0), settings.get("positions"), settings.get("progress")
    program, full = prepared(program, addresses, title)
    listed = batches(program, data, title)
    targets = choose(singles(program, full))
    parts = list(dict.fromkeys(part for target in targets for part in target.parts))
    references = References(program, listed, parts, mode, over, value, seed)
    references.check()
    plan = Plan(program, listed, targets, metric, positions, settings.get("memory", MEMORY))
    check_places(program, listed, references)
    plan.check()
    prepared_references = references.prepare()
    known = standing(program, unproved=settings.get("unproved", False), seed=seed, progress=progress)
    check_alive(program, asked(targets), seed)
    checkpoint = None
    if folder := settings.get("checkpoint"):
        shown = {"mode": mode, "over": over, "value": value, "seed": seed, "positions": positions, "metric": metric}
        names = ", ".join(target.address for target in targets)
        told = fingerprint(program, listed, targets=names, **shown)
        checkpoint = Checkpoint(folder, told, len(targets), [size(program, batch) for batch in listed])
    found = plan.run(prepared_references, checkpoint, progress)
    told = {"mode": mode, **({"over": over} if mode == "mean" else {}), "seed": seed}
    return _rows(title, known, targets, found, told)


def _check(title: str, metric: Any, settings: Mapping[str, Any]) -> None:
    """Raises: InputError for settings that there are not, or that are of another kind."""
    for name in settings:
        if name not in Settings.__annotations__:
            advice = nearest(name, Settings.__annotations__) or f" There are {', '.join(Settings.__annotations__)}."
            raise InputError(f"{title}: expected a setting, got {name!r}.{advice}")
    check_seed(settings.get("seed", 0), title)
    check_functions(title, metric=metric, progress=settings.get("progress"))
    if not is_number(settings.get("memory", MEMORY), 0):
        raise InputError(f"{title}: expected memory as a number of bytes, got {settings.get('memory')!r}.")


def _rows(title: str, known: Any, targets: Sequence[Target], found: Effects, told: Mapping[str, Any]) -> Table:
    changes: dict[str, Tensor] = {target.address: row - found.clean for target, row in zip(targets, found.ablated, strict=True)}
    rows = [{"address": address, **summary(change, told["seed"])} for address, change in changes.items()]
    return Table(title, known, rows, {**told, "baseline": f"{found.clean.mean().item():.6g}"}, changes)


def _with_interactions(table: Table) -> Table:
    effects = {row["address"]: row["effect"] for row in table.rows}

    def interaction(address: str) -> float:
        ends = address.split(" + ")
        return effects[address] - sum(effects[end] for end in ends) if len(ends) == 2 else float("nan")

    rows = [{**row, "interaction": interaction(row["address"])} for row in table.rows]
    return Table(table.title, table.standing, rows, table.settings, table.examples)
