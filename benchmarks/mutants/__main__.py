"""The verifier's own measure: mutants that it must not prove, and correct rewrites that it must not refuse. Writes docs/mutants.md.

    python -m benchmarks.mutants [--resume] [--workers 2]     # an hour or two of CPU time; --resume takes up what was interrupted
    python -m benchmarks.mutants --table                       # the table of what is done so far
    python -m benchmarks.mutants --architectures gpt2 --operators drop_a_term no_eps

With names, only these are done, into the same file of results. It fails if a mutant is PROVED that float64 runs show to be no equal, or
a correct rewrite is REFUTED.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.progress import Progress

from benchmarks.mutants import pairs, table
from benchmarks.mutants.results import Line, Store, write
from benchmarks.mutants.units import ARCHITECTURES, REWRITES, Unit, all_operators, names, run, units

ROOT = Path(__file__).parent.parent.parent
RESULTS, TABLE = ROOT / "build" / "mutants.jsonl", ROOT / "docs" / "mutants.md"
SEED = 0


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


def main(arguments: list[str] | None = None) -> int:
    """Does the work, writes the table, and returns how the process is to end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", nargs="+", choices=all_operators(), default=all_operators())
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--resume", action="store_true", help="go on with the results that are there")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=TABLE)
    chosen = parser.parse_args(arguments)
    store = Store(chosen.results)
    if not chosen.table:
        store.begin(chosen.seed, chosen.resume)
        jobs: list[Unit | str] = [*units(chosen.architectures), *pairs.PAIRS]
        all_work(jobs, chosen.operators, store, chosen.seed, chosen.workers)
    lines = store.lines()
    write(chosen.output, table.document(lines, len(units(list(ARCHITECTURES))) // 2 * (len(all_operators()) + REWRITES)))
    faults = table.faults(lines)
    for fault in faults:
        print(f"mutants: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
