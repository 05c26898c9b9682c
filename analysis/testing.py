"""Equivalence as a test: `assert_equivalent`, a function and a pytest fixture. A failure shows the report, not a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import pytest

if TYPE_CHECKING:
    from rewrite import Program
    from verify import Report

Require = Literal["proved", "assuming", "consistent"]
REQUIRED: tuple[Require, ...] = get_args(Require)


class AssertEquivalent(Protocol):
    """What the fixture is: `assert_equivalent` itself."""

    def __call__(self, a: Program, b: Program | None = None, *, require: Require = "proved", **how: Any) -> Report: ...


def assert_equivalent(a: Program, b: Program | None = None, *, require: Require = "proved", **how: Any) -> Report:
    """The report of `equivalence(a, b, **how)`; the test fails with its text unless what is required holds, claims and edits included.

    With `b` left out `a` is compared with the model that it was traced from, and every term is tried for an edit that reaches an output.
    `require="assuming"` also accepts a proof that rests on what `assuming=` names, `require="consistent"` also what no float run
    contradicts, where some op has no exact meaning.
    Raises: InputError for another `require`, or what `equivalence` does not take.
    """
    __tracebackhide__ = True
    from rewrite import InputError
    from verify import equivalence

    if require not in REQUIRED:
        known = " or ".join(map(repr, REQUIRED))
        raise InputError(f"assert_equivalent: expected require={known}, got {require!r}. Anything less is no test.")
    report = equivalence(a, b, **{"edits": b is None and bool(getattr(a, "steps", ())), **how})
    if report.exit_code(require):
        pytest.fail(str(report), pytrace=False)
    return report


@pytest.fixture(name="assert_equivalent")
def assert_equivalent_fixture() -> AssertEquivalent:
    """`assert_equivalent`, for tests that import nothing of this package."""
    return assert_equivalent
