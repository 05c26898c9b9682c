"""Doing what is to be done, in one process or several: what they run has to be in a module that they can import by name."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.progress import Progress

from benchmarks.mutants import pairs
from benchmarks.mutants.results import Line, Store
from benchmarks.mutants.units import Unit, names, run


def work(unit: Unit | str, operators: list[str], path: Path, seed: int) -> int:
    """Does what is not done of a unit, or of the independent pairs, and adds its lines; how many there are in all."""
    store = Store(path)
    done = set(store.lines())
    for line in lines_of(unit, operators, seed, done):
        store.add(line)
    return size(unit, operators)


def lines_of(unit: Unit | str, operators: list[str], seed: int, done: set[str]) -> Iterator[Line]:
    """The new lines of a unit, or of one kind of independent pairs."""
    return pairs.run(unit, seed, done) if isinstance(unit, str) else run(unit, operators, seed, done)


def size(unit: Unit | str, operators: list[str]) -> int:
    """How many lines a unit has."""
    return len(pairs.PAIRS[unit]) if isinstance(unit, str) else len(names(unit, operators))


def all_work(jobs: list[Unit | str], operators: list[str], store: Store, seed: int, workers: int) -> None:
    """Does everything, in one process or several, and shows how far it is."""
    with Progress() as progress:
        bar = progress.add_task("mutants, rewrites, pairs", total=sum(size(unit, operators) for unit in jobs))
        if workers == 1:
            for unit in jobs:
                progress.advance(bar, work(unit, operators, store.path, seed))
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(work, unit, operators, store.path, seed) for unit in jobs]):
                progress.advance(bar, future.result())
