"""Libraries that only some analyses need: imported where used, and missed with the name of the extra that brings them."""

from importlib import import_module
from typing import Any

from rewrite import TautomerError

EXTRA = {"pandas": "analysis", "scipy": "analysis", "matplotlib": "analysis", "transformers": "hf"}


def needed(module: str) -> Any:
    """The module.

    Raises: TautomerError with the extra to install if it is not there.
    """
    try:
        return import_module(module)
    except ImportError:
        extra = EXTRA[module.partition(".")[0]]
        raise TautomerError(f"{module}: expected it to be installed, got no such module. pip install 'tautomer[{extra}]'.") from None
