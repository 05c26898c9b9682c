"""The checker checks itself: the same rules over float64 with the true functions, against torch's own run of the same graph.

A wrong rule gives the same wrong answer on both sides of a comparison and is never seen there; here it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from verify.derivative import SLOPE
from verify.field import Parts
from verify.interpret import evaluate
from verify.oracle import Lanes
from verify.value import Choice, Concrete, Field, Value, flat, is_value, mapped
from verify.world import Law, Order, World


class Real:
    """float64 in place of residues: the arithmetic of `verify.field.Modular`, one tensor a value."""

    count = 1
    most = 1 << 62

    def number(self, value: float | Fraction, over: float | Fraction = 1) -> tuple[float, ...]:
        return (float(value) / float(over),)

    def lift(self, tensor: Tensor) -> Parts:
        return (tensor.double(),)

    def tidy(self, i: int, fresh: Tensor) -> Tensor:
        return fresh

    def inverse(self, parts: Parts) -> tuple[Parts, Tensor]:
        zero = parts[0] == 0
        return (1 / parts[0].masked_fill(zero, 1),), zero

    def contract(self, i: int, op: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, length: int) -> Tensor:
        return op(a.double(), b.double())

    def matmul(self, i: int, a: Tensor, b: Tensor) -> Tensor:
        return a.double() @ b.double()


HUGE = 2.0**20  # a number of a row beside which the sum of the others is not precise enough
SOFTEST = tuple(torch.finfo(d).min for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64))
TRUE: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name)
    for name in ("tanh", "erf", "exp", "exp2", "log", "log2", "log10", "rsqrt", "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan",
                 "asinh", "atanh", "floor", "trunc", "round", "atan2")
} | {"equal": lambda x: (x == 0).double(), "pow": torch.pow}  # fmt: skip
WITH_NUMBER: dict[str, Callable[[Tensor, float], Tensor]] = {
    "pow": torch.pow,
    "power of": lambda x, base: torch.pow(torch.full_like(x, base), x),
    "fmod": torch.fmod,
    "remainder": torch.remainder,
}
WITH_TYPE: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = dict.fromkeys(("trunc", "wrapped", "rounded"), lambda x, dtype: x.to(dtype))


def true_function(name: str, declared: Mapping[str, Callable[..., Tensor]]) -> Callable[..., Tensor]:
    """The function that an oracle's name stands for."""
    if name in TRUE or name in declared:
        return TRUE.get(name) or declared[name]
    if name.startswith(SLOPE):
        which, _, of = name.removeprefix(f"{SLOPE} ").partition(" ")
        return true_slope(true_function(of, declared), which)
    kind, _, number = name.rpartition(" ")
    if kind in WITH_TYPE:
        return lambda x: WITH_TYPE[kind](x, getattr(torch, number.removeprefix("torch.")))
    return lambda x: WITH_NUMBER[kind](x, float(number))


def true_slope(function: Callable[..., Tensor], which: str) -> Callable[..., Tensor]:
    """The derivative of a function by its argument of that number; "even": of an odd one, told the square of its argument."""

    def slope(*arguments: Tensor) -> Tensor:
        given = [a.detach().sqrt() if which == "even" else a.detach() for a in arguments]
        at = given[0 if which == "even" else int(which)].requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(function(*given).sum(), at)[0]

    return slope


class RealWorld(World):
    """A world in which nothing is random: oracles are the functions they stand for, ids choose their own rows."""

    def __init__(self, theory: Law = "gates", *, dual: bool = False, declared: Mapping[Any, str] | None = None) -> None:
        super().__init__(bytes(16), theory=theory, dual=dual, declared=declared)
        self.math, self.count = Real(), 1  # type: ignore[assignment]

    symbolic = False

    @staticmethod
    def lowest(dtype: torch.dtype) -> tuple[float, ...]:
        return SOFTEST

    def oracle(self, name: str, arguments: Sequence[Field], odd: bool = False) -> Parts:
        return (true_function(name, self.functions)(*(a.parts[0] for a in arguments)).double(),)

    def sign(self, x: Field) -> Parts:
        return (x.parts[0].sign(),)

    @staticmethod
    def row_total(part: Tensor, count: Tensor, dim: int) -> Tensor:
        """The sum; beside a huge number float64 would lose the others in it, and the largest stands for each, which is a shift as well."""
        if not part.shape[dim]:
            return part.sum(dim, keepdim=True)
        largest = part.amax(dim, keepdim=True)
        return torch.where(part.abs().amax(dim, keepdim=True) > HUGE, largest * count, part.sum(dim, keepdim=True))

    def softmax_row(self, shifted: Field, present: Tensor | None, dim: int) -> Parts:
        row = shifted.parts[0] / (shifted.shape[dim] if present is None else present.sum(dim, keepdim=True))
        return (self._kept_only(row, present).softmax(dim),)

    def logsumexp_row(self, shifted: Field, dim: int) -> Parts:
        return ((shifted.parts[0] / shifted.shape[dim]).logsumexp(dim, keepdim=True),)

    def ordered_row(self, name: str, x: Field, places: int) -> Parts:
        return (self.functions[name](x.parts[0]).double().reshape(*x.shape[:-1], places),)

    def matrix(self, name: str, shape: Sequence[int], sizes: tuple[int, int]) -> Field:
        basis = torch.eye(sizes[0], dtype=torch.float64).view(sizes[0], *shape)
        return Field((torch.stack([self.functions[name](one).double().flatten() for one in basis]),))

    def rank_row(self, x: Field, present: Tensor | None, dim: int, rank: int, order: Order) -> Parts:
        at = order.positions(self._kept_only(x.parts[0], present), dim).narrow(dim, rank, 1)
        return (torch.zeros_like(x.parts[0]).scatter(dim, at, 1.0),)

    def largest_row(self, x: Field, present: Tensor | None) -> Parts:
        return (self._kept_only(x.parts[0], present).amax(-1),)

    def largest_weights(self, x: Field, present: Tensor | None) -> tuple[Tensor, Parts]:
        row = self._kept_only(x.parts[0], present)
        there = torch.ones_like(row, dtype=torch.bool) if present is None else present
        return there, (torch.zeros_like(row).scatter(-1, row.argmax(-1, keepdim=True), 1.0),)

    @staticmethod
    def _kept_only(x: Tensor, present: Tensor | None) -> Tensor:
        return x if present is None else x.masked_fill(~present, -math.inf)

    def atom_value(self, name: str, atom: Lanes, truth: Tensor) -> Field:
        return Field((truth.double(),))

    def atom_weights(self, atom: Lanes, ids: Tensor, size: int) -> Parts:
        return (torch.nn.functional.one_hot(ids.long() % size, size).double(),)


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """The worst relative error of the rules against torch, at which node, over how many nodes."""

    error: float
    node: str
    nodes: int


def self_check(
    graph: fx.Graph,
    data: Mapping[str, Tensor],
    ids: Sequence[str] = (),
    want: Sequence[str] | None = None,
    plain: Sequence[str] = (),
    theory: Law = "gates",
    declared: Mapping[Any, str] | None = None,
) -> SelfCheck:
    """How far the rules over float64 are from torch, at the nodes in `want` (every node with a float or bool tensor if None).

    `data` holds a tensor for every placeholder by node name, `ids` names the placeholders that hold token ids, `plain` float ones that
    are what they are. The error at a node is the largest difference over the root mean square of torch's result.
    Raises: Refused as `evaluate`; KeyError for a placeholder without data.
    """
    world = RealWorld(theory, declared=declared)
    truth = _torch_run(graph, data)
    read = {node.name for node in graph.nodes if node.users}  # what nobody reads (the positions of a pool) need have no meaning
    names = [n for n in truth if n in read and _comparable(truth[n])] if want is None else list(want)
    values = evaluate(
        graph, {name: Concrete(t) if name in plain else _given(world, name, t, name in ids) for name, t in data.items()}, names, world
    )
    errors = {name: _error(values[name], truth[name]) for name in names}
    worst = max(errors, key=lambda name: errors[name], default="")
    return SelfCheck(errors.get(worst, 0.0), worst, len(names))


def slope_check(
    graph: fx.Graph, data: Mapping[str, Tensor], ids: Sequence[str], want: str, plain: Sequence[str], seed: int, theory: Law = "gates",
    declared: Mapping[Any, str] | None = None, still: Sequence[str] = (),
) -> float:  # fmt: skip
    """How far the rules' derivative of `want` along a random direction is from torch's: the relative error of a random combination.

    What is named in `still` does not move: torch has no derivative by it.
    Raises: Refused as `evaluate`; RuntimeError where torch has no derivative.
    """
    world, generator = RealWorld(theory, dual=True, declared=declared), torch.Generator().manual_seed(seed)
    draw = lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    free = {name: draw(t) for name, t in data.items() if t.dtype.is_floating_point and name not in (*plain, *still)}
    given = {name: Concrete(t) if name in plain else _given(world, name, t, name in ids) for name, t in data.items()}
    given |= {name: Field((data[name].detach().double(),)).moving(Field((direction,))) for name, direction in free.items()}
    found = evaluate(graph, given, [want], world)[want]
    leaves = {name: data[name].detach().double().requires_grad_() for name in free}
    with torch.enable_grad():
        truth = _torch_run(graph, {**data, **leaves}, track=True)[want]
    if not isinstance(found, Field) or not isinstance(truth, Tensor) or not truth.dtype.is_floating_point:
        return 0.0
    marks = [m for m in (found.hard, found.soft, found.undefined) if m is not None]
    weight = draw(truth) * ~torch.stack([torch.zeros_like(truth, dtype=torch.bool), *marks]).any(0)
    ours = [] if found.tangent is None else [(found.tangent.parts[0] * weight).flatten()]
    theirs = [torch.zeros(1, dtype=torch.float64)]
    if truth.requires_grad:
        grads = torch.autograd.grad((truth.double() * weight).nan_to_num().sum(), list(leaves.values()), allow_unused=True)
        theirs += [(g * d).sum().view(1) for g, d in zip(grads, free.values(), strict=True) if g is not None]
    left, right = torch.cat([*ours, torch.zeros(1, dtype=torch.float64)]), torch.cat(theirs)
    gap, scale = float((left.sum() - right.sum()).abs()), float(left.square().sum().sqrt() + right.abs().sum())
    return gap / scale if scale else gap


def _given(world: World, name: str, tensor: Tensor, ids: bool) -> Value:
    if tensor.dtype.is_floating_point:
        return Field((tensor.detach().double(),), dtype=tensor.dtype)
    return world.ids(tensor, name) if ids else Concrete(tensor)


def _torch_run(graph: fx.Graph, data: Mapping[str, Tensor], track: bool = False) -> dict[str, object]:
    values: dict[str, object] = dict(data)
    read = lambda leaf: values[leaf.name] if isinstance(leaf, fx.Node) else leaf  # noqa: E731
    with torch.set_grad_enabled(track):
        for node in graph.nodes:
            if node.op == "call_function":
                values[node.name] = node.target(*mapped(read, node.args), **mapped(read, dict(node.kwargs)))
    return values


def _comparable(value: object) -> bool:
    """True for what torch computed as a tensor, or several."""
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and all(isinstance(v, Tensor) for v in value))


def _error(value: Value, truth: object) -> float:
    if isinstance(truth, (list, tuple)):
        return max((_error(v, t) for v, t in zip(flat([value]), truth, strict=True) if v is not None), default=0.0)
    if not isinstance(truth, Tensor) or not is_value(value):
        return 0.0 if value == truth else math.inf
    if isinstance(value, Concrete):
        return 0.0 if torch.equal(torch.nan_to_num(value.data), torch.nan_to_num(truth)) else math.inf
    if isinstance(value, Choice):
        return 0.0 if torch.equal(value.weights.parts[0].argmax(-1), truth) else math.inf
    return _field_error(value, truth.double())


def _field_error(value: Field, truth: Tensor) -> float:
    found = value.parts[0].expand(truth.shape)
    if value.hard is not None:  # in float64 two smallest numbers of a shorter type do not overflow
        truth = truth.masked_fill(value.hard & (truth < 1.5 * torch.finfo(torch.float16).min), -math.inf)
    for mask, number in ((value.hard, -math.inf), (value.undefined, math.nan)):
        found = found if mask is None else found.masked_fill(mask, number)
    if value.soft is not None:  # a smallest number absorbs what is added to it
        low = truth < 0.9 * torch.finfo(torch.float16).min
        if bool((value.soft & ~low & truth.isfinite()).any()):
            return math.inf
        found, truth = found.masked_fill(value.soft, 0), truth.masked_fill(value.soft, 0)
    if not torch.equal(found.isfinite(), truth.isfinite()) or not torch.equal(found == -math.inf, truth == -math.inf):
        return math.inf
    finite = truth[truth.isfinite()]
    if not finite.numel():
        return 0.0
    gap = (found[found.isfinite()] - finite).abs().max()
    return float(gap / finite.square().mean().sqrt().clamp(min=1e-6))
