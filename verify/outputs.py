"""Outputs side by side: which leaf of one program's output is which of the other's, as whoever calls them reads it.

A value that is read by a key is told by its key, whatever the order and the class (dict, dataclass, output class); one that is read by
its place is told by its place, in a tuple as in a list. A tuple is no dict, and a tensor is no tuple of one: who reads one trips over
the other. A size, and what is computed from sizes, is compared as a formula of the inputs' sizes; of a number that is read from a tensor
(`item`) the tensors are compared, and what is done with it must be the same; runs compare what is made of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from itertools import count
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils._pytree import TreeSpec

from rewrite.nested import join, keys
from rewrite.program import Program
from verify.interpret import PYTHON
from verify.match import Matching
from verify.pairs import Pair

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
READINGS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)


class Unlike(Exception):
    """Outputs that are not read alike; the text says where."""


def paired_outputs(a: Program, b: Program, matching: Matching) -> tuple[list[Pair], str]:
    """The tensors to compare, and why they cannot be, if so. Inputs that are matched have one name here, the first program's."""
    ours = {node: leaf.name for node, leaf in a.leaves.items() if leaf.kind == "input"}
    theirs = {y: ours[x] for x, y in matching.inputs.items()} | {y: ours[x] for y, x in matching.copies.items()}
    given = _Given(a, ours), _Given(b, theirs)
    try:
        places = list(_paired(_form(a.calling.out_spec, count()), _form(b.calling.out_spec, count()), ""))
        pairs = [pair for i, j, name in places for pair in _pair(*given, i, j, name or "the output")]
    except Unlike as unlike:
        return [], str(unlike)
    return pairs, "" if pairs or any(map(_is_number, a.outputs)) else "no output is a tensor or a size"


@dataclass(frozen=True)
class _Given:
    """A program, and what its inputs are called by node."""

    program: Program
    inputs: Mapping[str, str]


def _pair(a: _Given, b: _Given, i: int, j: int, name: str) -> Iterator[Pair]:
    x, y = a.program.outputs[i], b.program.outputs[j]
    if _is_number(x) or _is_number(y):
        yield from _numbers(a, b, x, y, name)
    elif isinstance(x, fx.Node) and isinstance(y, fx.Node):
        yield _tensors(x, y, name)
    elif isinstance(x, fx.Node) or isinstance(y, fx.Node) or repr(x) != repr(y):
        raise Unlike(f"output {name} is {x} and {y}")


def _tensors(x: fx.Node, y: fx.Node, name: str) -> Pair:
    ours, other = x.meta["val"].dtype, y.meta["val"].dtype
    if ours != other:
        raise Unlike(f"output {name} is {str(ours).removeprefix('torch.')} and {str(other).removeprefix('torch.')}")
    return Pair(name, x.name, y.name)


def _is_number(output: Any) -> bool:
    """True for a number that the program computes, as a size or from what it reads."""
    return isinstance(output, fx.Node) and isinstance(output.meta.get("val"), SYMBOLIC)


def _numbers(a: _Given, b: _Given, x: Any, y: Any, name: str) -> Iterator[Pair]:
    """The tensors that two numbers are read from, where the numbers are not equal as they stand."""
    formulas = _formula(a, x), _formula(b, y)
    if None not in formulas:
        if formulas[0] != formulas[1]:
            raise Unlike(f"output {name} is {formulas[0]} and {formulas[1]}")
    elif not (isinstance(x, fx.Node) and isinstance(y, fx.Node)) or x.target != y.target or len(x.args) != len(y.args):
        told = [str(node if found is None else found) for found, node in zip(formulas, (x, y), strict=True)]
        raise Unlike(f"output {name} is {' and '.join(told)}")
    elif x.target in READINGS:
        yield _tensors(x.args[0], y.args[0], name)  # type: ignore[arg-type]
    elif x.target in PYTHON:
        for one, other in zip(x.args, y.args, strict=True):
            yield from (replace(pair, made=(x.name, y.name)) for pair in _numbers(a, b, one, other, name))
    else:
        raise Unlike(f"output {name} is a number that depends on values by {x.target}, which has no exact meaning")


def _formula(given: _Given, output: Any) -> Any:
    """A number that a program gives, in terms of its inputs' sizes, `x[0]`; None if it depends on values too."""
    value = output.meta.get("val") if isinstance(output, fx.Node) else output
    if not isinstance(value, SYMBOLIC):
        return None if isinstance(value, torch.Tensor) else value if type(value) is int else repr(value)
    named: dict[Any, Any] = {}
    for node, called in given.inputs.items():
        shape = getattr(given.program.nodes[node].meta.get("val"), "shape", ())
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt):
                named.setdefault(size.node.expr, sympy.Symbol(f"{called}[{axis}]", integer=True, positive=True))
    found = value.node.expr.xreplace(named)
    if not found.free_symbols <= set(named.values()):
        return None
    return sympy.expand(found) if isinstance(value, torch.SymInt) else found


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
