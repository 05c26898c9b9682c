"""What the figures of the experiments share: their style, dots with intervals, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.extras import needed
from rewrite.save import write_whole

RED, GREY, BLUE = "#c8401c", "#5b7085", "#2a78a8"
DOTS_PER_INCH, SIZE = 110, 16  # letters of 16 points are 12 pixels high when the PNG is shown at half its size
STYLE = {
    "font.size": SIZE,
    "axes.titlesize": SIZE + 1,
    "figure.titlesize": SIZE + 3,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.12,
    "figure.constrained_layout.w_pad": 0.15,
}


def save(draw: Callable[[], Any], out: Path, name: str) -> list[Path]:
    """The files of the figure that `draw` makes, as PNG and SVG.

    Raises: TautomerError naming the extra if matplotlib is not installed.
    """
    needed("matplotlib").use("Agg")
    with needed("matplotlib").rc_context({**STYLE, "svg.hashsalt": name}):
        made = draw()
        files = [out / f"{name}.{kind}" for kind in ("png", "svg")]
        for path in files:
            kind = path.suffix[1:]
            metadata = {"Date": None} if kind == "svg" else None
            write_whole(path.resolve(), lambda partial, k=kind, m=metadata: made.savefig(partial, format=k, dpi=DOTS_PER_INCH, metadata=m))
        needed("matplotlib.pyplot").close(made)
    return files


def dot(panel: Any, y: float, row: Mapping[str, float], colour: str) -> None:
    """Draws a value with its interval."""
    spread = [[max(0.0, row["value"] - row["low"])], [max(0.0, row["high"] - row["value"])]]  # a bound may pass the value by rounding
    panel.errorbar(row["value"], y, xerr=spread, fmt="o", color=colour, markersize=8, capsize=4)


def key(colour: str, label: str) -> Any:
    """The line of a legend for dots of a colour."""
    return needed("matplotlib.lines").Line2D([], [], color=colour, marker="o", markersize=8, label=label)


def lines(panel: Any, names: Sequence[str]) -> None:
    """Draws lines from top to bottom, named."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="x", color="#dddddd")
    panel.set_axisbelow(True)
