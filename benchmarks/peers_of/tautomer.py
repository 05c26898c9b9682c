"""Tautomer: `analysis.sweep` called again. Setting up is the trace, and what its first call does once: rewrite, proof, liveness."""

from __future__ import annotations

import statistics

from torch import Tensor

from analysis import Table, sweep
from benchmarks.peers_of.common import Target, load, metric, task, timed, write
from rewrite import trace


def address(target: Target) -> str:
    """Where a target is."""
    block = f"transformer.h.{target.layer}"
    return f"{block}.mlp" if target.head is None else f"{block}.attn/head[{target.head}]"


def measured(output: object, batch: object) -> Tensor:
    """The metric of a sweep."""
    return metric(output.logits)  # type: ignore[attr-defined]


def main() -> None:
    """Measures Tautomer."""
    given = task()
    model = load(given.folder)
    tracing, program = timed(lambda: trace(model, input_ids=given.ids))
    addresses = [address(target) for target in given.targets]

    def swept() -> Table:
        return sweep(program, addresses, {"input_ids": given.ids}, measured, positions=given.positions)

    first, table = timed(swept)
    forwards, ratios, sweeps = [], [], []
    for _ in range(3 if given.ids.numel() < 256 else 1):
        before = [timed(lambda: model(given.ids))[0] for _ in range(3)]
        taken, table = timed(swept)
        after = [timed(lambda: model(given.ids))[0] for _ in range(3)]
        forwards += before + after
        sweeps.append(taken)
        ratios.append(taken / len(addresses) / statistics.median(before + after))
    effects = {target.name: table.examples[where].tolist() for target, where in zip(given.targets, addresses, strict=True)}
    write(given, tracing + first - statistics.median(sweeps), effects, forwards, ratios)


if __name__ == "__main__":
    main()
