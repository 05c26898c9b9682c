"""The figure: what is left without the direction, what it carries of what writers do, and whose texts each word's direction matters to."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from analysis.extras import needed
from examples.fire.results import CONTROLLED, RANDOM, Results, Row
from examples.panels import BLUE, GREY, RED, STYLE, dot, key, lines, save

WIDE = 120  # letters of a line of the title
LAYERS = 12  # attentions and MLPs shown at most, those for which the direction is needed most
LEGEND = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.19), "ncols": 1, "frameon": False}


def save_figure(results: Results, out: Path) -> list[Path]:
    """The figure's files, as PNG and SVG.

    Raises: TautomerError naming the extra if matplotlib is not installed.
    """
    return save(lambda: drawn(results), out, "fire_direction")


def drawn(results: Results) -> Any:
    """The figure."""
    size = (20, max(9.4, 3.2 + 0.6 * len(groups(results))))
    made, panels = needed("matplotlib.pyplot").subplots(1, 3, figsize=size, layout="constrained", width_ratios=(1, 1, 1.05))
    made.suptitle(fill(title(results), WIDE), x=0.01, ha="left")
    left_over(panels[0], results)
    shares(panels[1], results)
    matrix(panels[2], results)
    return made


def title(results: Results) -> str:
    """The figure's title."""
    subject, own = results.subject, int(results.of[results.subject.word].sum())
    counts = f"{own} texts whose next word it is, {len(subject.texts) - own} others; 95 % intervals"
    return f"The direction that says “{subject.word}” in {subject.name} ({counts})"


def left_over(panel: Any, results: Results) -> None:
    """Draws the accuracy with directions taken out of everything."""
    word, tried = results.subject.word, [("nothing", {"edit": "none"})]
    for direction, filled, name in (
        (word, "zero", f"“{word}” projected out"),
        (RANDOM, "zero", "random ones, as long"),
        (word, "mean", f"“{word}” set to its mean"),
    ):
        for edit in CONTROLLED:
            where = {"writers": "everything", "edit": edit, "direction": direction, "filled": filled}
            tried.append((f"{name},\n{edit}{' only' if edit == CONTROLLED[0] else ''}", where))
    for texts, colour, shift in ((word, RED, -0.12), ("others", GREY, 0.12)):
        for i, (_, where) in enumerate(tried):
            row = results.get("accuracy", texts, **where)
            if row:
                dot(panel, i + shift, row, colour)
    lines(panel, [name for name, _ in tried])
    panel.set(xlim=(-0.04, 1.04), xlabel="accuracy (share of texts)", title="Accuracy with a direction\ntaken out of all writers")
    panel.legend(handles=[key(RED, f"next word is {word}"), key(GREY, "next word is another")], **LEGEND)


def found_shares(results: Results) -> dict[str, dict[str, Row]]:
    """The shares of the nats by name, then by group of writers."""
    rows = [row for row in results.rows if row["filled"] == "mean"]
    return {name: {row["writers"]: row for row in rows if row["measure"] == f"{name} (log-probability)"} for name in ("needed", "enough")}


def groups(results: Results) -> list[str]:
    """The groups of writers that are shown."""
    found = found_shares(results)["needed"]
    names = [name for name in dict.fromkeys(row["writers"] for row in results.rows) if name not in ("", "everything")]
    layers = sorted((name for name in names if name[-1].isdigit()), key=lambda name: -(found.get(name) or {"value": 0.0})["value"])
    return [name for name in names if not name[-1].isdigit() or name in layers[:LAYERS]]


def shares(panel: Any, results: Results) -> None:
    """Draws the shares that the linear claim explains, by group of writers."""
    word, found, names = results.subject.word, found_shares(results), groups(results)
    for share, colour, shift in (("needed", RED, -0.12), ("enough", BLUE, 0.12)):
        for i, name in enumerate(names):
            if name in found[share]:
                dot(panel, i + shift, found[share][name], colour)
    for i, name in enumerate(names):
        if name not in found["needed"] and name not in found["enough"]:
            panel.text(
                0.03, i, why_none(results, name), va="center", fontsize=STYLE["font.size"] - 2, color=GREY,
                bbox={"color": "white", "pad": 1},
            )  # fmt: skip
    lines(panel, names)
    panel.axvline(0, color="black", linewidth=0.8, zorder=0.6)
    panel.axvline(1, color="black", linewidth=0.8, zorder=0.6)
    panel.set_xlim(min(-0.15, panel.get_xlim()[0]), max(1.15, panel.get_xlim()[1]))
    panel.xaxis.set_major_formatter(needed("matplotlib.ticker").PercentFormatter(1, 0, " %"))
    panel.set(
        xlabel=f"share of the nats for “{word}” lost when all\nthat they write is replaced by its mean",
        title=f"How much of what writers do for “{word}”\nis the direction, on the direct path?",
    )
    panel.legend(
        handles=[key(RED, "lost when only the direction is replaced"), key(BLUE, "kept when only the direction is left")], **LEGEND
    )


def why_none(results: Results, group: str) -> str:
    """Why there is no share for that group: what is lost without it."""
    word = results.subject.word
    intact = results.get("log-probability", word, edit="none")
    without = results.get("log-probability", word, edit="whole", writers=group, filled="mean")
    if intact is None or without is None:
        return "no share"
    lost = intact["value"] - without["value"]
    return f"no share: about {abs(lost):.2f} nats\n{'lost' if lost > 0 else 'gained'} without it"


def matrix(panel: Any, results: Results) -> None:
    """Draws the accuracy by word whose direction is taken out of everything on the direct path, and by next word."""
    words = list(results.subject.forms)
    edits = {"nothing": {"edit": "none"}}
    edits |= {word: {"writers": "everything", "edit": "direct path", "direction": word, "filled": "zero"} for word in words}
    found = {name: [results.get("accuracy", text, **where) for text in words] for name, where in edits.items()}
    found = {name: rows for name, rows in found.items() if any(rows)}  # not all words' directions need have been tried
    table = [[row["value"] if row else float("nan") for row in rows] for rows in found.values()]
    panel.imshow(table, vmin=0, vmax=1.1, cmap="Greys_r", aspect="auto")
    for i, line in enumerate(table):
        for j, value in enumerate(line):
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > 0.5 else "white")
    panel.set_xticks(range(len(words)), words, rotation=30 if len(words) > 4 else 0)
    panel.set_yticks(range(len(found)), list(found))
    panel.set(
        xlabel="next word of the texts",
        ylabel="word projected out",
        title="Accuracy (share of texts), by word\nprojected out on the direct path",
    )
    panel.spines[:].set_visible(False)
