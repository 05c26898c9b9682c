"""Benchmarks name functions of the verifier that are there."""

from benchmarks.certificate import PLACES


def test_what_the_clock_is_put_around_is_there() -> None:
    assert [name for _, holder, name in PLACES if not callable(getattr(holder, name, None))] == []
