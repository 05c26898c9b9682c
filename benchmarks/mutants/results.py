"""Results as lines of JSON, one for each mutant, rewrite or pair that is finished: what was interrupted is taken up again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Line = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """A file of lines; every line says by its `key` what it is about."""

    path: Path

    def begin(self, seed: int, resume: bool) -> None:
        """Starts a new file, or goes on with one of the same seed and version of torch.

        Raises: SystemExit if there is one to go on with, and it is of another seed or version.
        """
        stamp = {"key": "stamp", "seed": seed, "torch": torch.__version__}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = self.lines()
        if resume and "stamp" in known and known["stamp"] != stamp:
            raise SystemExit(
                f"mutants: expected results of seed {seed} and torch {torch.__version__} in {self.path}, got {known['stamp']}."
            )
        if resume and self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("ab") as file:  # the last line was cut off: nothing is to be added to it
                file.write(b"\n")
        if not resume or "stamp" not in known:
            self.path.unlink(missing_ok=True)
            self.add(stamp)

    def add(self, line: Line) -> None:
        """Adds a line, whole: one write at the end of the file."""
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), "ab", buffering=0) as file:
            file.write((json.dumps(line) + "\n").encode())

    def lines(self) -> dict[str, Line]:
        """The lines by their keys; one that was cut off is not there."""
        found = {}
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for raw in text.splitlines():
            try:
                line = json.loads(raw)
            except json.JSONDecodeError:
                continue
            found[line["key"]] = line
        return found


def write(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
