"""Nested inputs and outputs as JSON: tuples, lists, dicts, and the output classes of transformers by name."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten

from rewrite.errors import FileError
from rewrite.schema import bad

DEEPEST = 50


def encode_spec(spec: TreeSpec) -> Any:
    """The JSON form of a tree: "*" for a leaf.

    Raises: FileError for a container that a saved program may not have.
    """
    if spec.is_leaf():
        return "*"
    children = [encode_spec(child) for child in spec.children()]
    if spec.type in (tuple, list):
        return {spec.type.__name__: children}
    if spec.type in (dict, OrderedDict):
        return {"dict": dict(zip(spec.context, children, strict=True))}
    if issubclass(spec.type, OrderedDict) and spec.type.__module__.startswith("transformers."):
        return {"class": f"{spec.type.__module__}:{spec.type.__qualname__}", "dict": dict(zip(_keys(spec), children, strict=True))}
    if issubclass(spec.type, tuple):
        return {"tuple": children}
    raise FileError(f"save: expected inputs and outputs of tensors in tuples, lists and dicts, got {spec.type.__name__}. Return a dict.")


def _keys(spec: TreeSpec) -> list[str]:
    context = spec.context[0] if isinstance(spec.context, tuple) and spec.context and isinstance(spec.context[0], list) else spec.context
    return list(context)


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
    items = record.get("dict")
    if not isinstance(items, dict) or not set(record) <= {"dict", "class"}:
        raise bad(where, "a tree of tuples, lists and dicts", record)
    values = {str(key): _sample(item, where, plain, depth + 1) for key, item in items.items()}
    made = None if plain else _output_class(record.get("class"))
    return values if made is None else made(**values)


def _output_class(name: Any) -> Any:
    """The class called `name` if it is an output class of transformers that is imported already: a file makes us import nothing."""
    if not isinstance(name, str) or "transformers" not in sys.modules:
        return None
    module, _, kind = name.partition(":")
    found = getattr(sys.modules.get(module) or sys.modules["transformers"], kind, None)
    return found if isinstance(found, type) and issubclass(found, OrderedDict) and found.__module__.startswith("transformers.") else None


def plain_spec(spec: TreeSpec) -> TreeSpec:
    """The same tree with output classes as dicts, nested ones too."""
    return decode_spec(encode_spec(spec), "output", plain=True)


def encode_values(value: Any, put: Any) -> Any:
    """The JSON form of example inputs; `put(tensor)` stores a tensor and returns its key.

    Raises: FileError for anything but tensors, numbers and strings in tuples, lists and dicts.
    """
    if isinstance(value, torch.Tensor):
        return {"tensor": put(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, tuple | list):
        return {type(value).__name__ if type(value) in (tuple, list) else "tuple": [encode_values(item, put) for item in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): encode_values(item, put) for key, item in value.items()}}
    raise FileError(f"save: expected example inputs of tensors and plain values, got {type(value).__name__}. Trace with such inputs.")


def decode_values(record: Any, get: Any, where: str, depth: int = 0) -> Any:
    """The example inputs. Raises: FileError."""
    if not isinstance(record, dict) or len(record) != 1 or depth > DEEPEST:
        raise bad(where, "a tree of values", record)
    ((tag, content),) = record.items()
    if tag == "tensor" and isinstance(content, str):
        return get(content)
    if tag == "plain" and (content is None or isinstance(content, bool | int | float | str)):
        return content
    if tag in ("tuple", "list") and isinstance(content, list):
        items = [decode_values(item, get, where, depth + 1) for item in content]
        return tuple(items) if tag == "tuple" else items
    if tag == "dict" and isinstance(content, dict):
        return {str(key): decode_values(item, get, where, depth + 1) for key, item in content.items()}
    raise bad(where, "a tree of values", record)
