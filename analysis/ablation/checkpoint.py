"""Checkpoints: what a sweep has finished, kept in a folder piece by piece, so that a killed one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rewrite import FileError
from rewrite.save import write_whole

MAIN = "sweep.json"


class Checkpoint:
    """A folder of finished pieces: for some targets of one batch, the metric of each example. Each piece is written whole or not at all."""

    CLEAN = -1  # in the place of a target: the metric without edits

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, str], targets: int, examples: Sequence[int]):
        """`targets` are how many there are, `examples` how many each batch has.

        Raises: FileError if the folder holds another sweep, saying what differs, or files that are no pieces of this one.
        """
        self.folder = Path(folder).resolve()
        self.targets, self.examples = targets, list(examples)
        self._sweep = sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()
        self._pieces: dict[int, dict[int, Tensor]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open(dict(fingerprint))
            for path in sorted(self.folder.glob("piece-*.safetensors")):
                self._remember(*self._read(path))
        except OSError as error:
            raise FileError(f"checkpoint {folder}: expected a folder to write to, got {error.strerror}.") from None

    def _open(self, fingerprint: dict[str, str]) -> None:
        main = self.folder / MAIN
        if not main.exists():
            write_whole(main, lambda partial: partial.write_text(json.dumps(fingerprint, indent=1), encoding="utf-8"))
            return
        try:
            found = json.loads(main.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise FileError(f"{main}: expected the description of a sweep, got something else. Choose another folder.")
        differs = [name for name in fingerprint if found.get(name) != fingerprint[name]]
        if differs:
            raise FileError(
                f"{self.folder}: expected a checkpoint of this sweep, got one of another {' and another '.join(differs)}. "
                "Choose another folder."
            )

    def _read(self, path: Path) -> tuple[int, list[int], Tensor]:
        """(batch, targets, values) of a file that holds them as this sweep would have written them.

        Raises: FileError for any other file.
        """
        try:
            with safe_open(path, "pt") as file:
                sweep = (file.metadata() or {}).get("sweep")
                batch, targets, values = (file.get_tensor(name) for name in ("batch", "targets", "values"))
        except Exception as error:
            raise FileError(f"{path}: expected a piece of a sweep, got a file that is none ({error}). Remove it.") from None
        if sweep != self._sweep:
            raise FileError(f"{path}: expected a piece of this sweep, got one of another. Remove it.")
        numbers = batch.dtype == targets.dtype == torch.int64 and batch.dim() == 0 and targets.dim() == 1
        known = numbers and 0 <= int(batch) < len(self.examples) and bool(((targets >= self.CLEAN) & (targets < self.targets)).all())
        shape = [len(targets), self.examples[int(batch)]] if known else []
        if not known or values.dtype != torch.float64 or list(values.shape) != shape or not bool(torch.isfinite(values).all()):
            raise FileError(f"{path}: expected numbers for targets and examples of this sweep, got others. Remove it.")
        return int(batch), targets.tolist(), values

    def _remember(self, batch: int, targets: Sequence[int], values: Tensor) -> None:
        self._pieces.setdefault(batch, {}).update(zip(targets, values, strict=True))

    def known(self, batch: int) -> dict[int, Tensor]:
        """The metric of each example of a batch, for every target that is finished."""
        return dict(self._pieces.get(batch, {}))

    def keep(self, batch: int, targets: Sequence[int], values: Tensor) -> None:
        """Writes a finished piece. Shapes: values [target, example]."""
        piece = {"batch": torch.tensor(batch), "targets": torch.tensor(list(targets)), "values": values.contiguous()}
        name = f"piece-{batch}-{targets[0]}.safetensors"
        write_whole(self.folder / name, lambda partial: save_file(piece, partial, metadata={"sweep": self._sweep}))
        self._remember(batch, targets, values)
