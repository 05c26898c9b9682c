"""The figure: what each hypothesis recovers, its loss beside a constant model's, and whose examples change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from analysis.extras import needed
from rewrite.save import write_whole

BLUE, GREY, RED = "#2a78a8", "#5b7085", "#c8401c"
WIDE = 58  # letters of a line of a claim


def save_figure(rows: Sequence[dict[str, Any]], constant: float, out: Path) -> list[Path]:
    """The figure's files, as PNG and SVG.

    Raises: TautomerError naming the extra if matplotlib is not installed.
    """
    needed("matplotlib").use("Agg")
    style = {"font.size": 14, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "paren", "axes.titlelocation": "left"}
    with needed("matplotlib").rc_context(style):
        pyplot = needed("matplotlib.pyplot")
        made, panels = pyplot.subplots(1, 2, figsize=(18, 2.6 + 0.5 * len(rows)), layout="constrained", sharey=True)
        made.suptitle(
            f"Causal scrubbing of the parentheses balancer ({rows[0]['strings']} strings, seeds {rows[0]['seeds']})",
            x=0.01,
            ha="left",
            fontsize=18,
        )
        recovered(panels[0], rows)
        losses(panels[1], rows, constant)
        files = [out / f"paren_balancer.{kind}" for kind in ("png", "svg")]
        for path in files:
            kind = path.suffix[1:]
            metadata = {"Date": None} if kind == "svg" else None
            write_whole(path.resolve(), lambda partial, k=kind, m=metadata: made.savefig(partial, format=k, dpi=110, metadata=m))
        pyplot.close(made)
    return files


def dots(panel: Any, rows: Sequence[dict[str, Any]], name: str, colours: Sequence[str]) -> None:
    """Figures with their intervals, one line each."""
    for i, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        value, low, high = row[name], row[f"{name} low"], row[f"{name} high"]
        panel.errorbar(value, i, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="o", color=colour, markersize=7, capsize=3)


def recovered(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    """The fraction recovered from random inputs."""
    dots(panel, rows, "recovered", [BLUE] * len(rows))
    panel.set_yticks(range(len(rows)), [fill(f"{row['row']}  {row['claim']}", WIDE) for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    constant = rows[0]["constant recovers"]
    panel.axvline(constant, color=RED, linewidth=1.5, linestyle="--", label=f"constant model, {constant:.0%}")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), frameon=False)
    panel.set(
        xlim=(-0.05, 1.05),
        xlabel="share of the loss recovered from random inputs, 95 % interval",
        title="How much of the loss is recovered",
    )
    panel.grid(axis="both", color="#dddddd")
    panel.set_axisbelow(True)


def losses(panel: Any, rows: Sequence[dict[str, Any]], constant: float) -> None:
    """The loss, beside that of a model that says the same to everything."""
    dots(panel, rows, "loss", [RED if row["loss"] > constant else GREY for row in rows])
    panel.axvline(constant, color=RED, linewidth=1.5, linestyle="--", label=f"constant model, {constant:.2f} nats")
    panel.set_xscale("symlog", linthresh=0.1)
    panel.set_xlim(left=-0.005)
    panel.set_xticks([0, 0.05, 0.1, 0.5, 1, 5], ["0", "0.05", "0.1", "0.5", "1", "5"])
    panel.set(
        xlabel="cross-entropy (nats), 95 % interval; log scale above 0.1", title="The loss itself; red: worse than the constant model"
    )
    panel.grid(axis="both", color="#dddddd")
    panel.set_axisbelow(True)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), frameon=False)
