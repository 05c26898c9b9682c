"""Arguments that every analysis takes, looked at before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rewrite import InputError

LARGEST = 2**63  # seeds are signed 64 bit numbers to some generators


def listed(addresses: str | Iterable[str], where: str) -> list[str]:
    """The addresses, at least one.

    Raises: InputError for none, or for something that is no text.
    """
    if not isinstance(addresses, str | Iterable):
        raise InputError(f"{where}: expected an address or several, got {type(addresses).__name__}. Write 'blocks.0.mlp' or a list.")
    found: list[Any] = [addresses] if isinstance(addresses, str) else list(addresses)
    if not found:
        raise InputError(f"{where}: expected at least one address, got none. List them with program.sites().")
    for address in found:
        if not isinstance(address, str):
            raise InputError(f"{where}: expected addresses as text, got {type(address).__name__}. List them with program.sites().")
    return found


def check_seed(seed: Any, where: str) -> None:
    """Raises: InputError for what no generator can be started with."""
    if not is_number(seed, 0) or seed >= LARGEST:
        raise InputError(f"{where}: expected a seed from 0 to 2^63 - 1, got {seed!r}. Give a whole number.")


def check_functions(where: str, **functions: Any) -> None:
    """Raises: InputError for what is no function; None stands for one that is not given."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise InputError(f"{where}: expected {name} to be a function, got {type(function).__name__}.")


def is_number(value: Any, least: int) -> bool:
    """True for a whole number that is `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
