"""Witnesses on the command line: read before anything slow is done, and run again on two programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rewrite import InputError, Program
from verify import Replay, Witness, replay


def read_witness(file: Path, written: Path | None, junit: Path | None = None) -> Witness:
    """The witness in a file.

    Raises: FileError for a file that holds none, InputError if one is to be `written`, too, or the results of a proof.
    """
    if junit is not None:
        raise InputError(
            f"--replay {file}: expected no --junit beside it, got {junit}. A replay proves nothing: its exit code says it all."
        )
    if written is not None:
        raise InputError(f"--replay {file}: expected no --witness beside it, got {written}. A replay finds no new one.")
    return Witness.load(file)


def replayed(sides: Sequence[Program], witness: Witness) -> Replay:
    """What two programs do on a witness, or one program and its origin.

    Raises: InputError for programs that the witness does not fit.
    """
    a, b = sides if len(sides) == 2 else (sides[0].origin, sides[0])
    return replay(a, b, witness)
