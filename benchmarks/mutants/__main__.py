"""The verifier's own measure: mutants that it must not prove, and correct rewrites that it must not refuse. Writes docs/mutants.md.

    python -m benchmarks.mutants [--resume] [--workers 2]     # an hour or two of CPU time; --resume takes up what was interrupted
    python -m benchmarks.mutants --table                       # the table of what is done so far
    python -m benchmarks.mutants --architectures gpt2 --operators drop_a_term no_eps

With names, only these are done, into the same file of results. It fails if a mutant is PROVED that float64 runs show to be no equal, or
a correct rewrite is REFUTED.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.mutants import pairs, table
from benchmarks.mutants.results import Store, write
from benchmarks.mutants.units import ARCHITECTURES, REWRITES, Unit, all_operators, units
from benchmarks.mutants.working import all_work

ROOT = Path(__file__).parent.parent.parent
RESULTS, TABLE = ROOT / "build" / "mutants.jsonl", ROOT / "docs" / "mutants.md"
SEED = 0


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
