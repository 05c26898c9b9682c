"""Pairs of functions that are the same and must agree, and that are not and must not, by elementwise and ring rules."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.verify.graphs import KEY, checked, compare, graph_of, values_of
from verify.interpret import Refused, evaluate
from verify.world import World

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
W = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
POSITIVE = X.abs() + 0.5


def hand_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)


EQUAL = {
    "sums in any order": (lambda x, y: (x + y) + 0.5 * x, lambda x, y: 1.5 * x + y),
    "dyadic literals": (
        lambda x, y: 0.1 * x + 0.2 * x,
        lambda x, y: x * (0.1 + 0.2 - 2.0**-54 * 1) if 0.1 + 0.2 == 0.3 else 0.2 * x + 0.1 * x,
    ),
    "silu is x sigmoid x": (lambda x, y: F.silu(x), lambda x, y: x * torch.sigmoid(x)),
    "celu written out": (lambda x, y: F.celu(x, 1.5), lambda x, y: torch.where(x > 0, x, 1.5 * (torch.exp(x / 1.5) - 1))),
    "selu is a scaled elu": (lambda x, y: F.selu(x), lambda x, y: 1.0507009873554805 * F.elu(x, 1.6732632423543772)),
    "glu written out": (lambda x, y: F.glu(x, -1), lambda x, y: x[:, :2] * torch.sigmoid(x[:, 2:])),
    "glu along the first axis": (lambda x, y: F.glu(x.T, 0), lambda x, y: F.glu(x, 1).T),
    "squared error": (lambda x, y: F.mse_loss(x, y), lambda x, y: ((x - y) ** 2).sum() / 12),
    "absolute error": (lambda x, y: F.l1_loss(x, y, reduction="sum"), lambda x, y: (y - x).abs().sum()),
    "pixels moved there and back": (
        lambda x, y: F.pixel_shuffle(F.pixel_unshuffle(x[:, None, :2, None].expand(3, 1, 2, 2), 2), 2),
        lambda x, y: x[:, None, :2, None].expand(3, 1, 2, 2),
    ),
    "values made as wide as others": (lambda x, y: torch.broadcast_tensors(x, y[:1])[1], lambda x, y: y[:1].expand(3, 4)),
    "sigmoid of -x": (lambda x, y: torch.sigmoid(-x), lambda x, y: 1 - torch.sigmoid(x)),
    "tanh by sigmoid": (lambda x, y: torch.tanh(x), lambda x, y: 2 * torch.sigmoid(2 * x) - 1),
    "gelu written out": (lambda x, y: F.gelu(x), lambda x, y: 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))),
    "tanh gelu written out": (
        lambda x, y: F.gelu(x, approximate="tanh"),
        lambda x, y: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    ),
    "layer norm written out": (lambda x, y: F.layer_norm(x, (4,)), lambda x, y: hand_norm(x)),
    "rms norm written out": (
        lambda x, y: F.rms_norm(x, (4,), eps=1e-6),
        lambda x, y: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    ),
    "relu by maximum": (lambda x, y: F.relu(x), lambda x, y: torch.maximum(x, torch.zeros_like(x))),
    "relu by clamp": (lambda x, y: F.relu(x), lambda x, y: x.clamp(min=0)),
    "relu by where": (lambda x, y: F.relu(x), lambda x, y: torch.where(x > 0, x, torch.zeros_like(x))),
    "relu by masked_fill": (lambda x, y: F.relu(x), lambda x, y: x.masked_fill(x <= 0, 0.0)),
    "relu by a product": (lambda x, y: F.relu(x), lambda x, y: x * (x > 0)),
    "relu by amax": (lambda x, y: F.relu(x), lambda x, y: torch.stack([x, torch.zeros_like(x)]).amax(0)),
    "relu by abs": (lambda x, y: F.relu(x), lambda x, y: (x + x.abs()) / 2),
    "leaky relu": (lambda x, y: F.leaky_relu(x, 0.25), lambda x, y: torch.where(x > 0, x, 0.25 * x)),
    "max and min": (lambda x, y: torch.maximum(x, y) + torch.minimum(x, y), lambda x, y: x + y),
    "clamp by min and max": (
        lambda x, y: x.clamp(-1, 2),
        lambda x, y: torch.minimum(torch.maximum(x, torch.tensor(-1.0)), torch.tensor(2.0)),
    ),
    "sqrt rsqrt": (lambda x, y: x.sqrt() * x.rsqrt(), lambda x, y: torch.ones_like(x)),
    "x over sqrt": (lambda x, y: y / x.sqrt(), lambda x, y: y * x.rsqrt()),
    "a projection and the rest": (lambda x, y: x, lambda x, y: (along := (x @ y[0])[:, None] * (y[0] / (y[0] @ y[0]))) + (x - along)),
    "an einsum": (lambda x, y: torch.einsum("ab,cb->ac", x, y), lambda x, y: x @ y.T),
    "three operands": (lambda x, y: torch.einsum("ab,cb,cd->ad", x, y, y), lambda x, y: x @ (y.T @ y)),
    "variance": (lambda x, y: x.var(-1), lambda x, y: ((x - x.mean(-1, keepdim=True)) ** 2).sum(-1) / 3),
    "addmm": (lambda x, y: torch.addmm(x, x @ y.T, y), lambda x, y: F.linear(x @ y.T, y.T) + x),
    "detach and casts": (lambda x, y: x.double().detach().float(), lambda x, y: x),
}

UNEQUAL = {
    "one literal": (lambda x, y: 0.5 * x, lambda x, y: (0.5 + 2.0**-40) * x),
    "another alpha": (lambda x, y: F.celu(x, 1.5), lambda x, y: F.celu(x, 1.25)),
    "selu for elu": (lambda x, y: F.selu(x), lambda x, y: F.elu(x)),
    "the halves of a glu": (lambda x, y: F.glu(x, -1), lambda x, y: F.glu(x.flip(-1), -1)),
    "mean for sum": (lambda x, y: F.mse_loss(x, y), lambda x, y: F.mse_loss(x, y, reduction="sum")),
    "the two gelus": (lambda x, y: F.gelu(x), lambda x, y: F.gelu(x, approximate="tanh")),
    "gelu as a silu": (lambda x, y: F.gelu(x), lambda x, y: x * torch.sigmoid(1.702 * x)),
    "twice a gelu": (lambda x, y: 2 * F.gelu(x), lambda x, y: F.silu(2 * x)),
    "other bounds": (lambda x, y: x.clamp(0, 1), lambda x, y: x.clamp(-5, 5)),
    "sigmoid and tanh": (lambda x, y: torch.sigmoid(x), lambda x, y: torch.tanh(x)),
    "another eps": (lambda x, y: F.layer_norm(x, (4,), eps=1e-5), lambda x, y: F.layer_norm(x, (4,), eps=1e-5 * (1 + 2.0**-40))),
    "no eps": (lambda x, y: F.rms_norm(x, (4,), eps=1e-6), lambda x, y: F.rms_norm(x, (4,), eps=0.0)),
    "no centring": (lambda x, y: F.layer_norm(x, (4,)), lambda x, y: F.rms_norm(x, (4,), eps=1e-5)),
    "Bessel": (lambda x, y: x.var(-1), lambda x, y: x.var(-1, correction=0)),
    "a lost relu": (lambda x, y: F.relu(x), lambda x, y: x),
    "a flipped gate": (lambda x, y: F.relu(x), lambda x, y: torch.where(x < 0, x, torch.zeros_like(x))),
    "another slope": (lambda x, y: F.leaky_relu(x, 0.25), lambda x, y: F.leaky_relu(x, 0.2)),
    "no square": (lambda x, y: x @ y.T, lambda x, y: y @ x.T),
    "an activation trigger": (lambda x, y: x, lambda x, y: torch.where(x > 1e9, y, x)),
    "a dead neuron's trigger": (lambda x, y: x, lambda x, y: x + F.relu(x - 1e6) * y),
    "another direction": (
        lambda x, y: x,
        lambda x, y: (x @ y[0])[:, None] * (y[0] / (y[0] @ y[0])) + x - (x @ y[1])[:, None] * y[1] / (y[1] @ y[1]),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_the_same_function_written_twice_agrees(name: str) -> None:
    result = compare(*EQUAL[name], X, Y)
    assert result.equal
    assert result.elements > 0


@pytest.mark.parametrize("name", UNEQUAL)
def test_another_function_does_not_agree(name: str) -> None:
    assert compare(*UNEQUAL[name], X, Y).unequal > 0


@pytest.mark.parametrize("name", [*EQUAL, *UNEQUAL])
def test_every_rule_used_here_is_torchs_function(name: str) -> None:
    for function in (EQUAL | UNEQUAL)[name]:
        result = checked(function, POSITIVE, Y)
        assert result.error < 1e-5, result


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.exp(x) + torch.sin(x) + torch.cos(x) + torch.atan(x),
        lambda x: x.pow(1.5) + torch.pow(2.0, x) + x.pow(-2) + x**0.5,
        lambda x: F.softplus(x, 2.0, 1.0) + F.elu(x - 1) + F.hardswish(x) + F.mish(x) + torch.log1p(x),
        lambda x: (x - 1).floor() + (x - 1).ceil() + (x - 1).round() + x.fmod(0.3),
        lambda x: torch.cumsum(x, 1) + x.diff(dim=0).sum() + x.square().mean(),
        lambda x: F.pad(x, (1, 2)) .flip(0) + x.roll(1, 0).tril().sum(),
        lambda x: F.conv1d(x[None], torch.ones(2, 3, 2) * x[0, 0])[0] + 1,
        lambda x: F.conv2d(x[None, None], x[None, None, :2, :2], padding=1, stride=2),
        lambda x: F.group_norm(x[None].reshape(1, 4, 3), 2),
        lambda x: torch.linalg.vector_norm(x, dim=-1) + x.std(-1),
        lambda x: ((x > 1) & (x < 2) | (x == 2)) * x,
        lambda x: torch.logsumexp(x, -1, keepdim=True) + F.log_softmax(x, -1),
    ],
)  # fmt: skip
def test_more_rules_are_torchs_functions(function: object) -> None:
    result = checked(function, POSITIVE)  # type: ignore[arg-type]
    assert result.error < 1e-5, result


def test_a_division_is_noted_and_a_zero_divisor_is_undefined() -> None:
    world = World(KEY)
    graph, data, outputs = graph_of(lambda x, y: x / (y - y), X, Y)
    value = evaluate(graph, values_of(data, world), outputs, world)[outputs[0]]
    assert value.undefined is not None
    assert value.undefined.all()
    assert world.tally.divisions
    assert world.tally.zero_denominators == 12


def test_an_op_without_a_rule_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="erfinv"):
        compare(torch.erfinv, torch.erfinv, X)


def test_random_ops_are_refused() -> None:
    with pytest.raises(Refused):
        compare(lambda x: x + torch.rand(3, 4), lambda x: x, X)


def test_under_quadratic_signs_a_relu_of_a_relu_is_a_relu() -> None:
    pair = (lambda x: F.relu(F.relu(x)), lambda x: F.relu(x))
    assert compare(*pair, X).unequal
    assert compare(*pair, X, world=World(KEY, theory="signs")).equal
    assert compare(lambda x: F.relu(2 * x), lambda x: 2 * F.relu(x), X, world=World(KEY, theory="signs")).equal
    assert compare(lambda x: F.relu(x), lambda x: x, X, world=World(KEY, theory="signs")).unequal


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [2, 3])
def test_convolutions_with_a_named_border(padding: str, size: int) -> None:
    image, kernel = torch.randn(1, 2, 6, 6), torch.randn(3, 2, size, size)
    assert checked(lambda x, w: F.conv2d(x, w, padding=padding, dilation=2), image, kernel).error < 1e-5
    assert compare(lambda x, w: F.conv2d(x, w, padding="valid"), lambda x, w: F.conv2d(x, w), image, kernel).equal
    assert compare(lambda x, w: F.conv2d(x, w, padding="same"), lambda x, w: F.conv2d(x, w), image, kernel).unequal


@pytest.mark.parametrize("dim", [0, 2])
def test_a_normalised_weight(dim: int) -> None:
    v, g = torch.randn(3, 4, 5), torch.randn([s if d == dim else 1 for d, s in enumerate((3, 4, 5))])
    others = tuple(d for d in range(3) if d != dim)
    assert checked(lambda v, g: torch._weight_norm(v, g, dim), v, g).error < 1e-5
    assert compare(lambda v, g: torch._weight_norm(v, g, dim), lambda v, g: v * (g / v.pow(2).sum(others, True).sqrt()), v, g).equal
    assert compare(lambda v, g: torch._weight_norm(v, g, dim), lambda v, g: v * g, v, g).unequal
