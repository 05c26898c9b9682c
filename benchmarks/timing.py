"""Timing in one process: CPU seconds, alternating between candidates, medians of ratios to the first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """For each candidate (median CPU milliseconds, median of its ratios to the first candidate), run in turn after one warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, function in candidates.items():
            seconds = cpu_seconds(function)
            if number:
                taken[name].append(seconds)
    first = next(iter(taken.values()))
    return {
        name: (1000 * statistics.median(values), statistics.median(a / b for a, b in zip(values, first, strict=True)))
        for name, values in taken.items()
    }
