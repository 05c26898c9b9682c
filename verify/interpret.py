"""A graph in exact arithmetic: each op by its rule, plain data by torch itself, and nothing without a meaning."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from verify.algebra import Algebra, Refused, nothing
from verify.entering import WRAPPING
from verify.rules import RULES, convolutions, elementwise, integers, movement, norms, ring
from verify.rules.declared import declared
from verify.value import Agreement, Choice, Concrete, Field, Like, Value, either, flat, is_value, mapped, short, whole
from verify.world import World

__all__ = ["Refused", "evaluate", "same"]

aten = torch.ops.aten
PYTHON = frozenset(
    (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.truediv, operator.neg, operator.pow,
     operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.and_, operator.or_, operator.not_,
     math.ceil, math.floor, torch.sym_max, torch.sym_min, torch.sym_float, torch.sym_int, torch.sym_not, torch.sym_ite)
)  # fmt: skip
ASSERTIONS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range_for_size.default,
)
ON_BITS = (aten.add.Tensor, aten.mul.Tensor)
MOVED = frozenset(movement.TABLE)
ARITHMETIC = frozenset((*ring.TABLE, *convolutions.TABLE, *norms.TABLE, *elementwise.TABLE)) - frozenset(elementwise.TRUTH)
JOINING = ARITHMETIC | {aten.cat.default, aten.stack.default, *elementwise.CHOOSING}  # operands of several types become one
FAILURES = (IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
READINGS = (aten.item.default, aten._local_scalar_dense.default, aten.nonzero.default, aten.is_nonzero.default)


def evaluate(graph: fx.Graph, given: Mapping[str, Value], want: Sequence[str], world: World) -> dict[str, Value]:
    """The values of the nodes named in `want`, from those of the nodes named in `given` (placeholders, or any inner cut).

    Raises: Refused at an op that has no exact meaning; it names the op and the node.
    """
    wanted = dict.fromkeys(want)
    order, last = _needed(graph, given, wanted)
    run = _Run(world, {name: given[name] for name in given})
    for node in order:
        if node.name not in given:
            run.values[node.name] = run.node(node)
        elif is_value(given[node.name]):
            run.check(node, given[node.name])
        for name in last.get(node, ()):
            if name not in wanted:
                del run.values[name]
    return {name: run.values[name] for name in wanted}


def _needed(graph: fx.Graph, given: Mapping[str, Value], want: Mapping[str, None]) -> tuple[list[fx.Node], dict[fx.Node, list[str]]]:
    """The nodes to evaluate, in order, and after which of them which values are read no more."""
    nodes = {node.name: node for node in graph.nodes}
    missing = [name for name in want if name not in nodes]
    if missing:
        raise KeyError(f"evaluate: expected names of nodes, got {missing[0]!r}. Ask for a node of the graph.")
    needed: set[fx.Node] = set()
    stack = [nodes[name] for name in want]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(() if node.name in given else node.all_input_nodes)
    order = [node for node in graph.nodes if node in needed]
    reader: dict[str, fx.Node] = {}
    for node in order:
        if node.name not in given:
            reader.update((n.name, node) for n in node.all_input_nodes)
    last: dict[fx.Node, list[str]] = {}
    for name, node in reader.items():
        last.setdefault(node, []).append(name)
    return order, last


class _Run:
    """One evaluation: the values so far, and the sizes that symbolic dimensions have."""

    def __init__(self, world: World, values: dict[str, Value]) -> None:
        self.algebra, self.values = Algebra(world), values
        self.sizes: dict[Any, int] = {}

    def node(self, node: fx.Node) -> Value:
        self.algebra.node, self.algebra.op = node.name, str(node.target)
        self.algebra.out, self.algebra.among = _types(node)
        if node.op != "call_function":
            self.algebra.refuse(f"a {node.op} without a given value")
        read = lambda leaf: self.values[leaf.name] if isinstance(leaf, fx.Node) else leaf  # noqa: E731
        try:
            return self.check(node, self._call(node.target, mapped(read, node.args), mapped(read, dict(node.kwargs))))
        except FAILURES as error:  # sizes or values that a rule, or torch, does not accept
            self.algebra.refuse(f"it fails on these sizes or values: {type(error).__name__} {str(error).strip().split(chr(10))[0][:120]}")

    def _call(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        if op in (aten.sym_size.int,):
            return args[0].shape[args[1]]
        if op is operator.getitem:
            return args[0][args[1]]
        if op in PYTHON:
            return op(*args, **kwargs)
        if op in ASSERTIONS:
            return None
        if not isinstance(op, torch._ops.OpOverload) or op._schema.is_mutable:
            self.algebra.refuse("it is no functional ATen op")
        values = [v for v in flat([*args, *kwargs.values()]) if is_value(v)]
        kind = self.algebra.world.declared.get(op)
        if kind is None and torch.Tag.nondeterministic_seeded not in op.tags and all(isinstance(v, Concrete) for v in values):
            if all(v.atom is None for v in values):
                return _plain(op, args, kwargs)
            if op not in READINGS:
                return integers.run(self.algebra, op, args, kwargs)
        if op in READINGS:
            self.algebra.refuse("a number read from ids or from values")
        if op not in RULES and kind is None:
            self.algebra.refuse("it has no rule")
        self._admit(op, [v for v in values if not isinstance(v, Choice)], [*args, *kwargs.values()])
        out = declared(self.algebra, op, kind, args, kwargs) if kind is not None else RULES[op](self.algebra, *args, **kwargs)
        if self.algebra.world.dual and any(isinstance(v, Field) and v.tangent is not None for v in values):
            self._followed(op, out)
        return out

    def _followed(self, op: Any, out: Value) -> None:
        """Raises AssertionError where a rule lost a derivative: what has none must say so."""
        for value in flat([out]):
            if isinstance(value, Field) and value.dtype.is_floating_point and self.algebra.out.is_floating_point and value.along is None:
                raise AssertionError(f"rule of {op} at {self.algebra.node}: a derivative was lost")

    def _admit(self, op: Any, values: Sequence[Field | Concrete], arguments: Sequence[Any]) -> None:
        """Refuses types whose arithmetic is none of numbers: complex ones, bits, and whole numbers that wrap."""
        if self.algebra.out.is_complex or any(v.dtype.is_complex for v in values):
            self.algebra.refuse("complex numbers have no place in the field")
        if op in ARITHMETIC and not (self.algebra.out == torch.bool and op in ON_BITS):
            self.algebra.exact_sums()
        if whole(self.algebra.out) and any(isinstance(x, float) and not x.is_integer() for x in arguments):
            self.algebra.refuse(f"a number that is not whole where {self.algebra.out} is made")
        if short(self.algebra.out) and op in JOINING and any(whole(v.dtype) and _varies(v) for v in values):
            self.algebra.refuse(f"whole numbers that become {self.algebra.out} on the way")
        narrow = [torch.iinfo(v.dtype) for v in values if v.dtype in WRAPPING]
        if any(isinstance(x, int) and not (i.min <= x <= i.max) for i in narrow for x in arguments) and op not in MOVED:
            self.algebra.refuse("a number outside the type of whole numbers that it meets")

    # The checker checks itself: residues and shapes after every op

    def check(self, node: fx.Node, out: Value) -> Value:
        """`out` with the dtype torch gives, after a check of its residues and shapes.

        Raises: AssertionError where a rule lost a residue or has another shape than torch: a defect of this package.
        """
        meta = node.meta.get("val")
        if isinstance(out, (list, tuple)) and isinstance(meta, (list, tuple)):
            return tuple(self._checked(node, o, m) for o, m in zip(out, meta, strict=True))
        return self._checked(node, out, meta)

    def _checked(self, node: fx.Node, out: Value, meta: Any) -> Value:
        if not is_value(out) or not isinstance(meta, Tensor | Like):
            return out
        self._shape(node, tuple(out.shape), meta)
        if isinstance(out, Field):
            self._residues(node, out)
            return out if out.dtype == meta.dtype else replace(out, dtype=meta.dtype)
        if isinstance(out, Choice):
            self._residues(node, out.weights)
        elif out.shadow is not None:
            self._residues(node, out.shadow)
        return out

    def _residues(self, node: fx.Node, value: Field) -> None:
        shape = value.parts[0].shape
        beside = [m for m in (value.hard, value.soft, value.undefined, value.decided) if m is not None]
        beside += [] if value.tangent is None else value.tangent.parts
        counts = {len(value.parts), *([] if value.tangent is None else [len(value.tangent.parts)])}
        if counts != {self.algebra.math.count} or any(t.shape != shape for t in (*value.parts, *beside)):
            raise AssertionError(
                f"rule of {node.target} at {node.name}: {len(value.parts)} residues of shapes {[tuple(p.shape) for p in value.parts]}"
            )

    def _shape(self, node: fx.Node, shape: tuple[int, ...], meta: Tensor | Like) -> None:
        if len(shape) != len(meta.shape):
            raise AssertionError(f"rule of {node.target} at {node.name}: shape {shape}, torch gives {tuple(meta.shape)}")
        for size, expected in zip(shape, meta.shape, strict=True):
            if size != (expected if isinstance(expected, int) else self._size(expected, size)):
                raise AssertionError(f"rule of {node.target} at {node.name}: shape {shape}, torch gives {tuple(meta.shape)}")

    def _size(self, symbolic: torch.SymInt, found: int) -> int:
        """What a symbolic size is: by its symbols, the first value seen for a new one."""
        expression = symbolic.node.expr
        if expression.is_symbol:
            return self.sizes.setdefault(expression, found)
        if expression not in self.sizes:
            known = {s: self.sizes[s] for s in expression.free_symbols if s in self.sizes}
            result = expression.subs(known)
            self.sizes[expression] = int(result) if result.is_number else found
        return self.sizes[expression]


def _varies(v: Field | Concrete) -> bool:
    return isinstance(v, Field) or v.atom is not None


def _types(node: fx.Node) -> tuple[torch.dtype, torch.dtype]:
    """The type of a node's result (the first, if several), and the float type that its numbers are read in."""
    first = lambda v: v[0] if isinstance(v, (list, tuple)) and v else v  # noqa: E731
    found = [first(n.meta.get("val")) for n in (node, *node.all_input_nodes)]
    out, *operands = [v.dtype if isinstance(v, Tensor | Like) else torch.float32 for v in found]
    among = next((d for d in operands if d.is_floating_point), torch.float32)
    return out, out if out.is_floating_point else among


def _plain(op: Any, args: Any, kwargs: Any) -> Value:
    """Torch's own result, as traced, for data that depends on no weight, no float input and no id."""
    data = lambda leaf: leaf.data if isinstance(leaf, Concrete) else leaf  # noqa: E731
    with torch.no_grad():
        out = op(*mapped(data, args), **mapped(data, kwargs))
    return mapped(lambda leaf: Concrete(leaf) if isinstance(leaf, Tensor) else leaf, out)


def same(a: Value, b: Value, world: World | None = None) -> Agreement:
    """How two values compare, element by element, tags included; undefined elements of either are left out and counted.

    Values of different shapes disagree everywhere. With a world, plain data can be compared with residues, and the world's tally
    takes note of undefined elements and of the degree of the difference.
    """
    if not is_value(a) or not is_value(b):
        return Agreement(1, int(a != b), 0)
    if a.shape != b.shape:
        return Agreement(max(1, math.prod(a.shape)), max(1, math.prod(a.shape)), 0)
    if isinstance(a, Concrete) and isinstance(b, Concrete):
        return _same_plain(a, b)
    if isinstance(a, Choice) or isinstance(b, Choice):
        return _same_choice(a, b, world)
    if isinstance(a, Field) and isinstance(b, Field):
        return _same_fields(a, b, world)
    if world is None:
        return Agreement(math.prod(a.shape), math.prod(a.shape), 0)
    algebra = Algebra(world)
    return _same_fields(algebra.field(a), algebra.field(b), world)


def _same_fields(a: Field, b: Field, world: World | None) -> Agreement:
    nowhere = torch.zeros(a.shape, dtype=torch.bool)
    mask = lambda m: nowhere if m is None else m  # noqa: E731
    undefined = mask(either(a.undefined, b.undefined))
    tags = (mask(a.hard) != mask(b.hard)) | (mask(a.soft) != mask(b.soft))
    tags |= mask(a.masked) & (mask(a.decided) != mask(b.decided))
    endless = mask(either(*(v.hard if v.decided is None or v.hard is None else v.hard & ~v.decided for v in (a, b))))
    unequal = nowhere.clone()
    for x, y in zip(a.parts, b.parts, strict=True):
        unequal |= x != y
    degree = a.degree.plus(b.degree).top
    if a.tangent is not None or b.tangent is not None:
        along, other = (v.tangent or nothing(v) for v in (a, b))
        degree = max(degree, along.degree.plus(other.degree).top)
        for x, y in zip(along.parts, other.parts, strict=True):
            unequal |= x != y
    where = ((unequal & ~endless) | tags) & ~undefined
    if world is not None:
        world.tally.output = max(world.tally.output, degree)
        world.tally.undefined += int(undefined.sum())
    return Agreement(where.numel(), int(where.sum()), int(undefined.sum()), where, degree)


def _same_plain(a: Concrete, b: Concrete) -> Agreement:
    common = torch.promote_types(a.dtype, b.dtype)
    where = ~torch.isclose(a.data.to(common), b.data.to(common), rtol=0, atol=0, equal_nan=True)
    if a.atom is not None or b.atom is not None:
        if a.atom is None or b.atom is None:
            where = torch.ones_like(where)
        else:
            for x, y in zip(a.atom, b.atom, strict=True):
                where |= x != y
    return Agreement(where.numel(), int(where.sum()), 0, where)


def _same_choice(a: Value, b: Value, world: World | None) -> Agreement:
    if not isinstance(a, Choice) or not isinstance(b, Choice) or a.size != b.size:
        return Agreement(math.prod(a.shape), math.prod(a.shape), 0)
    inner = _same_fields(a.weights, b.weights, world)
    assert inner.where is not None
    where = inner.where.any(-1)
    return Agreement(where.numel(), int(where.sum()), inner.undefined, where, inner.degree)
