"""Errors: misuse and bugs raise; "it does not apply" and "it is false" are values (Skip, a verdict)."""

from collections.abc import Iterable
from difflib import get_close_matches


class TautomerError(Exception):
    """Base of every error raised on purpose: `<where>: <expected>, got <found>. <what to do>.`"""


class TraceError(TautomerError):
    """The model cannot be traced; the message says why and the way out."""


class SiteError(TautomerError):
    """An address matches no site, or a site that cannot be used this way."""


class PassError(TautomerError):
    """A pass was written or applied wrongly."""


class InputError(TautomerError):
    """A program was called with values that do not fit it."""


class FileError(TautomerError):
    """A saved program is missing, broken or not to be trusted."""


def nearest(word: str, known: Iterable[str], most: int = 3) -> str:
    """The sentence that names the known words nearest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=most, cutoff=0.4)
    return f" Nearest: {', '.join(repr(c) for c in close)}." if close else ""
