"""Un-edited copies: what a value is as long as nothing is done to the program, whatever is done to it.

The copy reaches down to the program's leaves, with every gate on the way left out, and bears a tag that keeps it from being counted as
a reader of any site. Copies of equal code are one. Running computes equal expressions once, so a copy costs nothing until something
upstream is gated or edited.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import fx

from rewrite.errors import PassError
from rewrite.ops import same_shape
from rewrite.readers import UNEDITED
from rewrite.run import expression, needed
from rewrite.splice import Splicer

aten = torch.ops.aten
RESHAPING = (aten.unsqueeze.default, aten.expand.default, aten.reshape.default, aten.alias.default)
Open = Literal["one", "zero"]  # what a gate's number is while it is open


def unedited(splicer: Splicer, node: fx.Node) -> fx.Node:
    """The copy of `node`, made now if there is none.

    Raises: PassError for a gate that is not `g * read + h * r`.
    """
    known = {expression(n.target, n.args, n.kwargs): n for n in splicer.graph.nodes if is_unedited(n)}
    image: dict[fx.Node, Any] = {}
    gates: dict[str, Open] = {record.g: "one" for record in splicer.gates.values()}
    gates |= {record.h: "zero" for record in splicer.gates.values()}
    for original in sorted(needed([node]), key=lambda n: n._sort_key):
        if original.op == "placeholder":
            image[original] = gates.get(splicer.leaves[original.name].name, original)
        elif is_unedited(original):
            image[original] = original
        else:
            image[original] = _opened(original, image) or _copy(splicer, original, image, known)
    found = image[node]
    assert isinstance(found, fx.Node)
    return found


def is_unedited(node: fx.Node) -> bool:
    """True for a node of an un-edited copy."""
    return UNEDITED in node.meta.get("scope", ())


def _opened(node: fx.Node, image: dict[fx.Node, Any]) -> Any:
    """What is left of a node that reads an open gate's number: 1 t + 0 r is t. None for a node that reads none."""
    given = [image[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
    if not any(isinstance(value, str) for value in (image[n] for n in node.all_input_nodes)):
        return None
    if node.target in RESHAPING:
        return given[0]
    if node.target is aten.mul.Tensor:
        if "zero" in given:
            return "zero"
        other = given[1] if given[0] == "one" else given[0]
        if other == "one" or _like(other, node):
            return other
    if node.target is aten.add.Tensor and not node.kwargs and "zero" in given:
        other = given[1] if given[0] == "zero" else given[0]
        if other == "zero" or _like(other, node):
            return other
    raise PassError(f"{node.name}: expected a gate of the form g * read + h * r, got {node.target}. It has no un-edited copy.")


def _like(value: Any, node: fx.Node) -> bool:
    if not isinstance(value, fx.Node):
        return False
    one, other = value.meta["val"], node.meta["val"]
    return same_shape(one.shape, other.shape) and one.dtype == other.dtype


def _copy(splicer: Splicer, node: fx.Node, image: dict[fx.Node, Any], known: dict[Any, fx.Node]) -> fx.Node:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: image[n])  # type: ignore[misc]
    key = expression(node.target, args, kwargs)
    if key not in known:
        anchor = splicer.after(image[n] for n in node.all_input_nodes)
        known[key] = splicer.call(anchor, node.target, args, (UNEDITED,), node.meta["val"], kwargs)
    return known[key]
