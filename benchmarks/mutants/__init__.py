"""Mutants, and correct rewrites: how many of the first each judge lets pass, and how many of the second it does not."""

from benchmarks.mutants import choices, functions, places, terms, triggers, weights  # noqa: F401 - each lists its operators
from benchmarks.mutants.draft import OPERATORS, Draft, Mutant, mutant, mutants

__all__ = ["OPERATORS", "Draft", "Mutant", "mutant", "mutants"]
