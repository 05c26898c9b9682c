"""Deriving the shapes of a loaded graph: its ops are run once on tensors without data, so a file cannot lie about them.

That is the one thing that loading runs, and only ops of the allow-list, so what is guarded here is time and memory: no number, size,
list or formula may grow beyond what programs have.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from rewrite.allowed import draws
from rewrite.capture import quiet_log
from rewrite.schema import bad
from rewrite.sizes import LARGEST_NUMBER, Sizes

MOST_PIECES, LARGEST_EXPONENT = 65_536, 8
PIECES = ("unbind", "split", "chunk", "lstm", "diff")  # ops that loop over sizes or numbers even when there are no data
NUMBERS = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)


def derive(graph: fx.Graph, sizes: Sizes, where: str) -> None:
    """Gives every op its fake value; placeholders have theirs.

    Raises: FileError where an op does not fit its arguments, or would take more than programs take.
    """
    before = sizes.names()
    values: dict[fx.Node, Any] = {node: sizes.one_of(node.meta["val"]) for node in graph.nodes if node.op == "placeholder"}
    with sizes.mode, torch.no_grad(), quiet_log():
        for node in graph.nodes:
            if node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])  # type: ignore[misc]
                key = (node.target, _key(args), _key(kwargs))
                if key not in sizes.derived:
                    value = sizes.one_of(_derive_one(node.target, args, kwargs, sizes, f"{where}, node {node.name!r}"))
                    sizes.derived[key] = (value, args, kwargs)  # the key holds identities: nothing in it may die
                node.meta["val"] = values[node] = sizes.derived[key][0]
    sizes.check_kept(before, where)


def _key(value: Any) -> Any:
    """What a result depends on: tensors without data by identity (there is one of each kind), literals by type and text."""
    if isinstance(value, Tensor):
        return id(value)
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value.node.expr
    if isinstance(value, dict):
        return tuple((name, _key(item)) for name, item in value.items())
    return (type(value), tuple(map(_key, value))) if isinstance(value, tuple | list) else (type(value), repr(value))


def _derive_one(target: Any, args: Any, kwargs: Any, sizes: Sizes, where: str) -> Any:
    """The fake value of one op, checked before and after. Raises: FileError."""
    _check_arguments(target, args, kwargs, where)
    try:
        with enable_python_dispatcher():  # as export does: recurrent ops have a meaning for free sizes only there
            value = target(*args, **kwargs)
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise bad(where, "arguments that fit its op", text) from None
    _check_result(value, sizes, where)
    return value


def _check_arguments(target: Any, args: Any, kwargs: Any, where: str) -> None:
    if isinstance(target, torch._ops.OpOverload):
        pieces = _pieces(target._opname, args, kwargs) if target._opname in PIECES else 0
        if pieces > MOST_PIECES:
            raise bad(where, f"at most {MOST_PIECES} pieces", pieces)
        if draws(target, args, kwargs):
            raise bad(where, "a deterministic op", f"{target} with a dropout")
    elif target is operator.getitem:
        if not (len(args) == 2 and isinstance(args[0], tuple | list) and type(args[1]) is int and not kwargs):
            raise bad(where, "one piece of a result that has several", args)
    elif kwargs or not all(isinstance(arg, NUMBERS) for arg in args):
        raise bad(where, "arithmetic on numbers", args)
    elif target is operator.pow and not (isinstance(args[-1], float) or (type(args[-1]) is int and 0 <= args[-1] <= LARGEST_EXPONENT)):
        raise bad(where, f"an exponent of 0 to {LARGEST_EXPONENT}", args[-1])


def _pieces(name: str, args: Any, kwargs: Any) -> int:
    """How often an op loops, as far as that is a number."""
    given = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
    if not given:
        return 0
    x, numbers = given[0], [arg for arg in (*args, *kwargs.values()) if type(arg) is int]
    largest = max((size for size in x.shape if isinstance(size, int)), default=0)
    if name == "split" and numbers and numbers[0] > 0:
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        if type(dim) is int and -x.dim() <= dim < x.dim() and isinstance(x.shape[dim], int):
            return math.ceil(x.shape[dim] / numbers[0])
    if name in ("diff", "chunk"):
        return max([*numbers, 0]) if name == "chunk" else min(largest, max([*numbers, 0]))
    return largest


def _check_result(value: Any, sizes: Sizes, where: str) -> None:
    if isinstance(value, Tensor):
        sizes.check_shape(value.shape, where)
    elif isinstance(value, tuple | list):
        for item in value:
            _check_result(item, sizes, where)
    elif isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        sizes.check_formula(value, where)
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise bad(where, "numbers up to 2^63", "a larger one")
    elif value is not None and not isinstance(value, int | float | bool):
        raise bad(where, "tensors and numbers", type(value).__name__)
