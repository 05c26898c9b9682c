"""A table of figures by address, with what they rest on: printed, joined with others, handed on as a pandas frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from torch import Tensor

from analysis.extras import needed
from analysis.standing import Standing
from rewrite import InputError
from rewrite.errors import nearest

if TYPE_CHECKING:
    import pandas

RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Table:
    """Rows of figures by address, under the verdict of the rewrite that they were measured on.

    `settings` are what the figures depend on (mode, seed, number of examples); `examples` holds the numbers of single examples by address.
    """

    title: str
    standing: Standing
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def frame(self) -> pandas.DataFrame:
        """The rows as a pandas frame, indexed by address, settings as its `attrs`.

        Raises: TautomerError naming the extra if pandas is not installed.
        """
        frame = needed("pandas").DataFrame(list(self.rows)).set_index("address")
        frame.attrs.update({"title": self.title, "standing": str(self.standing), **{k: str(v) for k, v in self.settings.items()}})
        return frame

    def __getitem__(self, address: str) -> Mapping[str, Any]:
        """The row of an address.

        Raises: InputError for one that has no row.
        """
        found = next((row for row in self.rows if row["address"] == address), None)
        if found is None:
            advice = nearest(address, [row["address"] for row in self.rows])
            raise InputError(f"{self.title}: expected an address of a row, got {address!r}.{advice}")
        return found

    def join(self, other: Table) -> pandas.DataFrame:
        """The rows of both by address, in this table's order, then the other's; columns of both are told apart by the titles.

        Tables of one title are told apart by the settings in which they differ, or numbered.
        """
        names, order = _told_apart(self, other), dict.fromkeys(row["address"] for row in [*self.rows, *other.rows])
        joined = self.frame.join(other.frame, lsuffix=f" ({names[0]})", rsuffix=f" ({names[1]})", how="outer")
        return joined.loc[list(order)]

    def save(self, path: str | Path) -> None:
        """Writes the rows as CSV, whole or not at all; title, verdict and settings stand in front as comments."""
        from rewrite.save import write_whole

        head = [self.title, str(self.standing), *(f"{name}: {value}" for name, value in self.settings.items())]
        text = "".join(f"# {line}\n" for one in head for line in one.splitlines()) + self.frame.to_csv()
        write_whole(Path(path).resolve(), lambda partial: partial.write_text(text, encoding="utf-8"))

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        frame = self.frame.reset_index()
        body = frame.to_string(index=False, float_format=lambda x: f"{x:.4g}", max_colwidth=60)
        return "\n".join(line for line in (f"{self.title}: {self.standing}", f"  {settings}" if settings else "", body) if line)


def _told_apart(one: Table, other: Table) -> tuple[str, str]:
    """Two names for two tables."""
    if one.title != other.title:
        return one.title, other.title
    names = [name for name in {**one.settings, **other.settings} if name != "baseline"]
    differ = [name for name in names if str(one.settings.get(name)) != str(other.settings.get(name))]
    first, second = (", ".join([t.title, *(f"{name} {t.settings[name]}" for name in differ if name in t.settings)]) for t in (one, other))
    return (first, second) if first != second else (f"{first} 1", f"{second} 2")


def summary(values: Tensor, seed: int) -> dict[str, float]:
    """Mean, standard error and bootstrap interval (95 %, percentiles) of one number an example.

    Shapes: values [example]. Raises: TautomerError naming the extra if scipy is not installed.
    """
    count = len(values)
    mean = values.mean().item()
    if count < 2:
        return {"effect": mean, "se": float("nan"), "low": float("nan"), "high": float("nan"), "n": count}
    error = (values.std() / count**0.5).item()
    low, high = bootstrap(values, seed)
    return {"effect": mean, "se": error, "low": low, "high": high, "n": count}


def bootstrap(values: Tensor, seed: int) -> tuple[float, float]:
    """The percentile interval of the mean over resampled examples.

    Shapes: values [example], at least two. Raises: TautomerError naming the extra if scipy is not installed.
    """
    if bool((values == values[0]).all()):
        return values[0].item(), values[0].item()
    found = needed("scipy.stats").bootstrap(
        (values.numpy(),),
        numpy.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=seed,
        batch=max(1, 2**22 // len(values)),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
