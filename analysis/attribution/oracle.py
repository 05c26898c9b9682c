"""How well predictions agree with exact ablation: rank correlation, and where they are worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.extras import needed
from analysis.table import Table
from rewrite import InputError


@dataclass(frozen=True)
class Agreement:
    """Predicted against exact effects of the same addresses: `rank` is Spearman's correlation, `worst` the largest disagreements."""

    rank: float
    n: int
    worst: Table

    def __str__(self) -> str:
        return f"rank correlation {self.rank:.3f} over {self.n} addresses\n{self.worst}"


def agreement(attribution: Table, ablation: Table, *, worst: int = 5) -> Agreement:
    """How well the effects of `attribution` predict those of `ablation`, over the addresses that both have.

    Raises: InputError if they share fewer than three addresses, or were measured in another way (mode, over, seed, n).
    """
    resampled = attribution.settings.get("mode") == "resample"
    for name in ("mode", "over", "n", *(["seed"] if resampled else [])):
        one, other = attribution.settings.get(name), ablation.settings.get(name)
        if one is not None and other is not None and one != other:
            raise InputError(f"agreement: expected tables of the same {name}, got {one} and {other}. Measure both on the same data.")
    true = {row["address"]: row["effect"] for row in ablation.rows}
    both = [(row["address"], row["effect"], true[row["address"]]) for row in attribution.rows if row["address"] in true]
    if len(both) < 3:
        raise InputError(f"agreement: expected at least three addresses in both tables, got {len(both)}.")
    rank = rank_correlation([predicted for _, predicted, _ in both], [found for _, _, found in both])
    rows = [{"address": a, "predicted": predicted, "exact": found, "error": predicted - found} for a, predicted, found in both]
    rows.sort(key=lambda row: -abs(row["error"]))
    settings = {**attribution.settings, "of": len(rows)}
    return Agreement(rank, len(rows), Table("worst disagreements", attribution.standing, rows[:worst], settings))


def rank_correlation(predicted: Sequence[float], exact: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN for fewer than three, or where one side is constant.

    Raises: TautomerError naming the extra if scipy is not installed.
    """
    if len(predicted) < 3 or len(set(predicted)) == 1 or len(set(exact)) == 1:
        return math.nan
    return float(needed("scipy.stats").spearmanr(predicted, exact).statistic)
