"""Fingerprints: what a sweep depends on, as digests by name, so that a checkpoint is taken for the sweep that wrote it alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from inspect import getattr_static
from types import CellType, CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewrite import Program

DEPTH = 8  # objects inside objects that are looked into


def fingerprint(program: Program, data: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, str]:
    """What a sweep depends on, by name: digests of the program, its tensors and the data, and the settings as text."""
    return {
        "program": _hashed(str(program.graph)),
        "weights": _hashed(told(dict(program.tensors))),
        "data": _hashed(told(list(data))),
        **{name: value if isinstance(value, str) else told(value) for name, value in settings.items()},
    }


def told(value: Any, depth: int = DEPTH) -> str:
    """A value as text: arrays by a digest of what they hold, functions by their code, other objects by type and what they hold."""
    if isinstance(value, Tensor):
        whole = value.detach().cpu().to_dense() if value.layout is not torch.strided else value.detach().cpu()
        return f"{value.dtype} {list(value.shape)} {_hashed(whole.contiguous().flatten().view(torch.uint8).numpy().tobytes())}"
    if isinstance(value, np.ndarray):
        held = told(value.tolist(), depth) if value.dtype.hasobject else _hashed(np.ascontiguousarray(value).tobytes())
        return f"{value.dtype} {list(value.shape)} {held}"
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | np.generic | torch.dtype | torch.device):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{told(name, depth)}: {told(item, depth)}' for name, item in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(told(item, depth) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(told(item, depth) for item in value))}}}"
    if isinstance(value, CellType):
        try:
            return told(value.cell_contents, depth)
        except ValueError:  # a name that is not bound yet
            return "nothing"
    return _called(value, depth)


def _called(function: Any, depth: int) -> str:
    """What can be told of a function or object: its code with names and numbers, its defaults, what it closes over or holds.

    What it looks up when it runs is told by name only.
    """
    if hasattr(function, "__func__"):  # a method: of what object, and which
        return f"{told(getattr(function, '__self__', None), depth - 1)} {told(function.__func__, depth - 1)}"
    if isinstance(function, partial):
        return f"partial {told((function.func, function.args, function.keywords), depth - 1)}"
    code = getattr(function, "__code__", None)
    if code is None:
        kind = type(function)
        own = getattr(getattr_static(kind, "__call__", None), "__code__", None)
        return f"{kind.__module__}.{kind.__qualname__} {_code(own) if own else ''} {told(dict(_attributes(function)), depth - 1)}"
    given = told([function.__defaults__, function.__kwdefaults__, function.__closure__], depth - 1)
    return f"{function.__module__}.{function.__qualname__} {_code(code)} {given}"


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an object itself has, in a dict or in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            hidden = name.startswith("__") and not name.endswith("__")
            known = f"_{kind.__name__.lstrip('_')}{name}" if hidden else name
            if known not in ("__dict__", "__weakref__") and hasattr(value, known):
                yield known, getattr(value, known)


def _code(code: CodeType) -> str:
    """The instructions of a function with the names and numbers in them, of functions inside it too."""
    constants = [_code(one) if isinstance(one, CodeType) else sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)
                 for one in code.co_consts]  # fmt: skip
    return _hashed(repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants)))


def _hashed(value: str | bytes) -> str:
    return sha256(value.encode() if isinstance(value, str) else value).hexdigest()
