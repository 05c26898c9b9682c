"""Addresses: what a person may write, what it means, and what is said to somebody who mistyped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewrite import SiteError
from rewrite.address import Address, find, indices, matching, parse, slices
from rewrite.records import Site

KNOWN = ["h.0.mlp", "h.0.mlp@in", "h.0.mlp@in:x", "h.1.mlp", "h.10.mlp", "h.0.attn:0", "h.0.mlp/fire", "h.0.mlp/fire.rest", "f#2"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("h.*.mlp", ["h.0.mlp", "h.1.mlp", "h.10.mlp"]),
        ("h.*", []),
        ("**.mlp", ["h.0.mlp", "h.1.mlp", "h.10.mlp"]),
        ("h.0.**", ["h.0.mlp", "h.0.mlp@in", "h.0.mlp@in:x", "h.0.attn:0", "h.0.mlp/fire", "h.0.mlp/fire.rest"]),
        ("h.0.mlp/*", ["h.0.mlp/fire"]),
        ("*.0.mlp@in", ["h.0.mlp@in"]),
        ("f*", []),
        ("h.0.mlp", ["h.0.mlp"]),
    ],
)
def test_globs(glob: str, expected: list[str]) -> None:
    assert matching(glob, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h.9.attn:0", Address("h.9.attn:0", "h.9.attn:0")),
        ("attn/head[3]", Address("attn/head[3]", "attn/head", "3")),
        ("attn/head[3]@act", Address("attn/head[3]@act", "attn/head", "3", True)),
        ("attn/head[3]@act@[:, 1]", Address("attn/head[3]@act@[:, 1]", "attn/head", "3", True, ":, 1")),
        ("mlp@in:x@[0]", Address("mlp@in:x@[0]", "mlp@in:x", None, False, "0")),
        ("attn/head[3] -> ln@in", Address("attn/head[3] -> ln@in", "attn/head -> ln@in", "3")),
        ("attn/head[3]@act->ln@in@[:, 1]", Address("attn/head[3]@act->ln@in@[:, 1]", "attn/head -> ln@in", "3", True, ":, 1")),
    ],
)
def test_parts_of_an_address(text: str, expected: Address) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["f", "f[1]@act", "f[1]@[:, 1]", "f -> g@in", "f[1]@act -> g@in@[0]"])
def test_an_address_is_put_together_again(text: str) -> None:
    assert parse(text).of(parse(text).site) == text


def test_the_same_of_another_site() -> None:
    assert parse("f[1]@act@[0]").of("x -> y@in") == "x[1]@act -> y@in@[0]"


@pytest.mark.parametrize("text", ["f@[0] -> g", "f[1] -> g[2]"])
def test_brackets_of_a_path_stand_where_they_belong(text: str) -> None:
    with pytest.raises(SiteError, match=r"expected term\[member\] -> reader@\[slice\]"):
        parse(text)


@pytest.mark.parametrize("text", ["a[1", "a]1[", "a[[1]]", "a[1][2]"])
def test_brackets_pair(text: str) -> None:
    with pytest.raises(SiteError, match=r"got brackets that do not pair"):
        parse(text)


@given(st.integers(1, 20), st.integers(-30, 30))
def test_members_count_from_both_ends(size: int, member: int) -> None:
    if -size <= member < size:
        assert indices(str(member), size, "x") == [range(size)[member]]
    else:
        with pytest.raises(SiteError, match=rf"expected a member from 0 to {size - 1}, got {member}"):
            indices(str(member), size, "x")


@given(st.integers(1, 20), st.lists(st.none() | st.integers(-25, 25), min_size=2, max_size=2))
def test_ranges_of_members_are_pythons(size: int, bounds: list[int | None]) -> None:
    text = ":".join("" if b is None else str(b) for b in bounds)
    expected = list(range(size))[slice(*bounds)]
    if not expected:
        with pytest.raises(SiteError, match="expected at least one member"):
            indices(text, size, "x")
    else:
        assert indices(text, size, "x") == expected


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "1;2", "__import__('os')"])
def test_what_is_no_index(text: str) -> None:
    with pytest.raises(SiteError, match=r"expected an index such as"):
        indices(text, 5, "x")
    with pytest.raises(SiteError, match=r"expected slices such as"):
        slices(text, "x")


def test_slices() -> None:
    assert slices(":, 1, 2:-1", "x") == (slice(None), 1, slice(2, -1))


def test_the_nearest_sites_are_named() -> None:
    sites = {name: Site(name, "node", "output") for name in KNOWN}
    with pytest.raises(SiteError, match=r"no site matches 'h\.0\.mpl' among 9\. Nearest: 'h\.0\.mlp'"):
        find("h.0.mpl", sites)
    assert [site.address for site in find("h.*.mlp", sites)] == ["h.0.mlp", "h.1.mlp", "h.10.mlp"]
