"""Ops over arrays of sympy expressions: what each computes, as one writes it down.

A value is a numpy array of expressions, or a torch tensor of plain numbers (a mask, positions, ids). Moves are not written down here:
torch itself moves the numbers of the elements. Activations (gelu, silu, ...) stay functions with a name until they are written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import sympy
import torch
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanAtom, BooleanFunction
from torch import Tensor

from verify.rules.table import axes

aten = torch.ops.aten
Array = np.ndarray  # of expressions
Rule = Callable[..., Any]
DECIMALS = 6  # numbers with no more digits are written as fractions
TRUTHS = (Relational, BooleanAtom, BooleanFunction)  # a Symbol may stand for a truth value too, ours are numbers
LOWEST = -3.0e38  # numbers as low as float32's lowest mask as -inf does


class Unwritten(Exception):
    """Says why an op has no formula."""


# ---------------------------------------------------------------------------------------------------------------- elements


class Activation(sympy.Function):
    """A function of one number with a name of its own; `written_out` says what it is."""

    is_real = True
    definition: ClassVar[Callable[[Any], Any]]
    tex: ClassVar[str]

    def _latex(self, printer: Any, exp: Any = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"{self.tex}{power}{{\left({printer._print(self.args[0])}\right)}}"


def _activation(name: str, tex: str, definition: Callable[[Any], Any]) -> type[Activation]:
    return type(name, (Activation,), {"definition": staticmethod(definition), "tex": tex})


def _tanh_gelu(x: Any) -> Any:
    return x * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (x + sympy.Rational("0.044715") * x**3))) / 2


sigmoid = _activation("sigmoid", r"\sigma", lambda x: 1 / (1 + sympy.exp(-x)))
silu = _activation("silu", r"\operatorname{silu}", lambda x: x / (1 + sympy.exp(-x)))
gelu = _activation("gelu", r"\operatorname{gelu}", lambda x: x * (1 + sympy.erf(x / sympy.sqrt(2))) / 2)
gelu_tanh = _activation("gelu_tanh", r"\operatorname{gelu}_{\tanh}", _tanh_gelu)
softplus = _activation("softplus", r"\operatorname{softplus}", lambda x: sympy.log(1 + sympy.exp(x)))
relu = _activation("relu", r"\operatorname{relu}", lambda x: sympy.Max(0, x))
mish = _activation("mish", r"\operatorname{mish}", lambda x: x * sympy.tanh(sympy.log(1 + sympy.exp(x))))


DEFINED = {f.__name__: f.definition for f in (sigmoid, silu, gelu, gelu_tanh, softplus, relu, mish)}
# sympy's own look for signs and periods in what they are given, which takes long in long expressions
PLAIN = {name: _activation(name, rf"\{tex}", getattr(sympy, name)) for name, tex in (
    ("tanh", "tanh"), ("sin", "sin"), ("cos", "cos"), ("tan", "tan"), ("sinh", "sinh"), ("cosh", "cosh"), ("asin", "arcsin"),
    ("acos", "arccos"), ("atan", "arctan"), ("erf", "operatorname{erf}"), ("erfc", "operatorname{erfc}"))}  # fmt: skip


def written_out(e: Any, known: dict[Any, Any]) -> Any:
    """`e` with every activation replaced by its definition; what is shared is done once, and kept in `known`."""
    if not e.args:
        return e
    if e not in known:
        parts = [written_out(part, known) for part in e.args]
        known[e] = type(e).definition(*parts) if isinstance(e, Activation) else e.func(*parts)
    return known[e]


def numeric(e: Any, known: dict[Any, Any]) -> Any:
    """The float64 number (or truth value) that `e` is, where `known` holds the numbers of its symbols."""
    if e not in known:
        known[e] = _numeric(e, [numeric(part, known) for part in e.args])
    return known[e]


def _numeric(e: Any, parts: list[Any]) -> Any:
    if isinstance(e, Activation) and not hasattr(math, type(e).__name__):
        x = sympy.Dummy(real=True)
        return numeric(type(e).definition(x), {x: parts[0]})
    if e.is_Add:
        return math.fsum(parts)
    if e.is_Mul:
        return math.prod(parts)
    if e.is_Pow:
        return math.pow(*parts)
    if isinstance(e, sympy.Piecewise):
        return next(value for value, holds in parts if holds)
    if isinstance(e, ExprCondPair):
        return tuple(parts)
    if isinstance(e, TRUTHS):
        return bool(e.func(*parts))
    if not parts:
        return bool(e) if e in (sympy.true, sympy.false) else float(e)
    known = getattr(math, type(e).__name__, None)
    f: Any = e.func
    return known(*parts) if known else float(f(*(sympy.Float(part, 30) for part in parts)))


def number(x: Any) -> Any:
    """A Python number as an expression: short decimals exactly, -inf for the lowest numbers, others as floats."""
    if isinstance(x, sympy.Basic):
        return x
    if isinstance(x, bool | int):
        return sympy.sympify(x)
    if not math.isfinite(x) or x <= LOWEST:
        return sympy.nan if math.isnan(x) else sympy.oo * (1 if x > 0 else -1)
    text = repr(float(x))
    digits = text.split("e")[0].replace(".", "").replace("-", "").strip("0")
    return sympy.Rational(text) if len(digits) <= DECIMALS else sympy.Float(x, 17)


def lift(value: Any) -> Array:
    """A value as an array of expressions."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list):
        return np.stack([lift(item) for item in value])
    if not isinstance(value, Tensor):
        return np.array(number(value), dtype=object)
    out = np.empty(tuple(value.shape), dtype=object)
    for at in np.ndindex(out.shape):
        out[at] = number(value[at].item())
    return out


def real(e: Any) -> Any:
    """An element as a number: a truth value is one where it holds, else zero."""
    if e in (sympy.true, sympy.false):
        return sympy.Integer(bool(e))
    return sympy.Piecewise((1, e), (0, True)) if isinstance(e, TRUTHS) else e


def truth(e: Any) -> Any:
    """An element as a truth value: a number holds where it is not zero."""
    return e if isinstance(e, TRUTHS) else sympy.Ne(e, 0)


def each(f: Callable[..., Any], *values: Any) -> Array:
    """`f` of every element, shapes broadcast."""
    return np.asarray(np.frompyfunc(f, len(values), 1)(*map(lift, values)), dtype=object)


def plus(x: Any, y: Any) -> Any:
    """x + y, which is -inf where one of them is: that is how scores are masked."""
    low = -sympy.oo
    return low if low in (x, y) else real(x) + real(y)


def choose(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    condition = truth(condition)
    if condition in (sympy.true, sympy.false):
        return x if condition == sympy.true else y
    return sympy.Piecewise((real(x), condition), (real(y), True))


# ---------------------------------------------------------------------------------------------------------------- rows


def along(f: Callable[[list[Any]], Any], x: Any, dims: Any = None, keepdim: bool = False) -> Array:
    """`f` of the list of elements along `dims` (all for None)."""
    x = lift(x)
    over = axes(dims, x.ndim) if x.ndim else ()
    outer = [size for d, size in enumerate(x.shape) if d not in over]
    lined = np.moveaxis(x, over, range(-len(over), 0)).reshape(*outer, -1) if x.ndim else x.reshape(1)
    out = np.empty(outer, dtype=object)
    for at in np.ndindex(*outer):
        out[at] = f([real(e) for e in lined[at]])
    return out.reshape([1 if d in over else size for d, size in enumerate(x.shape)]) if keepdim else out


def lines(f: Callable[[list[Any]], Sequence[Any]], x: Any, dim: int) -> Array:
    """The lines along `dim`, each replaced by what `f` makes of it."""
    moved = np.moveaxis(lift(x), dim, -1)
    out = np.empty(moved.shape, dtype=object)
    for at in np.ndindex(*moved.shape[:-1]):
        out[at] = np.array(f(list(moved[at])), dtype=object)
    return np.moveaxis(out, -1, dim)


def mean_of(row: list[Any]) -> Any:
    """The mean of some expressions."""
    return sympy.Add(*row) / len(row)


def softmax(x: Any, dim: int, *_: Any, **__: Any) -> Array:
    """exp x_i / sum_j exp x_j."""

    def shares(row: list[Any]) -> list[Any]:
        if all(e == -sympy.oo for e in row):
            raise Unwritten("a softmax of masked elements alone")
        weights = [sympy.exp(e) for e in row]
        total = sympy.Add(*weights)
        return [w / total for w in weights]

    return lines(shares, x, dim)


def log_softmax(x: Any, dim: int, *_: Any, **__: Any) -> Array:
    """x_i - log sum_j exp x_j."""
    return lift(x) - along(log_sum, x, dim, True)


def log_sum(row: list[Any]) -> Any:
    """The logarithm of the sum of the exponentials of some expressions."""
    return sympy.log(sympy.Add(*map(sympy.exp, row)))


def variance(x: Any, dims: Any = None, correction: Any = None, keepdim: bool = False) -> Array:
    """sum (x - mean x)^2 / (n - correction)."""
    less = 1 if correction is None else correction
    squares = (lift(x) - along(mean_of, x, dims, True)) ** 2
    return along(lambda row: sympy.Add(*row) / (len(row) - less), squares, dims, keepdim)


def affine(x: Array, weight: Any, bias: Any) -> Array:
    """x weight + bias, where given."""
    x = x if weight is None else x * lift(weight)
    return x if bias is None else x + lift(bias)


def layer_norm(x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Array:
    """(x - mean x) / sqrt(var x + eps), affine."""
    x, dims = lift(x), tuple(range(-len(shape), 0))
    centred = x - along(mean_of, x, dims, True)
    spread = along(mean_of, centred**2, dims, True)
    return affine(centred / each(lambda v: sympy.sqrt(v + number(eps)), spread), weight, bias)


def rms_norm(x: Any, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Array:
    """x / sqrt(mean x^2 + eps), times weight."""
    if eps is None:
        raise Unwritten("an RMS norm whose eps is that of its dtype")
    x = lift(x)
    square = along(mean_of, x**2, tuple(range(-len(shape), 0)), True)
    return affine(x / each(lambda v: sympy.sqrt(v + number(eps)), square), weight, None)


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, causal: bool = False, *, scale: Any = None, enable_gqa: bool = False
) -> Array:
    """softmax(q k' scale + mask) v."""
    q, k, v = map(lift, (q, k, v))
    if enable_gqa:
        k, v = (np.repeat(t, q.shape[-3] // k.shape[-3], axis=-3) for t in (k, v))
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * (1 / sympy.sqrt(q.shape[-1]) if scale is None else number(scale))
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and isinstance(mask, Tensor) and mask.dtype == torch.bool:
        scores = each(choose, mask, scores, -math.inf)
    elif mask is not None:
        scores = each(plus, scores, mask)
    return np.matmul(softmax(scores, -1), v)


# ---------------------------------------------------------------------------------------------------------------- products


def matmul(x: Any, y: Any) -> Array:
    """The product of matrices or vectors, leading axes broadcast."""
    return np.asarray(np.matmul(each(real, x), each(real, y)), dtype=object)


def linear(x: Any, weight: Any, bias: Any = None) -> Array:
    """x W' + b."""
    return affine(matmul(x, np.swapaxes(lift(weight), -1, -2)), None, bias)


def einsum(equation: str, operands: Sequence[Any], *_: Any, **__: Any) -> Array:
    """The sum of products that the equation spells."""
    return np.asarray(np.einsum(equation, *map(lift, operands)), dtype=object)
