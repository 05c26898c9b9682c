"""The figure: what each hypothesis recovers, and its loss, beside those of a constant model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from analysis.extras import needed
from examples.panels import BLUE, RED, STYLE, dot, key, lines, save

WIDE = 48  # letters of a line of a claim


def save_figure(rows: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """The figure's files, as PNG and SVG; rows of the CSV will do.

    Raises: TautomerError naming the extra if matplotlib is not installed.
    """
    return save(lambda: drawn(rows), out, "paren_balancer")


def drawn(rows: Sequence[dict[str, Any]]) -> Any:
    """The figure."""
    size = (18, 3.6 + 0.6 * len(rows))
    made, panels = needed("matplotlib.pyplot").subplots(1, 2, figsize=size, layout="constrained", sharey=True)
    strings, seeds = rows[0]["strings"], ", ".join(str(rows[0]["seeds"]).split())
    made.suptitle(f"Causal scrubbing of the parentheses balancer ({strings} strings; seeds {seeds}; 95 % intervals)", x=0.01, ha="left")
    recovered(panels[0], rows)
    losses(panels[1], rows)
    share, nats = rows[0]["constant recovers"], rows[0]["constant loss"]
    constant = panels[0].axvline(
        share, color="black", linewidth=1.5, linestyle="--", label=f"{CONSTANT} ({100 * share:.0f} %, {nats:.2f} nats)"
    )
    panels[1].axvline(nats, color="black", linewidth=1.5, linestyle="--")
    keys = [key(BLUE, "better than the constant model"), key(RED, "worse than it"), constant]
    made.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False)
    return made


CONSTANT = "constant model: the best single answer to all strings"


def dots(panel: Any, rows: Sequence[dict[str, Any]], name: str) -> None:
    """Draws figures with their intervals, one line each."""
    for i, row in enumerate(rows):
        colour = RED if row["loss"] > row["constant loss"] else BLUE
        dot(panel, i, {"value": row[name], "low": row[f"{name} low"], "high": row[f"{name} high"]}, colour)
    lines(panel, [str(row["row"]) for row in rows])
    panel.grid(axis="both", color="#dddddd")


def recovered(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draws the fraction recovered from random inputs, each line with its claim."""
    dots(panel, rows, "recovered")
    for label in panel.get_yticklabels():
        label.set_fontweight("bold")
    for i, row in enumerate(rows):
        panel.annotate(
            fill(row["claim"], WIDE), (0, i), (-55, 0), panel.get_yaxis_transform(), "offset points",
            ha="right", va="center", linespacing=1.05, fontsize=STYLE["font.size"] - 1,
        )  # fmt: skip
    panel.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"])
    panel.set(
        xlim=(-0.05, 1.05),
        xlabel="share of the loss recovered\n(0 %: random inputs, 100 %: the model as it is)",
        title="What each hypothesis recovers",
    )


def losses(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draws the loss, beside that of a model that says the same to everything."""
    dots(panel, rows, "loss")
    panel.set_xscale("symlog", linthresh=0.1)
    panel.set_xlim(-0.008, 10)
    ticks = [0, 0.05, 0.1, 0.5, 1, 5]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set(xlabel="cross-entropy (nats)\n(log scale above 0.1, linear below)", title="Its loss: the less, the better")
