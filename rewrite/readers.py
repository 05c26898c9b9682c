"""Readers: which users of a node read which site of it, told by the tags of the code that they are in."""

from __future__ import annotations

from torch import fx

from rewrite.records import Site

UNEDITED = "/+unedited"  # the tag of nodes that no edit, gate or rewrite ever reaches


def reads(user: fx.Node, site: Site) -> bool:
    """True if `user`, a user of the site's node, reads the site: a module's output is read outside of it, its input inside.

    An un-edited copy reads nothing that can be edited.
    """
    scope = user.meta.get("scope", ())
    if UNEDITED in scope:
        return False
    if site.kind == "output":
        module = site.address.partition(":")[0]
        return user.op == "output" if not module else module not in scope
    return site.scope is None or site.scope in scope


def coordinate_tag(family: str) -> str:
    """The tag of nodes that read a family's coordinates as they are after what was done to them."""
    return f"{family}@act/+"


def before(other: Site, site: Site) -> bool:
    """True if a value is `other` before it is `site`: outputs come from the inside out, inputs then go from the outside in."""
    if site.kind == "input" and other.kind != "input":
        return True
    if site.kind != other.kind or site.kind not in ("input", "output"):
        return False
    mark = "@in" if site.kind == "input" else ":"
    here, there = site.address.partition(mark)[0], other.address.partition(mark)[0]
    inner, outer = (there, here) if site.kind == "output" else (here, there)
    return inner != outer and (not outer or inner.startswith(f"{outer}."))
