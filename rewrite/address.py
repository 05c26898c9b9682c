"""Addresses: how a person names a value of a program.

    address = site ["[" member "]"] ["@act"] ["@[" slice "]"]        of a path: site ["[" member "]"] ["@act"] "->" reader ["@[" slice "]"]
    site = module ["#" call] ["@in" [":" argument]] [":" leaf] {"/" name}

In a glob `*` stops at the marks of the grammar (`.`, `/`, `:`, `@`, `#`), `**` does not; `[ ]` is always an index, never a character class.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rewrite.errors import SiteError, nearest
from rewrite.records import Site

ARROW = " -> "
FAMILIES = {"head": "heads", "neuron": "neurons", "feature": "dictionary"}  # the pass that makes a family of that name
_TAIL = re.compile(r"^(?P<site>.*?)(\[(?P<member>[^\[\]]+)\])?(?P<act>@act)?(@\[(?P<slice>[^\[\]]*)\])?$")


@dataclass(frozen=True, slots=True)
class Address:
    """One parsed address: the site, and what of it is meant."""

    text: str
    site: str
    member: str | None = None
    act: bool = False
    slice: str | None = None

    @property
    def whole(self) -> bool:
        """True if the whole site is meant, not a member, coordinate or slice of it."""
        return self.member is None and not self.act and self.slice is None

    def of(self, site: str) -> str:
        """The text that means the same of another site, or of a path."""
        term, *reader = site.split(ARROW)
        member = "" if self.member is None else f"[{self.member}]"
        inner = f"{term}{member}{'@act' if self.act else ''}"
        return ARROW.join([inner, *reader]) + ("" if self.slice is None else f"@[{self.slice}]")


def parse(text: str) -> Address:
    """The parsed form of `text`; of a path `t[member] -> r` the site is `t -> r`.

    Raises: SiteError if brackets do not pair or the site is empty of a name.
    """
    term, arrow, reader = (part.strip() for part in text.partition(ARROW.strip()))
    if not arrow:
        return _parsed(text)
    start, end = _parsed(term), _parsed(reader)
    if start.slice is not None or (end.member is not None and start.member is not None):
        raise SiteError(f"address {text!r}: expected term[member] -> reader@[slice], got other brackets. Move them.")
    member = end.member if start.member is None else start.member
    return Address(text, f"{start.site}{ARROW}{end.site}", member, start.act or end.act, end.slice)


def coordinate(family: str) -> str:
    """The address of a family's coordinates."""
    return Address("", family, act=True).of(family)


def _parsed(text: str) -> Address:
    found = _TAIL.match(text)
    if not found or any(mark in found["site"] for mark in "[]"):
        raise SiteError(
            f"address {text!r}: expected site[member]@act@[slice], got brackets that do not pair. Write e.g. h.0.attn/head[3]@[:, 1]."
        )
    return Address(text, found["site"], found["member"], bool(found["act"]), found["slice"])


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*)", glob)
    return re.compile("".join({"**": ".*", "*": "[^./:@#]*"}.get(piece, re.escape(piece)) for piece in pieces) + r"\Z")


def matching(glob: str, known: Iterable[str]) -> list[str]:
    """The known addresses that `glob` matches, in their own order."""
    if "*" not in glob:
        return [address for address in known if address == glob]
    pattern = _pattern(glob)
    return [address for address in known if pattern.match(address)]


def find(glob: str, sites: Mapping[str, Site]) -> list[Site]:
    """The sites that `glob` names, at least one.

    Raises: SiteError naming the nearest sites when there is none.
    """
    found = [sites[glob]] if glob in sites else [sites[address] for address in matching(glob, sites)]
    if not found:
        site, _, name = glob.rpartition("/")
        advice = nearest(glob, sites) or " List them with program.sites()."
        if name in FAMILIES and matching(site, sites):
            advice = f" Apply {FAMILIES[name]}.at({site!r}) first."
        elif glob.endswith("]") and matching(parse(glob).site, sites):
            advice = " It is a member, or entries, of one: here the whole is named."
        raise SiteError(f"no site matches {glob!r} among {len(sites)}.{advice}")
    return found


def indices(text: str, size: int, what: str) -> list[int]:
    """The members that `text` (`3`, `-1`, `1,4`, `0:6:2`, `:`) picks out of `size`, each once.

    Raises: SiteError when it is no index, out of range, or picks none.
    """
    picked: list[int] = []
    for piece in text.split(","):
        bounds = [bound.strip() for bound in piece.split(":")]
        if not _is_index(bounds) or bounds[2:] == ["0"]:
            raise SiteError(f"{what}: expected an index such as 3, 1,4 or 0:6, got {text!r}. Members are numbered from 0 to {size - 1}.")
        if len(bounds) > 1:
            picked += range(*slice(*(int(b) if b else None for b in bounds)).indices(size))
            continue
        if not -size <= int(bounds[0]) < size:
            raise SiteError(f"{what}: expected a member from 0 to {size - 1}, got {bounds[0]}. Negative ones count from the end.")
        picked.append(int(bounds[0]) % size)
    if not picked:
        raise SiteError(f"{what}: expected at least one member, got none in {text!r}. Members are numbered from 0 to {size - 1}.")
    return list(dict.fromkeys(picked))


def _is_index(bounds: list[str]) -> bool:
    """True for one number, or up to three of a slice."""
    return all(re.fullmatch(r"(-?\d+)?", bound) for bound in bounds) and bounds != [""] and len(bounds) <= 3


def slices(text: str, what: str) -> tuple[slice | int, ...]:
    """The index tuple that `text` (`:, 1`) spells.

    Raises: SiteError when it is not one.
    """
    parts: list[slice | int] = []
    for piece in text.split(","):
        bounds = [bound.strip() for bound in piece.split(":")]
        if not _is_index(bounds) or bounds[2:] == ["0"] or "-" in "".join(bounds[2:]):
            raise SiteError(f"{what}: expected slices such as [:, 1], forward ones, got [{text}]. Write one entry per axis.")
        parts.append(int(bounds[0]) if len(bounds) == 1 else slice(*(int(b) if b else None for b in bounds)))
    return tuple(parts)
