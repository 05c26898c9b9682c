"""How symbols are written in LaTeX: a weight as W, a bias as b, with the shortest name that tells their modules apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sympy

LETTERS = {"weight": "W", "bias": "b"}


def tex_names(symbols: Mapping[str, np.ndarray], chosen: Mapping[str, str], site: str) -> tuple[dict[sympy.Symbol, str], str]:
    """The LaTeX of every symbol, and that of the site; `chosen` gives letters by name."""
    found: dict[Any, str] = {}
    for name, array in symbols.items():
        letter, above = (chosen[name], "") if name in chosen else _letter(name, symbols)
        comma = "," if max(array.shape, default=0) > 10 else ""
        for at in np.ndindex(array.shape):
            shown = comma.join(str(i) for i, size in zip(at, array.shape, strict=True) if size > 1)
            found[array[at]] = letter + (f"^{{{above}}}" if above else "") + (f"_{{{shown}}}" if shown else "")
    return found, _upright(site)


def _letter(name: str, among: Mapping[str, object]) -> tuple[str, str]:
    """The letter of a weight and the module that it belongs to; of others the name itself."""
    module, _, last = name.rpartition(".")
    letter = LETTERS.get(last, last if len(last) == 1 else _upright(last))
    if not module or "/" in name or "@" in name:
        return (letter if "/" not in name and "@" not in name else _upright(name)), ""
    others = {other.rpartition(".")[0] for other in among if other.rpartition(".")[2] == last} - {module}
    parts = module.split(".")
    suffixes = (".".join(parts[-i:]) for i in range(1, len(parts) + 1))
    short = next((s for s in suffixes if not any(o == s or o.endswith(f".{s}") for o in others)), module)
    return letter, _upright(short)


def _upright(text: str) -> str:
    """Text in a formula."""
    escaped = "".join(f"\\{c}" if c in "_#%&$" else c for c in text)
    return rf"\mathrm{{{escaped}}}".replace("->", r"\to")
