"""Equivalence as a test: `assert_equivalent` and a pytest fixture of that name. A failure shows the report, not a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

if TYPE_CHECKING:
    from rewrite import Program
    from verify import Report


class AssertEquivalent(Protocol):
    """What the fixture is: `assert_equivalent` itself."""

    def __call__(
        self, a: Program, b: Program | None = None, *, require: Literal["proved", "consistent"] = "proved", **how: Any
    ) -> Report: ...


def assert_equivalent(a: Program, b: Program | None = None, *, require: Literal["proved", "consistent"] = "proved", **how: Any) -> Report:
    """The report of `equivalence(a, b, **how)`; the test fails with its text unless what is required holds, claims and edits included.

    With `b` left out `a` is compared with the model that it was traced from, and every term is tried for an edit that reaches an output.
    """
    from verify import equivalence

    __tracebackhide__ = True
    report = equivalence(a, b, **{"edits": b is None and bool(a.steps), **how})
    if report.exit_code(require):
        pytest.fail(str(report), pytrace=False)
    return report


@pytest.fixture(name="assert_equivalent")
def assert_equivalent_fixture() -> AssertEquivalent:
    """`assert_equivalent`, for tests that import nothing of this package."""
    return assert_equivalent
