"""The grammar of paths: what reads as what, and errors that point at the character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewrite import PassError
from rewrite.routes import Hop, Route, parse_route

WORDS = st.sampled_from(
    ["h.0.attn", "blocks.1.mlp", "blocks.*.mlp", "ln_f@in", "attn@in:x", "mlp/neuron", "attn/head/dir.rest", "m#1:0", "@in:ids"]
)
STOPS = st.builds("".join, st.tuples(WORDS, st.sampled_from(["", "[3]", "[0:4]", "[-1]"]), st.sampled_from(["", "@[:,1]", "@[0,:,2:5]"])))
HOPS = st.builds(Hop, st.sampled_from(["->", "~>"]), st.lists(WORDS, max_size=2).map(tuple))


@st.composite
def texts(draw: st.DrawFn) -> str:
    words, space = [draw(STOPS)], st.sampled_from(["", " ", "  "])
    for _ in range(draw(st.integers(0, 3))):
        hop = draw(HOPS)
        before = draw(st.booleans())
        avoid = [f" !{site}" for site in hop.avoid]
        words += [
            draw(space),
            hop.kind,
            *(avoid if before else []),
            " " if before and avoid else draw(space),
            draw(STOPS),
            *([] if before else avoid),
        ]
    return "".join(words)


@given(texts())
def test_what_is_written_reads_as_the_same_path(text: str) -> None:
    route = parse_route(text)
    assert parse_route(str(route)) == route
    assert str(parse_route(str(route))) == str(route)
    assert "".join(str(parse_route(f" {text} ")).split()) == "".join(str(route).split())


def test_the_parts_of_a_path() -> None:
    route = parse_route("h.0.attn ~> h.1.attn@in@[:, 1] !h.0.mlp -> ln_f@in")
    assert [stop.text for stop in route.stops] == ["h.0.attn", "h.1.attn@in@[:,1]", "ln_f@in"]
    assert route.hops == (Hop("~>", ("h.0.mlp",)), Hop("->"))
    assert route == parse_route("h.0.attn ~> !h.0.mlp h.1.attn@in@[:,1]->ln_f@in")
    assert [route.text[place] for place in route.places] == ["h", "h", "l"]


def test_a_longer_way_that_ends_in_the_whole_of_another_extends_it() -> None:
    short, long = parse_route("b -> r"), parse_route("a ~> b -> r")
    assert long.extends(short)
    assert not short.extends(long)
    assert not long.extends(long)
    assert not parse_route("a ~> b ~> r").extends(short)
    assert not parse_route("a ~> b[0] -> r").extends(short)
    assert parse_route("a ~> r").extends(parse_route("r"))


ERRORS: dict[str, tuple[str, str, str]] = {  # text -> what is expected, what was found, the line with the mark
    "": ("an address", "the end", "^"),
    "a ->": ("an address", "the end", "    ^"),
    "a b": ("-> or ~>", "'b'", "  ^"),
    "a - b": ("-> or ~>", "'-'", "  ^"),
    "a > b": ("-> or ~>", "'>'", "  ^"),
    "a -> -> b": ("an address", "'-'", "     ^"),
    "a !s": ("-> or ~>", "'!'", "  ^"),
    "!s a": ("an address", "'!'", "^"),
    "a ~> b !": ("an address", "the end", "        ^"),
    "a ~> b !s[0]": ("a whole site to avoid", "'s[0]'", "        ^"),
    "a[0 -> b": ("a ']' for this '['", "none", " ^"),
    "a]0[ -> b": ("a ']' for this '['", "none", "   ^"),
    "a[0][1] -> b": ("site[member]@[slice]", "brackets in other places", " ^"),
    "a[0]@act -> b": ("a site, member or slice", "'@act'", "    ^"),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_point_at_the_character(text: str) -> None:
    expected, found, mark = ERRORS[text]
    with pytest.raises(PassError) as caught:
        parse_route(text)
    first, shown, pointer = str(caught.value).split("\n")
    assert f"path {text!r}: expected {expected}, got {found}." in first
    assert (shown, pointer) == (f"    {text}", f"    {mark}")


def test_routes_are_values() -> None:
    assert parse_route("a->b") == parse_route(" a  ->  b ")
    assert len({parse_route("a->b"), parse_route("a -> b"), parse_route("a ~> b")}) == 2
    assert isinstance(parse_route("a"), Route)
