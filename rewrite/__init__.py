"""Tautomer's programs: traced from a model, rewritten, run, saved, exported."""

from rewrite.errors import FileError, InputError, PassError, SiteError, TautomerError, TraceError
from rewrite.law import Bound, Free, Law, reform, rewire, split
from rewrite.load import load
from rewrite.program import Program
from rewrite.terms import Family, Skip, Terms, fresh, part
from rewrite.trace import trace
from rewrite.weightless import weightless

__all__ = [
    "Bound",
    "Family",
    "FileError",
    "Free",
    "InputError",
    "Law",
    "PassError",
    "Program",
    "SiteError",
    "Skip",
    "TautomerError",
    "Terms",
    "TraceError",
    "fresh",
    "load",
    "part",
    "reform",
    "rewire",
    "split",
    "trace",
    "weightless",
]
