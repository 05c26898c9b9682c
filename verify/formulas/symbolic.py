"""A graph over expressions: each op by its formula, moves by torch itself, other ops by torch's own decomposition of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from rewrite.errors import InputError
from rewrite.run import needed
from verify.formulas.symbols import Array, Unwritten, lift, number, real
from verify.formulas.written import WRITTEN
from verify.interpret import ASSERTIONS, PYTHON
from verify.rules import movement

aten = torch.ops.aten
MOST = 4096  # elements on the way
FILLED = (aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default, aten.new_zeros.default,
          aten.new_ones.default, aten.new_full.default, aten.new_empty.default)  # fmt: skip
CASTS = (aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
CHOSEN = (aten.embedding.default, aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.scatter.src,
          aten.index_put.default)  # fmt: skip
OTHERWISE = (aten.pad.default, aten.constant_pad_nd.default, aten.fill.Scalar, aten.fill.Tensor)
MOVES = frozenset((*movement.TABLE, *CHOSEN)) - frozenset((*FILLED, *CASTS, *OTHERWISE))


@dataclass(frozen=True)
class Unknown:
    """A leaf or a site that is any array of real numbers; its symbols are made when they are read."""

    name: str
    shape: tuple[int, ...]

    @cached_property
    def array(self) -> Array:
        """Symbols `name[0,0]`, ...; one called `name` for a single number."""
        out = np.empty(self.shape, dtype=object)
        for at in np.ndindex(*self.shape):
            out[at] = sympy.Symbol(f"{self.name}[{','.join(map(str, at))}]" if at else self.name, real=True)
        return out

    @property
    def read(self) -> bool:
        """Whether anything asked for its symbols."""
        return "array" in self.__dict__


def evaluate(graph: fx.Graph, given: Mapping[str, Any], want: Sequence[str], limit: int = MOST) -> list[Array]:
    """The values of the nodes named in `want` as arrays of expressions, from those in `given`: arrays, Unknowns, plain tensors, numbers.

    Raises: InputError for an op without a formula, and beyond `limit` elements.
    """
    nodes = {node.name: node for node in graph.nodes}
    needs = needed([nodes[name] for name in want], [nodes[name] for name in given if name in nodes])
    values: dict[fx.Node, Any] = {}
    count = 0
    for node in (node for node in graph.nodes if node in needs):
        value = given[node.name] if node.name in given else _written(node, values)
        count += value.array.size if isinstance(value, Unknown) else sum(v.size for v in _arrays(value))
        if count > limit:
            raise InputError(
                f"formula: expected at most {limit} elements on the way, got more at {node.name}. "
                "Trace a smaller model, or stop at sites on the way with given=."
            )
        values[node] = value.array if isinstance(value, Unknown) else value
    return [lift(values[nodes[name]]) for name in want]


def _arrays(value: Any) -> list[Array]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, np.ndarray)]


def _written(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: _Held(values[n]))  # type: ignore[misc]
    args, kwargs = tree_map(lambda leaf: leaf.value if isinstance(leaf, _Held) else leaf, (args, kwargs))
    try:
        out = apply(node.target, args, kwargs)
    except (Unwritten, NotImplementedError) as error:
        raise InputError(
            f"formula: expected ops that have a formula, got {node.target} at {node.name} ({error}). Stop behind it with given=."
        ) from None
    _check_shape(node, out)
    return out


class _Held:
    """Keeps fx from looking into a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _check_shape(node: fx.Node, out: Any) -> None:
    """Raises AssertionError where a formula has another shape than torch: a defect of this package."""
    meta = node.meta.get("val")
    if not isinstance(out, np.ndarray) or not isinstance(meta, Tensor):
        return
    known = [(size, told) for size, told in zip(out.shape, meta.shape, strict=False) if isinstance(told, int)]
    if out.ndim != meta.dim() or any(size != told for size, told in known):
        raise AssertionError(f"formula of {node.target} at {node.name}: shape {out.shape}, torch gives {tuple(meta.shape)}")


def apply(op: Any, args: Any, kwargs: Any) -> Any:
    """What an op makes of arrays of expressions.

    Raises: Unwritten for one that has no formula.
    """
    if op in (aten.sym_size.int,):
        return args[0].shape[args[1]]
    if getattr(op, "__name__", "") == "getitem":
        return args[0][args[1]]
    if op in ASSERTIONS:
        return None
    if op in PYTHON or not _arrays((args, kwargs)):
        return op(*args, **kwargs)
    if op in FILLED:
        return op(*_stand_ins(args), **_stand_ins(kwargs))
    if op in CASTS:
        return _cast(op, args, kwargs)
    if op is aten.constant_pad_nd.default:
        return moved(op, args[:2], {}, *args[2:])
    if op in MOVES:
        return moved(op, args, kwargs)
    return WRITTEN[op](*args, **kwargs) if op in WRITTEN else _decomposed(op, args, kwargs)


def _stand_ins(value: Any) -> Any:
    """Zeros in the place of arrays."""
    return tree_map(lambda leaf: torch.zeros(leaf.shape, dtype=torch.float64) if isinstance(leaf, np.ndarray) else leaf, value)


def _cast(op: Any, args: Any, kwargs: Any) -> Any:
    """The same number in another float type; truth values become numbers."""
    out = op(*_stand_ins(args), **_stand_ins(kwargs))
    if not out.is_floating_point():
        raise Unwritten(f"expressions as {out.dtype}")
    return np.asarray(np.frompyfunc(real, 1, 1)(lift(args[0])), dtype=object)


def moved(op: Any, args: Any, kwargs: Any, filling: Any = 0) -> Any:
    """The elements as torch moves their numbers; nought stands for the `filling` that torch puts in."""
    pool: list[Any] = [number(filling)]

    def numbered(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) and not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
            return leaf
        array = lift(leaf)
        first = len(pool)
        pool.extend(array.flat)
        return torch.arange(first, len(pool)).reshape(array.shape)

    args, kwargs = tree_map(numbered, (args, kwargs))
    elements = np.empty(len(pool), dtype=object)
    elements[:] = pool
    return tree_map(lambda leaf: np.asarray(elements[leaf.numpy()], dtype=object), op(*args, **kwargs))


def _decomposed(op: Any, args: Any, kwargs: Any) -> Any:
    """What torch's own decomposition of the op computes."""
    from torch._decomp import core_aten_decompositions

    leaves, spec = tree_flatten((args, kwargs))
    held = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | Tensor)]

    def call(*tensors: Tensor) -> Any:
        filled = dict(zip(held, tensors, strict=True))
        again, named = tree_unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)], spec)
        return op(*again, **named)

    table: Any = core_aten_decompositions()
    try:
        graph = make_fx(call, decomposition_table=table)(*(_stand_ins(leaves[i]) for i in held)).graph
    except Exception as error:
        raise Unwritten(f"torch cannot take it apart: {str(error).strip().splitlines()[0][:80]}") from None
    if any(node.target is op or node.op == "get_attr" for node in graph.nodes):
        raise Unwritten("it has none")
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    returned = graph.output_node().args[0]
    single = isinstance(returned, fx.Node)
    wanted: list[fx.Node] = [returned] if single else list(returned)  # type: ignore[arg-type, list-item]
    found = evaluate(graph, dict(zip(inputs, (leaves[i] for i in held), strict=True)), [node.name for node in wanted])
    return found[0] if single else tuple(found)
