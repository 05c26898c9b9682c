"""Benchmarks: what they name in the verifier is there, and what several processes run can be found by each."""

from benchmarks.certificate import PLACES
from benchmarks.mutants.working import work


def test_what_the_clock_is_put_around_is_there() -> None:
    assert [name for _, holder, name in PLACES if not callable(getattr(holder, name, None))] == []


def test_work_is_in_a_module_that_another_process_imports() -> None:
    """A process that is started anew imports no `__main__` of a package."""
    assert not work.__module__.endswith("__main__")
