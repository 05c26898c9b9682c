"""The decompositions people write: dictionaries with an error term, low rank and remainder, surrogates, heads; and their near misses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.verify.graphs import KEY, checked, compare
from verify.world import World

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(2, 3, 8, generator=GENERATOR)
UP, DOWN = (torch.randn(s, generator=GENERATOR) for s in ((16, 8), (8, 16)))
THRESHOLD = torch.rand(16, generator=GENERATOR)
U, V = torch.randn(16, 2, generator=GENERATOR), torch.randn(2, 8, generator=GENERATOR)


def relu_features(x: Tensor, up: Tensor, threshold: Tensor) -> Tensor:
    return F.relu(x @ up.T - threshold)


def jump_features(x: Tensor, up: Tensor, threshold: Tensor) -> Tensor:
    before = x @ up.T
    return before * (before > threshold)


def top_features(x: Tensor, up: Tensor, threshold: Tensor) -> Tensor:
    best, at = F.relu(x @ up.T).topk(4, dim=-1)
    return torch.zeros(2, 3, 16).scatter(-1, at, best)


FEATURES = {"relu": relu_features, "jumprelu": jump_features, "topk": top_features}


@pytest.mark.parametrize("kind", FEATURES)
def test_a_dictionary_with_its_error_is_the_value(kind: str) -> None:
    features = FEATURES[kind]

    def split(x: Tensor, up: Tensor, down: Tensor, threshold: Tensor) -> Tensor:
        acts = features(x, up, threshold)
        terms = torch.einsum("...f,df->...d", acts, down)
        return terms + (x - acts @ down.T)

    def mismatched(x: Tensor, up: Tensor, down: Tensor, threshold: Tensor) -> Tensor:
        acts = features(x, up, threshold)
        return acts @ down.T + (x - features(x, up, threshold * 2 if kind != "topk" else threshold) @ down.T * (1 + 2.0**-20))

    inputs = (X, UP, DOWN, THRESHOLD)
    assert compare(lambda x, up, down, threshold: x, split, *inputs).equal
    assert compare(lambda x, up, down, threshold: x, mismatched, *inputs).unequal
    assert checked(lambda x, up, down, threshold: features(x, up, threshold) @ down.T, *inputs).error < 1e-5


def test_a_low_rank_part_and_its_remainder_are_the_weight() -> None:
    whole = lambda x, w, u, v: x @ w.T  # noqa: E731
    assert compare(whole, lambda x, w, u, v: x @ v.T @ u.T + x @ (w - u @ v).T, X, UP, U, V).equal
    assert compare(whole, lambda x, w, u, v: x @ v.T @ u.T + x @ (w - u @ v * (1 - 2.0**-23)).T, X, UP, U, V).unequal


def test_heads_are_slices_of_the_contraction() -> None:
    whole = lambda z, w: F.linear(z, w)  # noqa: E731

    def heads(z: Tensor, w: Tensor) -> Tensor:
        return torch.einsum("...nk,mnk->...nm", z.unflatten(-1, (4, 2)), w.unflatten(-1, (4, 2))).sum(-2)

    def swapped(z: Tensor, w: Tensor) -> Tensor:
        return torch.einsum("...nk,mnk->...m", z.unflatten(-1, (4, 2)), w.unflatten(-1, (4, 2)).flip(1))

    assert compare(whole, heads, X, UP).equal
    assert compare(whole, swapped, X, UP).unequal


def test_a_surrogate_must_be_the_same_in_the_sum_and_in_the_remainder() -> None:
    model = lambda x, w: F.gelu(x @ w.T)  # noqa: E731
    surrogate = lambda x, w: F.relu(x @ w.T)  # noqa: E731
    assert compare(model, lambda x, w: surrogate(x, w) * 1e4 + (model(x, w) - surrogate(x, w) * 1e4), X, UP).equal
    assert compare(model, lambda x, w: surrogate(x, w) + (model(x, w) - surrogate(x, w * (1 + 2.0**-20))), X, UP).unequal


def test_a_cast_to_a_shorter_type_is_noted() -> None:
    world = World(KEY)
    assert compare(lambda x: x.half().float(), lambda x: x, X, world=world).equal
    assert world.tally.narrowings
