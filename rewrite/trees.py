"""Nested inputs and outputs as JSON: tuples, lists, dicts, and the output classes of transformers by name."""

from __future__ import annotations

import importlib
import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten

from rewrite.errors import FileError
from rewrite.schema import bad

DEEPEST = 50
OUTPUTS = "transformers.modeling_outputs"


def encode_spec(spec: TreeSpec) -> Any:
    """The JSON form of a tree: "*" for a leaf, dicts as lists of pairs.

    Raises: FileError for a container that a saved program may not have.
    """
    if spec.is_leaf():
        return "*"
    children = [encode_spec(child) for child in spec.children()]
    kind: Any = spec.type if isinstance(spec.type, type) else spec.context  # of a named tuple, the context is its class
    if kind in (tuple, list):
        return {kind.__name__: children}
    if kind in (dict, OrderedDict) and all(type(key) in (str, int) for key in spec.context):
        return {"dict": _pairs(spec.context, children)}
    if issubclass(kind, OrderedDict) and kind.__module__.startswith("transformers."):
        return {"class": f"{kind.__module__}:{kind.__qualname__}", "dict": _pairs(_keys(spec), children)}
    if issubclass(kind, tuple):
        return {"tuple": children}
    raise FileError(f"save: expected inputs and outputs of tensors in tuples, lists and dicts, got {kind.__name__}. Return a dict.")


def _pairs(keys: Any, values: list[Any]) -> list[list[Any]]:
    return [[key, value] for key, value in zip(keys, values, strict=True)]


def _keys(spec: TreeSpec) -> list[str]:
    context = spec.context[0] if isinstance(spec.context, tuple) and spec.context and isinstance(spec.context[0], list) else spec.context
    return list(context)  # type: ignore[arg-type]


def decode_spec(record: Any, where: str, *, plain: bool = False) -> TreeSpec:
    """The tree that a JSON form stands for; with `plain`, output classes become dicts.

    Raises: FileError.
    """
    return tree_flatten(_sample(record, where, plain, 0))[1]


def _sample(record: Any, where: str, plain: bool, depth: int) -> Any:
    """A value of that structure, its leaves tensors without elements."""
    if record == "*":
        return torch.empty(0)
    if not isinstance(record, dict) or depth > DEEPEST:
        raise bad(where, "a tree of tuples, lists and dicts", record)
    for kind in (tuple, list):
        items = record.get(kind.__name__)
        if isinstance(items, list) and len(record) == 1:
            return kind(_sample(item, where, plain, depth + 1) for item in items)
    if "dict" not in record or not set(record) <= {"dict", "class"}:
        raise bad(where, "a tree of tuples, lists and dicts", record)
    values = {key: _sample(item, where, plain, depth + 1) for key, item in _unpaired(record["dict"], where)}
    found = None if plain else _output_class(record.get("class"))
    if found is None:
        return values
    try:
        return found(**{str(key): value for key, value in values.items()})
    except Exception as error:
        raise bad(where, f"the fields of {found.__name__}", str(error)) from None


def _unpaired(pairs: Any, where: str) -> list[tuple[str | int, Any]]:
    """The keys, each once, and values of a dict."""
    fits = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs)
    if not fits or len({pair[0] for pair in pairs}) != len(pairs):
        raise bad(where, "a dict as a list of [key, value]", pairs)
    return [(key, value) for key, value in pairs]


def _output_class(name: Any) -> Any:
    """The output class of transformers called `name`, or None.

    A file cannot have a module imported: one module is known here, and the others count if the program has imported them already.
    """
    if not isinstance(name, str):
        return None
    module, _, kind = name.partition(":")
    if module == OUTPUTS:
        with suppress(ImportError):
            importlib.import_module(OUTPUTS)
    base = getattr(sys.modules.get("transformers.utils.generic"), "ModelOutput", None)
    found = vars(sys.modules[module]).get(kind) if module.startswith("transformers.") and module in sys.modules else None
    return found if base is not None and isinstance(found, type) and issubclass(found, base) else None


def plain_spec(spec: TreeSpec) -> TreeSpec:
    """The same tree with output classes as dicts, nested ones too."""
    return decode_spec(encode_spec(spec), "output", plain=True)


def encode_values(value: Any, put: Callable[[Tensor], str]) -> Any:
    """The JSON form of example inputs; `put(tensor)` stores a tensor and returns its key.

    Raises: FileError for anything but tensors, numbers and strings in tuples, lists and dicts.
    """
    if isinstance(value, Tensor):
        return {"tensor": put(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, tuple | list):
        return {"list" if type(value) is list else "tuple": [encode_values(item, put) for item in value]}
    if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
        return {"dict": _pairs(value, [encode_values(item, put) for item in value.values()])}
    raise FileError(f"save: expected example inputs of tensors and plain values, got {type(value).__name__}. Trace with such inputs.")


def decode_values(record: Any, get: Callable[[str], Tensor], where: str, depth: int = 0) -> Any:
    """The example inputs. Raises: FileError."""
    if not isinstance(record, dict) or len(record) != 1 or depth > DEEPEST:
        raise bad(where, "a tree of values", record)
    ((tag, content),) = record.items()
    if tag == "tensor" and isinstance(content, str):
        return get(content)
    if tag == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if tag == "plain" and (content is None or isinstance(content, bool | int | float | str)):
        return content
    if tag in ("tuple", "list") and isinstance(content, list):
        items = [decode_values(item, get, where, depth + 1) for item in content]
        return tuple(items) if tag == "tuple" else items
    if tag == "dict":
        return {key: decode_values(item, get, where, depth + 1) for key, item in _unpaired(content, where)}
    raise bad(where, "a tree of values", record)
