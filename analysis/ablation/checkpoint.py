"""Checkpoints: what a sweep has finished, kept in a folder piece by piece, so that a killed one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewrite import FileError, Program
from rewrite.save import write_whole

MAIN = "sweep.json"


class Checkpoint:
    """A folder of finished pieces: for some targets of one batch, the metric of each example. Each piece is written whole or not at all."""

    CLEAN = -1  # in the place of a target: the metric without edits

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, str]):
        """Raises: FileError if the folder holds another sweep, saying what differs."""
        self.folder = Path(folder).resolve()
        self._pieces: dict[int, dict[int, Tensor]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open(dict(fingerprint))
            for path in sorted(self.folder.glob("piece-*.safetensors")):
                self._read(path)
        except OSError as error:
            raise FileError(f"checkpoint {folder}: expected a folder to write to, got {error.strerror}.") from None

    def _open(self, fingerprint: dict[str, str]) -> None:
        main = self.folder / MAIN
        if not main.exists():
            write_whole(main, lambda partial: partial.write_text(json.dumps(fingerprint, indent=1), encoding="utf-8"))
            return
        try:
            found = json.loads(main.read_text(encoding="utf-8"))
        except ValueError:
            raise FileError(f"{main}: expected the description of a sweep, got no JSON. Choose another folder.") from None
        differs = [name for name in fingerprint if found.get(name) != fingerprint[name]]
        if differs:
            raise FileError(
                f"{self.folder}: expected a checkpoint of this sweep, got one of another {' and another '.join(differs)}. "
                "Choose another folder."
            )

    def _read(self, path: Path) -> None:
        try:
            piece = load_file(path)
            batch, targets, values = int(piece["batch"]), piece["targets"].tolist(), piece["values"]
        except Exception as error:
            raise FileError(f"{path}: expected a piece of a sweep, got a file that is none ({error}). Remove it.") from None
        self._pieces.setdefault(batch, {}).update(zip(targets, values, strict=True))

    def known(self, batch: int) -> dict[int, Tensor]:
        """The metric of each example of a batch, for every target that is finished."""
        return dict(self._pieces.get(batch, {}))

    def keep(self, batch: int, targets: Sequence[int], values: Tensor) -> None:
        """Writes a finished piece. Shapes: values [target, example]."""
        piece = {"batch": torch.tensor(batch), "targets": torch.tensor(list(targets)), "values": values.contiguous()}
        name = f"piece-{batch}-{targets[0]}.safetensors"
        write_whole(self.folder / name, lambda partial: save_file(piece, partial))
        self._pieces.setdefault(batch, {}).update(zip(targets, values, strict=True))


def fingerprint(program: Program, data: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, str]:
    """What a sweep depends on, by name: a digest for the program, its tensors and the data, and the settings themselves or digests."""
    return {
        "program": _digest(str(program.graph)),
        "weights": _digest(*(item for name in sorted(program.tensors) for item in (name, program.tensors[name]))),
        "data": _digest(*(item for batch in data for name in sorted(batch) for item in (name, batch[name]))),
        **{name: _digest(value) if isinstance(value, Tensor | Mapping) else str(value) for name, value in settings.items()},
    }


def _digest(*values: Any) -> str:
    found = sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype} {list(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            found.update(_digest(*(item for name in sorted(value) for item in (name, value[name]))).encode())
        else:
            found.update(repr(value).encode())
        found.update(b"\0")
    return found.hexdigest()


def spelled(function: Any, depth: int = 8) -> str:
    """What can be told of a function, as text: its code with names and numbers, its defaults, and what it closes over.

    What it looks up when it runs is told by name only.
    """
    function = getattr(function, "__func__", function)
    if isinstance(function, partial):
        return f"partial {spelled(function.func, depth - 1)} {_told((function.args, function.keywords), depth)}"
    code = getattr(function, "__code__", None)
    if code is None:  # an object that is called
        kind = type(function)
        own = getattr(kind.__call__, "__code__", None)
        return f"{kind.__module__}.{kind.__qualname__} {_code(own) if own else ''} {_told(getattr(function, '__dict__', {}), depth)}"
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    given = _told((function.__defaults__, function.__kwdefaults__, cells), depth)
    return f"{function.__module__}.{function.__qualname__} {_code(code)} {given}"


def _code(code: CodeType) -> str:
    """The instructions of a function with the names and numbers in them, of functions inside it too."""
    constants = [_code(one) if isinstance(one, CodeType) else sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)
                 for one in code.co_consts]  # fmt: skip
    return sha256(repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants)).encode()).hexdigest()


def _told(value: Any, depth: int) -> str:
    """A value as text: tensors by what they hold, functions by their code, other objects by type and what they hold."""
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{name!r}: {_told(item, depth)}' for name, item in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_told(item, depth) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_told(item, depth) for item in value))}}}"
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | torch.dtype | torch.device):
        return repr(value)
    return spelled(value, depth - 1) if depth else type(value).__qualname__
