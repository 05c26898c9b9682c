"""Outputs side by side: which leaf of one program's output is which of the other's, as whoever calls them reads it.

A value that is read by a key is told by its key, whatever the order and the class (dict, dataclass, output class); one that is read by
its place is told by its place, in a tuple as in a list. A tuple is no dict, and a tensor is no tuple of one: who reads one trips over
the other. A size is compared as a formula of the inputs' sizes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from itertools import count
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils._pytree import TreeSpec

from rewrite.nested import join, keys
from rewrite.program import Program
from verify.regions import Pair


class Unlike(Exception):
    """Outputs that are not read alike; the text says where."""


def paired_outputs(a: Program, b: Program) -> tuple[list[Pair], str]:
    """The tensors to compare, and why they cannot be, if so."""
    try:
        places = list(_paired(_form(a.calling.out_spec, count()), _form(b.calling.out_spec, count()), ""))
        pairs = [pair for i, j, name in places for pair in _pair(a, b, i, j, name or "the output")]
    except Unlike as unlike:
        return [], str(unlike)
    return pairs, "" if pairs else "no output is a tensor"


def _pair(a: Program, b: Program, i: int, j: int, name: str) -> Iterator[Pair]:
    x, y = a.outputs[i], b.outputs[j]
    sizes = _size(a, x), _size(b, y)
    if any(size is not None for size in sizes):
        if sizes[0] != sizes[1]:
            raise Unlike(
                f"output {name} is {' and '.join(str(n if size is None else size) for size, n in zip(sizes, (x, y), strict=True))}"
            )
    elif isinstance(x, fx.Node) and isinstance(y, fx.Node):
        ours, other = x.meta["val"].dtype, y.meta["val"].dtype
        if ours != other:
            raise Unlike(f"output {name} is {str(ours).removeprefix('torch.')} and {str(other).removeprefix('torch.')}")
        yield Pair(name, x.name, y.name)
    elif isinstance(x, fx.Node) or isinstance(y, fx.Node) or repr(x) != repr(y):
        raise Unlike(f"output {name} is {x} and {y}")


def _size(program: Program, output: Any) -> sympy.Expr | None:
    """A size that a program gives, in terms of its inputs' sizes, `x[0]`; None for anything else."""
    value = output.meta.get("val") if isinstance(output, fx.Node) else None
    if not isinstance(value, torch.SymInt):
        return None
    named: dict[Any, Any] = {}
    for node, leaf in program.leaves.items():
        shape = getattr(program.nodes[node].meta.get("val"), "shape", ()) if leaf.kind == "input" else ()
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt):
                named.setdefault(size.node.expr, sympy.Symbol(f"{leaf.name}[{axis}]", integer=True, positive=True))
    return sympy.expand(value.node.expr.xreplace(named))


def _form(spec: TreeSpec, leaves: Iterator[int]) -> Any:
    """A leaf as its number, what is read by keys as a dict, what is read by places as (names or class, children)."""
    if spec.is_leaf():
        return next(leaves)
    children, names = [_form(child, leaves) for child in spec.children()], keys(spec)
    kind: Any = spec.type if isinstance(spec.type, type) else spec.context  # of a named tuple, the context is its class
    if issubclass(kind, Mapping) or is_dataclass(kind):
        return dict(zip(names or (), children, strict=True))
    if issubclass(kind, (tuple, list, deque)):
        return names and tuple(names), children
    return f"{kind.__module__}.{kind.__qualname__} {spec.context!r}", children


def _paired(ours: Any, theirs: Any, name: str) -> Iterator[tuple[int, int, str]]:
    """(number in a, number in b, name) of each leaf."""
    if isinstance(ours, int) and isinstance(theirs, int):
        yield ours, theirs, name
    elif isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _paired(ours[key], theirs[key], join(name, str(key)))
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and _alike(ours, theirs):
        for i, (x, y) in enumerate(zip(ours[1], theirs[1], strict=True)):
            yield from _paired(x, y, join(name, str(ours[0][i]) if isinstance(ours[0], tuple) else str(i)))
    else:
        raise Unlike(f"other outputs{f' at {name}' if name else ''}: {_told(ours)} and {_told(theirs)}")


def _alike(ours: tuple[Any, list[Any]], theirs: tuple[Any, list[Any]]) -> bool:
    """True for as many places, of the same names where both have names, in containers of one class if it is none of Python's."""
    kinds = (ours[0], theirs[0])
    free = None in kinds and not any(isinstance(kind, str) for kind in kinds)
    return len(ours[1]) == len(theirs[1]) and (kinds[0] == kinds[1] or free)


def _told(form: Any) -> str:
    if isinstance(form, int):
        return "one value"
    if isinstance(form, dict):
        return f"values by name ({', '.join(map(str, form))})"
    names = f" ({', '.join(map(str, form[0]))})" if isinstance(form[0], tuple) else f" ({form[0]})" if form[0] else ""
    return f"a sequence of {len(form[1])}{names}"
