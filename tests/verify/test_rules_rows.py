"""Softmax, attention and masks: what must agree, what must not, and what is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.verify.graphs import KEY, checked, compare, graph_of, values_of
from verify.interpret import Refused, evaluate
from verify.world import World

Function = Callable[..., Tensor]
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 5, generator=GENERATOR)
Q, K, V = (torch.randn(2, 2, 5, 4, generator=GENERATOR) for _ in range(3))
CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
LEFT = CAUSAL & torch.tensor([False, False, True, True, True])  # rows 0 and 1 attend to nothing
LOW = torch.finfo(torch.float32).min


def explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, low: float) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(4)
    return torch.where(mask, scores, low).softmax(-1) @ v


def test_softmax_sees_no_shift_and_no_order_and_sums_to_one() -> None:
    assert compare(lambda x: x.softmax(-1), lambda x: (x + x[:, :1] * 3).softmax(-1), X).equal
    assert compare(lambda x: x.flip(-1).softmax(-1), lambda x: x.softmax(-1).flip(-1), X).equal
    assert compare(lambda x: x.softmax(-1).sum(-1), lambda x: torch.ones(3), X).equal
    assert compare(lambda x: x.softmax(-1), lambda x: (x - x.amax(-1, keepdim=True)).softmax(-1), X).equal


def test_softmax_sees_everything_else() -> None:
    assert compare(lambda x: x.softmax(-1), lambda x: (x * 2).softmax(-1), X).unequal
    assert compare(lambda x: x.softmax(-1), lambda x: x.softmax(0), X).unequal
    assert compare(lambda x: x.softmax(-1)[:, :4], lambda x: x[:, :4].softmax(-1), X).unequal
    assert compare(lambda x: x.softmax(-1)[0, 0], lambda x: torch.cat([x[:1, :4], x[:1, 4:] * 2], -1).softmax(-1)[0, 0], X).unequal


@pytest.mark.parametrize("low", [-math.inf, LOW])
def test_attention_is_softmax_of_scores_with_either_mask(low: float) -> None:
    fused = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    assert compare(fused, lambda q, k, v: explicit(q, k, v, CAUSAL, low), Q, K, V).equal
    by_mask = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=CAUSAL)  # noqa: E731
    assert compare(fused, by_mask, Q, K, V).equal
    added = torch.zeros(5, 5).masked_fill(~CAUSAL, low)
    assert compare(fused, lambda q, k, v: (q @ k.transpose(-1, -2) * 0.5 + added).softmax(-1) @ v, Q, K, V).equal


def test_another_mask_or_scale_is_another_function() -> None:
    fused = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    assert compare(
        fused, lambda q, k, v: explicit(q, k, v, CAUSAL.tril(-1) | torch.eye(5).bool() & CAUSAL.flip(0), -math.inf), Q, K, V
    ).unequal
    assert compare(fused, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5 + 2.0**-30), Q, K, V).unequal
    assert compare(fused, lambda q, k, v: F.scaled_dot_product_attention(q, k, v), Q, K, V).unequal


def test_a_key_bias_is_no_difference() -> None:
    fused = F.scaled_dot_product_attention
    assert compare(lambda q, k, v: fused(q, k, v), lambda q, k, v: fused(q, k + v[:1, :1, :1], v), Q, K, V).equal


def test_grouped_queries_repeat_keys() -> None:
    k, v = K[:, :1], V[:, :1]
    grouped = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)  # noqa: E731
    repeated = lambda q, k, v: F.scaled_dot_product_attention(q, k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1))  # noqa: E731
    assert compare(grouped, repeated, Q, k, v).equal


def test_fully_masked_rows_are_uniform_undefined_or_zero() -> None:
    """Smallest numbers alone: uniform; -inf alone: undefined in softmax, zero in attention. No common value is made up."""
    soft = lambda q, k, v: explicit(q, k, v, LEFT, LOW)  # noqa: E731
    hard = lambda q, k, v: explicit(q, k, v, LEFT, -math.inf)  # noqa: E731
    fused = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=LEFT)  # noqa: E731
    result = compare(soft, hard, Q, K, V)
    assert result.equal
    assert result.undefined == 2 * 2 * 2 * 4
    result = compare(soft, fused, Q, K, V)
    assert result.where is not None
    assert result.where[..., :2, :].all()
    assert not result.where[..., 2:, :].any()
    assert compare(
        soft, lambda q, k, v: torch.cat([v.mean(-2, keepdim=True).expand(-1, -1, 2, -1), soft(q, k, v)[..., 2:, :]], -2), Q, K, V
    ).equal


def test_a_number_below_most_is_a_number() -> None:
    assert compare(lambda x: (x - 1e38).softmax(-1), lambda x: x.softmax(-1), X).equal
    assert compare(lambda x: torch.where(x > 0, x, -1e38).softmax(-1), lambda x: torch.where(x > 0, x, -1e37).softmax(-1), X).unequal


def test_tags_are_not_read_as_numbers() -> None:
    for function in (lambda x: x.masked_fill(CAUSAL[:3], -math.inf) * x, lambda x: x.masked_fill(CAUSAL[:3], LOW).sum(-1)):
        with pytest.raises(Refused, match="-inf"):
            compare(function, function, X)


def masked_quotient(low: float, scale: float | Tensor) -> Function:
    """A masked score divided by a number, as CodeGen does."""
    mask = torch.zeros(5, 5).masked_fill(~CAUSAL, low)
    return lambda q, k, v: ((q @ k.transpose(-1, -2) + mask) / scale).softmax(-1) @ v


def test_a_part_of_the_smallest_number_is_an_ordinary_number() -> None:
    written = lambda q, k, v: (torch.where(CAUSAL, q @ k.mT, LOW) * 0.5).softmax(-1) @ v  # noqa: E731
    assert compare(masked_quotient(LOW, 2.0), written, Q, K, V).equal
    assert compare(lambda q, k, v: masked_quotient(LOW, torch.tensor(2.0))(q, k, v), written, Q, K, V).equal
    assert compare(masked_quotient(LOW, 2.0), masked_quotient(LOW, 2.0 + 2.0**-20), Q, K, V).unequal
    assert compare(masked_quotient(LOW, 2.0), masked_quotient(LOW / 4, 2.0), Q, K, V).unequal
    assert compare(masked_quotient(LOW, 2.0), masked_quotient(-math.inf, 2.0), Q, K, V).unequal  # almost the same in floats, no law says so
    with pytest.raises(Refused, match="between 0 and 1"):  # it overflows
        compare(masked_quotient(LOW, 0.5), masked_quotient(LOW, 0.5), Q, K, V)


def test_minus_infinity_stays_under_a_positive_factor() -> None:
    fused = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    assert compare(fused, masked_quotient(-math.inf, 2.0), Q, K, V).equal
    assert compare(fused, masked_quotient(-math.inf, 2.5), Q, K, V).unequal


def test_the_smallest_numbers_of_two_types_are_two_numbers() -> None:
    low = lambda number: lambda x: torch.where(CAUSAL[:3], x, number)  # noqa: E731
    half = torch.finfo(torch.bfloat16).min
    assert compare(low(LOW), low(LOW), X).equal
    assert compare(low(LOW), lambda x: torch.where(CAUSAL[:3], x, torch.tensor(half, dtype=torch.bfloat16).float()), X).unequal


def test_undefined_points_are_tainted_and_counted() -> None:
    world = World(KEY)
    graph, data, outputs = graph_of(lambda x: x.masked_fill(LEFT[:3] == LEFT[:3], -math.inf).softmax(-1) @ torch.ones(5), X)
    value = evaluate(graph, values_of(data, world), outputs, world)[outputs[0]]
    assert value.undefined is not None
    assert value.undefined.all()


@pytest.mark.parametrize(
    "function",
    [
        lambda q, k, v: explicit(q, k, v, CAUSAL, -math.inf),
        lambda q, k, v: explicit(q, k, v, LEFT, LOW),
        lambda q, k, v: explicit(q, k, v, LEFT, -math.inf),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=LEFT),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(5, 5).masked_fill(~CAUSAL, LOW)),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        lambda q, k, v: masked_quotient(LOW, 2.5)(q, k, v),
        lambda q, k, v: (q @ k.mT - 1e30 * (~CAUSAL).float()).softmax(-1) @ v,
        lambda q, k, v: (q @ k.mT - 65500 * (~CAUSAL).float()).softmax(-1) @ v,
        lambda q, k, v: (q @ k.mT).masked_fill(~CAUSAL, -math.inf).exp() @ v,
        lambda q, k, v: torch.where((s := q.masked_fill(CAUSAL[:, :4], -math.inf)) == -math.inf, 0, s) + torch.sigmoid(s),
    ],
)
def test_the_rules_are_torchs_functions(function: object) -> None:
    result = checked(function, Q, K, V)  # type: ignore[arg-type]
    assert result.error < 1e-5, result
