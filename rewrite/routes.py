"""Routes: the grammar of paths, read from upstream to downstream.

    path = stop { hop { "!" site } stop { "!" site } }        hop = "->" | "~>"        stop = address

`t -> r` is the way through adds and scalings alone, `t ~> r` any way; `!s` before or behind a stop keeps the way to it clear of s. A stop
may be a member of a family or a slice: `blocks.0.attn ~> blocks.1.attn@in@[:, 1] ~> blocks.1.attn/head[0] -> ln_f@in`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from rewrite.address import Address
from rewrite.address import parse as parse_address
from rewrite.errors import PassError, SiteError

Kind = Literal["->", "~>"]
HOPS: tuple[Kind, ...] = ("->", "~>")


@dataclass(frozen=True, slots=True)
class Hop:
    """The way from one stop to the next: through adds and scalings alone (`->`) or any way (`~>`), clear of the sites in `avoid`."""

    kind: Kind
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One parsed path: its stops from upstream to downstream, and a hop between each two. `places` are their first characters."""

    text: str = field(compare=False)
    stops: tuple[Address, ...]
    hops: tuple[Hop, ...]
    places: tuple[int, ...] = field(compare=False, default=())

    def extends(self, other: Route) -> bool:
        """True if this is a longer way that ends in the whole of the other one: its part, in a hypothesis."""
        stops, hops = len(other.stops), len(other.hops)
        return len(self.stops) > stops and self.stops[-stops:] == other.stops and self.hops[len(self.hops) - hops :] == other.hops

    def __str__(self) -> str:
        words = [self.stops[0].text]
        for hop, stop in zip(self.hops, self.stops[1:], strict=True):
            words += [hop.kind, stop.text, *(f"!{site}" for site in hop.avoid)]
        return " ".join(words)


def parse_route(text: str) -> Route:
    """The parsed form of a path.

    Raises: PassError that points at the character where it goes wrong.
    """
    return _Reader(text).route()


def pointed(text: str, place: int, expected: str, found: str, advice: str) -> PassError:
    """The error that shows where in a path something is wrong."""
    return PassError(f"path {text!r}: expected {expected}, got {found}. {advice}\n    {text}\n    {' ' * place}^")


@dataclass
class _Reader:
    """A path being read from left to right; `at` is the next character."""

    text: str
    at: int = 0

    def route(self) -> Route:
        stops, places, hops = [], [], []
        self._skip()
        places.append(self.at)
        stops.append(self._address())
        while self._skip() < len(self.text):
            if self.text[self.at] == "!":
                self._avoided(hops)
                continue
            hops.append(Hop(self._hop()))
            while self._skip() < len(self.text) and self.text[self.at] == "!":
                self._avoided(hops)
            places.append(self.at)
            stops.append(self._address())
        return Route(self.text, tuple(stops), tuple(hops), tuple(places))

    def _avoided(self, hops: list[Hop]) -> None:
        if not hops:
            self._fail("-> or ~>", "'!'", "Write ! behind the stop whose way it keeps clear: t ~> r !s.")
        self.at += 1
        start = self.at
        site = self._address()
        if not site.whole:
            self.at = start
            self._fail("a whole site to avoid", repr(site.text), "Avoid the site, or name members and positions as stops.")
        hops[-1] = Hop(hops[-1].kind, (*hops[-1].avoid, site.text))

    def _skip(self) -> int:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at

    def _hop(self) -> Kind:
        for kind in HOPS:
            if self.text.startswith(kind, self.at):
                self.at += len(kind)
                return kind
        self._fail("-> or ~>", repr(self.text[self.at]), "Write t -> r for adds and scalings alone, t ~> r for any way.")

    def _address(self) -> Address:
        start = self.at
        while self.at < len(self.text) and not self._ends():
            self.at = self._bracket() if self.text[self.at] == "[" else self.at + 1
        found = re.sub(r"\s", "", self.text[start : self.at])
        if not found:
            got = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
            self._fail("an address", got, "Name a site, a member such as attn/head[0], or a slice such as attn@in@[:, 1].")
        try:
            address = parse_address(found)
        except SiteError:
            self.at = start + next((i for i, c in enumerate(self.text[start : self.at]) if c in "[]"), 0)
            self._fail("site[member]@[slice]", "brackets in other places", "Write e.g. h.0.attn/head[3]@[:, 1].")
        if address.act:
            self.at = start + self.text[start : self.at].index("@act")
            self._fail("a site, member or slice", "'@act'", "A member's path leads through its coordinate: leave @act out.")
        return address

    def _ends(self) -> bool:
        here = self.text[self.at]
        return here.isspace() or here in "!~>" or self.text.startswith(HOPS, self.at)

    def _bracket(self) -> int:
        end = self.text.find("]", self.at)
        if end < 0 or "[" in self.text[self.at + 1 : end]:
            self._fail("a ']' for this '['", "none", "Write e.g. attn/head[0] or attn@in@[:, 1].")
        return end + 1

    def _fail(self, expected: str, found: str, advice: str) -> NoReturn:
        raise pointed(self.text, self.at, expected, found, advice)
