"""Sixty architectures, tiny and with random weights: which of them trace, and what is proved of them. Writes docs/zoo.md and docs/ops.md.

python -m benchmarks.zoo [NAME ...] [--keep FOLDER]

All of them take some ten minutes; with names, only these, printed and not written. Rows that lie in FOLDER are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.progress import track
from torch import nn

from benchmarks.architectures import SEED, ZOO, Make, prepared
from benchmarks.core import core_program
from benchmarks.ops import ops_table
from passes import direction, heads, surrogate
from rewrite import Program, SiteError, TautomerError, trace
from verify import Report, Verdict, equivalence

DOCS = Path(__file__).parent.parent / "docs"

MLP = re.compile(r"(mlp|ffn?|feed_?forward|mixer|DenseReluDense|intermediate|fc\d?)$")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    traced: str
    itself: str = ""
    rewritten: str = ""
    steps: str = ""
    eager: str = ""
    core: str = ""
    checked: int = 0
    seconds: float = 0.0
    ops: dict[str, dict[str, int]] = field(default_factory=dict)  # vocabulary -> op -> nodes

    def text(self) -> str:
        """As a line of Markdown."""
        shown = (self.name, self.traced, self.itself, self.rewritten, self.steps, self.eager, self.core, self.checked or "")
        return f"| {' | '.join(map(str, shown))} | {self.seconds:.2f} |"


def rewritten(program: Program) -> Program:
    """The program with an MLP as a small random map and the rest, attention in heads, and up to 24 outputs split along a direction."""
    sites = {s.address: s for s in program.sites_by_address.values() if s.kind == "output" and not any(m in s.address for m in ":/#")}
    wide = {}
    for address, site in sites.items():
        value = program.nodes[site.node].meta["val"]
        if value.is_floating_point() and value.dim() >= 2 and isinstance(value.shape[-1], int) and address.count(".") <= 3:
            wide[address] = torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(len(wide)))
    bound = [direction.at(address, d=d) for address, d in list(wide.items())[:24]]
    for address in [a for a in wide if MLP.search(a)] or list(wide):
        with suppress(TautomerError):
            program = program.apply(surrogate.at(address, f=small_map(program, address)))
            break
    for one in (*([heads.at(*sites)] if sites else []), *bound):
        with suppress(TautomerError):  # a model without attention, a module that nothing reads
            program = program.apply(one)
    return program


def small_map(program: Program, address: str) -> nn.Module:
    """A random affine map from what a module reads to what it gives.

    Raises: SiteError for a module whose input is not tapped, or holds no floats.
    """
    program.select(f"{address}@in")
    read, written = (program.nodes[program.sites_by_address[a].node].meta["val"] for a in (f"{address}@in", address))
    if not read.is_floating_point():
        raise SiteError(f"{address}@in: expected floats to map, got {read.dtype}.")
    torch.manual_seed(SEED)
    return nn.Linear(int(read.shape[-1]), int(written.shape[-1])).eval()


def said(report: Report) -> str:
    """A verdict, with the op without a meaning if there is one, and claims that are not proved."""
    reason = next((r for r in report.reasons if r.startswith("no exact meaning")), "")
    op = reason.removeprefix("no exact meaning: ").partition(" at ")[0]
    claims = sum(c.status != "proved" for c in report.claims)
    where = f" at {report.site}" if report.verdict in (Verdict.DIFFERS, Verdict.REFUTED) else ""
    taken = " roots" if report.assumptions else ""
    return f"{report.verdict.value.lower()}{taken}{f' ({op})' if op else where}{f', {claims} claims not' if claims else ''}"


def checked(report: Report) -> int:
    """How many expressions the float64 self-check compared with torch; -1 if it left one out."""
    return -1 if "too large for that" in report.counts else report.counts.get("expressions whose rules were compared with torch", 0)


def row(name: str, make: Make) -> Row:
    """What becomes of one architecture."""
    model, example = prepared(make, "sdpa")
    try:
        program = trace(model, **example)
    except TautomerError as error:
        return Row(name, f"refused: {str(error).partition(': expected ')[2][:120]}")
    traced = f"{program.header.dynamic}, {program.header.checks.get('outputs', 'unchecked')}"
    split = rewritten(program)
    equivalence(split, seed=SEED)  # once to load what is loaded once
    start = time.process_time()
    after = equivalence(split, seed=SEED)
    seconds = time.process_time() - start
    core, decomposed = _core(make, program)
    ops = {"training IR": vocabulary(program), "core ATen": vocabulary(decomposed)}
    steps = ", ".join(f"{step} {n}" for step, n in Counter(step.name for step in split.steps for _ in step.sites).items())
    itself = equivalence(program, program, seed=SEED)
    compared = sum(checked(report) for report in (itself, after, core) if isinstance(report, Report))
    told = core if isinstance(core, str) else said(core)
    return Row(name, traced, said(itself), said(after), steps, _eager(make, program), told, compared, seconds, ops)


def vocabulary(program: Program | None) -> dict[str, int]:
    """The ops of a program, and how often each occurs."""
    return dict(Counter(str(n.target) for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload))) if program else {}


def _eager(make: Make, program: Program) -> str:
    if not any("scaled_dot_product_attention" in str(node.target) for node in program.graph.nodes):
        return "no sdpa"
    try:
        model, example = prepared(make, "eager")
        return said(equivalence(program, trace(model, **example), seed=SEED, assuming=["literals are roots"]))
    except (TautomerError, ValueError, TypeError) as error:
        return f"not run: {str(error)[:60]}"


def _core(make: Make, program: Program) -> tuple[Report | str, Program | None]:
    try:
        model, example = prepared(make, "sdpa")
        decomposed = core_program(model, **example)
    except Exception as error:  # torch's decompositions, not ours
        return f"not run: {type(error).__name__} {str(error)[:60]}".replace("\n", " "), None
    return equivalence(program, decomposed, seed=SEED, assuming=["literals are roots"]), decomposed


HEADER = """# The zoo

Generated by `python -m benchmarks.zoo`: tiny models with random weights (seed 0), traced on one example and compared. An op in brackets
has no exact meaning yet.

- *Traced*: the sizes left free, and the outputs against the model's. *Itself*: the program against itself.
- *Rewritten*: after the *rewrites*: an MLP as a small random map and the rest (surrogate), attention in heads, up to 24 outputs split
  along a direction. *Seconds*: of this proof, float runs included; CPU time on one thread.
- *Eager*: attention by `sdpa` against attention written out (traces of two models). *Core*: against the same model after torch's default
  decompositions to core ATen, attention included. *Proved assuming roots* is with `assuming=["literals are roots"]`: `sdpa` scales by
  1/√d, its decomposition multiplies q and k by the root of that each, and eager models divide by √d; as doubles these do not agree.
- *Self-check*: how many expressions of *itself*, *rewritten* and *core* were also run by the same rules over float64 and compared with
  torch.

| architecture | traced | itself | rewritten | rewrites | eager | core | self-check | seconds |
|---|---|---|---|---|---|---|---|---|
"""


def measured(name: str, keep: Path | None) -> Row:
    """The row of an architecture, which may have been kept."""
    file = keep / f"{name}.json" if keep else None
    if file and file.exists():
        return Row(**json.loads(file.read_text()))
    try:
        found = row(name, ZOO[name])
    except Exception as error:
        found = Row(name, f"failed: {type(error).__name__}: {str(error)[:100]}".replace("\n", " "))
    if file:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(asdict(found)))
    return found


def totals(rows: list[Row]) -> str:
    """The line under the table."""
    traced = sum("bit-identical" in r.traced for r in rows)
    proved = {what: sum(getattr(r, what).startswith("proved") for r in rows) for what in ("rewritten", "eager", "core")}
    asked = {what: sum(bool(getattr(r, what)) and getattr(r, what) != "no sdpa" for r in rows) for what in proved}
    each = ", ".join(f"{what} {n} of {asked[what]}" for what, n in proved.items())
    seconds = statistics.median([r.seconds for r in rows if r.seconds] or [math.nan])
    return f"\n{len(rows)} architectures, {traced} traced bit for bit. Proved: {each}. Median {seconds:.2f} s.\n"


def main() -> None:
    """Prints the rows asked for, or writes the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo")
    parser.add_argument("names", nargs="*", choices=[[], *ZOO])
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in track(asked.names or list(ZOO), disable=bool(asked.names)):
        rows.append(measured(name, asked.keep))
        print(rows[-1].text(), flush=True)
    if not asked.names:
        (DOCS / "zoo.md").write_text(HEADER + "\n".join(r.text() for r in rows) + "\n" + totals(rows), encoding="utf-8")
        (DOCS / "ops.md").write_text(ops_table([r.ops for r in rows]), encoding="utf-8")


if __name__ == "__main__":
    main()
