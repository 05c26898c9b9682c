"""Causal scrubbing of the parentheses balancer: how much of what it does is explained by what a person would say that it does?

    python examples/paren_balancer.py [--out DIR] [--strings N] [--seeds 0 1 2] [--rows 1a 2b ...]

Finds the roles of heads and MLPs by their direct contributions, scrubs one hypothesis after another, from "everything matters" to sums of
formulas, on the bundled model, and writes `paren_balancer.csv`, `.png` and `.svg`. Minutes on two cores.
After Chan et al. 2022, "Causal scrubbing on a paren balance checker"; its table lacks the constant model, seeds, intervals and subsets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as Printed
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent.parent))  # for a run of this file from a checkout

from analysis.demo import labels, load_balancer, strings, tokens
from analysis.extras import needed
from analysis.scrubbing import Result, scrub
from examples.paren.features import SUBSETS, Batch
from examples.paren.figure import save_figure
from examples.paren.hypotheses import Roles, Row, hypotheses
from passes import heads
from rewrite import trace
from rewrite.save import write_whole

SEED, STRINGS, EXAMPLES = 7, 1000, 2  # seed of the strings, how many, and how many the proof is about


def loss(output: Tensor, batch: Batch) -> Tensor:
    """The cross-entropy. Shapes: [example]. Units: nats."""
    return cross_entropy(output, batch["labels"], reduction="none")


def figures(row: Row, result: Result, data: Batch) -> dict[str, object]:
    """What is written of one row."""
    by_example = result.scrubbed.loss.mean(0)
    recovered, rock = result.recovered(), result.recovered("constant")
    return {
        "row": row.name,
        "claim": row.claim,
        "loss": result.loss.value,
        "loss low": result.loss.low,
        "loss high": result.loss.high,
        "recovered": recovered.value,
        "recovered low": recovered.low,
        "recovered high": recovered.high,
        "recovered from constant": rock.value,
        "constant recovers": constant_recovers(result),
        "constant loss": result.constant.loss.mean().item() if result.constant else float("nan"),
        "accuracy": result.scrubbed.accuracy,
        **{f"loss, {name}": by_example[kind(data)].mean().item() for name, kind in SUBSETS.items()},
        "loss changed by example": result.changed,
        "cancelled": result.cancelled,
        "alarm": result.alarm,
        "drawn alone": max((alone / drawn for alone, drawn in result.alone.values()), default=0.0),
        "seeds": " ".join(map(str, result.seeds)),
        "strings": len(by_example),
        "rewrite": result.standing.verdict.value,
        "error bound, log2": result.standing.report.log2_bound,
    }


def constant_recovers(result: Result) -> float:
    """What a constant model recovers of the loss from random inputs."""
    random, exact = (runs.loss.mean().item() for runs in (result.baselines["random"], result.exact))
    return (random - result.constant.loss.mean().item()) / (random - exact) if result.constant else float("nan")


def show_roles(roles: Roles, console: Console) -> None:
    """Prints who says what."""
    table = Printed(
        "writer", "spread (logits)", *roles.all[0].explained, "role", title="Direct contributions, and what explains their variance"
    )
    for writer in roles.all:
        shares = (f"{share:.0%}" for share in writer.explained.values())
        loud = writer in roles.heads or writer is roles.mlp
        table.add_row(writer.name, f"{writer.spread:.2f}", *shares, writer.role if loud else "")
    console.print(table)
    first = roles.counting[0].name
    console.print(
        f"From the first position {first} looks at position {roles.position} most ({roles.attended:.0%}); "
        f"head 0.{roles.counter} writes the part of open parentheses there.\n"
    )


def show(rows: Sequence[dict[str, object]], console: Console) -> None:
    """Prints the table."""
    table = Printed("row", "claim", "loss (nats)", "recovered", "from constant", "accuracy", "by example", "rewrite", title="Scrubbed")
    for row in rows:
        alarm = " !" if row["alarm"] else ""
        table.add_row(
            str(row["row"]),
            str(row["claim"]),
            f"{row['loss']:.3f} [{row['loss low']:.3f}, {row['loss high']:.3f}]",
            f"{row['recovered']:.1%}",
            f"{row['recovered from constant']:.1%}",
            f"{row['accuracy']:.1%}",
            f"{row['loss changed by example']:.1%}{alarm}",
            str(row["rewrite"]),
        )
    console.print(table)


def conclusion(rows: Sequence[dict[str, object]]) -> str:
    """What the numbers say, in words."""
    constant = float(rows[0]["constant loss"])  # type: ignore[arg-type]
    good = [str(row["row"]) for row in rows if float(row["recovered"]) >= 0.9]  # type: ignore[arg-type]
    rocks = [str(row["row"]) for row in rows if float(row["loss"]) > constant]  # type: ignore[arg-type]
    return (
        f"At least 90 % of the loss is recovered by {', '.join(good) or 'no row'}. Worse than a constant model ({constant:.3f} nats): "
        f"{', '.join(rocks) or 'none'}; whatever fraction these recover, they predict less than no model at all."
    )


def run(
    out: Path, count: int = STRINGS, seeds: Sequence[int] = (0, 1, 2), only: Sequence[str] = (), console: Console | None = None
) -> list[dict[str, object]]:
    """The rows of the table, printed and written to `out` as CSV and figure."""
    console = console or Console(width=160)
    torch.set_num_threads(1)
    texts = strings(count, SEED)
    data = {"input_ids": tokens(texts), "labels": labels(texts)}
    model = load_balancer()
    traced = trace(model, data["input_ids"][:EXAMPLES])
    roles = Roles.of(traced.apply(heads.at("blocks.*.attn")), data)
    console.print(
        f"{count} strings of seed {SEED}, scrubbed with seeds {', '.join(map(str, seeds))}; each rewrite proved for strings of any ids"
    )
    show_roles(roles, console)
    rows = []
    for row in hypotheses(traced, model, roles, data):
        if only and row.name not in only:
            continue
        console.print(f"  {row.name}: {row.claim} ...")
        result = scrub(row.program, row.hypothesis, data, loss, seeds=seeds)
        rows.append(figures(row, result, data))
    show(rows, console)
    console.print(conclusion(rows))
    out.mkdir(parents=True, exist_ok=True)
    text = needed("pandas").DataFrame(rows).to_csv(index=False, float_format="%.6g")
    write_whole((out / "paren_balancer.csv").resolve(), lambda partial: partial.write_text(text, encoding="utf-8"))
    for path in [out / "paren_balancer.csv", *save_figure(rows, out)]:
        console.print(f"wrote {path}")
    return rows


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for the table and the figure")
    parser.add_argument("--strings", type=int, default=STRINGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=[], help="only these")
    options = parser.parse_args()
    run(options.out, options.strings, options.seeds, options.rows)


if __name__ == "__main__":
    main()
