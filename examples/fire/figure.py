"""The figure: what is left without the direction, what it is needed and enough for, and whose texts each word's direction matters to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.extras import needed
from examples.fire.results import CONTROLLED, RANDOM, Results, Row
from rewrite.save import write_whole

OWN, OTHERS, ENOUGH = "#c8401c", "#5b7085", "#2a78a8"
LAYERS = 12  # attentions and MLPs shown at most, those for which the direction is needed most
Line = tuple[str, Row | None]


def save_figure(results: Results, out: Path) -> list[Path]:
    """The figure's files, as PNG and SVG.

    Raises: TautomerError naming the extra if matplotlib is not installed.
    """
    matplotlib = needed("matplotlib")
    matplotlib.use("Agg")
    style = {"font.size": 14, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "fire", "axes.titlelocation": "left"}
    with matplotlib.rc_context(style):
        made, panels = needed("matplotlib.pyplot").subplots(1, 3, figsize=(18, 6.6), layout="constrained", width_ratios=(1, 0.9, 1))
        made.suptitle(title(results), x=0.01, ha="left", fontsize=17)
        left_over(panels[0], results)
        shares(panels[1], results)
        matrix(panels[2], results)
        files = [out / f"fire_direction.{kind}" for kind in ("png", "svg")]
        for path in files:
            kind = path.suffix[1:]
            metadata = {"Date": None} if kind == "svg" else None
            write_whole(path.resolve(), lambda partial, k=kind, m=metadata: made.savefig(partial, format=k, dpi=110, metadata=m))
        needed("matplotlib.pyplot").close(made)
    return files


def title(results: Results) -> str:
    """The figure's title."""
    subject, own = results.subject, int(results.of[results.subject.word].sum())
    counts = f"{own} texts whose next word it is, {len(subject.texts) - own} others"
    return f"The direction that says “{subject.word}” in {subject.name} ({counts})"


def dots(panel: Any, lines: list[Line], shift: float, colour: str, label: str) -> None:
    """Values with their intervals, one line each."""
    there = [(i, row) for i, (_, row) in enumerate(lines) if row]
    x, y = [row["value"] for _, row in there], [i + shift for i, _ in there]
    spread = [[row["value"] - row["low"] for _, row in there], [row["high"] - row["value"] for _, row in there]]
    spread = [[max(0.0, one) for one in side] for side in spread]  # a bound may pass the value by rounding
    panel.errorbar(x, y, xerr=spread, fmt="o", color=colour, label=label, markersize=7, capsize=3)


def rows_of(panel: Any, names: list[str]) -> None:
    """Lines from top to bottom, named."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="x", color="#dddddd")
    panel.set_axisbelow(True)


def left_over(panel: Any, results: Results) -> None:
    """Accuracy with directions taken out of everything."""
    word, tried = results.subject.word, [("nothing", {"edit": "none"})]
    for direction, filled, name in (
        (word, "zero", f"“{word}”, projected out"),
        (RANDOM, "zero", "random, as long"),
        (word, "mean", f"“{word}”, set to its mean"),
    ):
        for edit in CONTROLLED:
            where = {"writers": "everything", "edit": edit, "direction": direction, "filled": filled}
            tried.append((f"{name}:\n{edit}{' only' if edit == CONTROLLED[0] else ''}", where))
    for texts, colour, shift, label in ((word, OWN, -0.12, f"next word is {word}"), ("others", OTHERS, 0.12, "next word is another")):
        dots(panel, [(name, results.get("accuracy", texts, **where)) for name, where in tried], shift, colour, label)
    rows_of(panel, [name for name, _ in tried])
    panel.set(xlim=(-0.03, 1.03), xlabel="accuracy (share of texts), 95 % interval", title="Taken out of everything that is written")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def shares(panel: Any, results: Results) -> None:
    """The shares that the linear claim explains, by group of writers."""
    word = results.subject.word
    found = {name: dict(_by_group(results, f"{name} (log-probability)")) for name in ("needed", "enough")}
    names = [name for name in dict.fromkeys(row["writers"] for row in results.rows) if name not in ("", "everything")]
    layers = sorted(
        (name for name in names if name[-1].isdigit()), key=lambda name: -(found["needed"].get(name) or {"value": 0.0})["value"]
    )
    names = [name for name in names if not name[-1].isdigit() or name in layers[:LAYERS]]
    for share, colour, shift, label in (
        ("needed", OWN, -0.12, "lost without the direction on the direct path"),
        ("enough", ENOUGH, 0.12, "kept with nothing but that"),
    ):
        dots(panel, [(name, found[share].get(name)) for name in names], shift, colour, label)
    for i, name in enumerate(names):
        if name not in found["needed"] and name not in found["enough"]:
            panel.text(0.03, i, "too little lost without it", va="center", fontsize=11, color=OTHERS)
    rows_of(panel, names)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set(xlabel="share of the nats lost without them, 95 % interval", title=f"What these writers do for “{word}”")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=1, frameon=False)


def _by_group(results: Results, measure: str) -> list[tuple[str, Row]]:
    return [(row["writers"], row) for row in results.rows if row["measure"] == measure and row["filled"] == "mean"]


def matrix(panel: Any, results: Results) -> None:
    """Accuracy by word whose direction is taken out of everything on the direct path, and by next word."""
    words = list(results.subject.forms)
    table = []
    for direction in (None, *words):
        where = (
            {"edit": "none"}
            if direction is None
            else {"writers": "everything", "edit": "direct path", "direction": direction, "filled": "zero"}
        )
        table.append([(results.get("accuracy", text, **where) or {"value": float("nan")})["value"] for text in words])
    panel.imshow(table, vmin=0, vmax=1, cmap="Greys_r", aspect="auto")
    for i, line in enumerate(table):
        for j, value in enumerate(line):
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > 0.5 else "white")
    panel.set_xticks(range(len(words)), words)
    panel.set_yticks(range(len(words) + 1), ["nothing", *words])
    panel.set(xlabel="next word", ylabel="projected out, direct path only", title="Accuracy by word")
    panel.spines[:].set_visible(False)
