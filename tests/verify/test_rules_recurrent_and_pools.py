"""Recurrent ops and pooling: the rules are torch's functions, written out by hand they are the same, and near misses are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.verify.graphs import checked, compare

GENERATOR = torch.Generator().manual_seed(5)
draw = lambda *shape: torch.randn(*shape, generator=GENERATOR)  # noqa: E731
X, IMAGE = draw(2, 3, 4), draw(2, 3, 8, 8)
STATE = draw(1, 2, 5)
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def weights(kind: str, ways: int = 1) -> list[Tensor]:
    """Weights of one layer, each way."""
    rows = 5 * GATES[kind]
    return [w for _ in range(ways) for w in (draw(rows, 4), draw(rows, 5), draw(rows), draw(rows))]


def layer(kind: str, bidirectional: bool = False, batch_first: bool = True) -> Callable[..., Tensor]:
    """One layer by torch, all its results in one row."""

    def run(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> Tensor:
        state = (h, c) if kind == "lstm" else h
        out = getattr(torch, kind)(x, state, list(params), True, 1, 0.0, False, bidirectional, batch_first)
        return torch.cat([part.flatten() for part in out])

    return run


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_rules_are_torchs_functions(kind: str, ways: int, batch_first: bool) -> None:
    size = 2 if batch_first else 3
    inputs = (draw(2, 3, 4), draw(ways, size, 5), draw(ways, size, 5), *weights(kind, ways))
    assert checked(layer(kind, ways == 2, batch_first), *inputs).error < 1e-5


def lstm_by_hand(forget: float, x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """One layer step by step, something added to its forget gate."""
    h, c, outputs = h[0], c[0], []
    for step in range(x.shape[1]):
        i, f, g, o = (x[:, step] @ w.T + b + h @ u.T + d).chunk(4, -1)
        c = (f + forget).sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.cat([torch.stack(outputs, 1).flatten(), h.flatten(), c.flatten()])


def test_an_lstm_is_its_steps() -> None:
    inputs = (X, STATE, draw(1, 2, 5), *weights("lstm"))
    assert compare(layer("lstm"), lambda *given: lstm_by_hand(0.0, *given), *inputs).equal
    assert compare(layer("lstm"), lambda *given: lstm_by_hand(1.0, *given), *inputs).unequal


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_cells_are_torchs_functions(kind: str) -> None:
    def run(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> Tensor:
        state = (h[0], c[0]) if kind == "lstm" else h[0]
        out = getattr(torch, f"{kind}_cell")(x[:, 0], state, *params)
        return torch.cat(out) if isinstance(out, tuple) else out

    assert checked(run, X, STATE, draw(1, 2, 5), *weights(kind)).error < 1e-5


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda x: F.max_pool2d(x, 2),
    "largest, overlapping": lambda x: F.max_pool2d(x, 3, 2, 1),
    "largest, spread": lambda x: F.max_pool2d(x, 2, 1, 0, 2),
    "largest, with its positions unread": lambda x: torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])[0],
    "largest of a line": lambda x: F.max_pool1d(x[:, 0], 3, 2, 1),
    "mean": lambda x: F.avg_pool2d(x, 2),
    "mean, overlapping": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "mean of a line": lambda x: F.avg_pool1d(x[:, 0], 4),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "adaptive, uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive, of a line": lambda x: F.adaptive_avg_pool1d(x[:, 0], 3),
}


@pytest.mark.parametrize("kind", POOLS)
def test_pools_are_torchs_functions(kind: str) -> None:
    assert checked(POOLS[kind], IMAGE).error < 1e-5


def test_a_pool_is_its_windows() -> None:
    windows = lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)  # noqa: E731
    assert compare(lambda x: F.max_pool2d(x, 2), lambda x: windows(x).amax(-1), IMAGE).equal
    assert compare(lambda x: F.max_pool2d(x, 2), lambda x: windows(x)[..., :3].amax(-1), IMAGE).unequal
    assert compare(lambda x: F.avg_pool2d(x, 2), lambda x: windows(x).mean(-1), IMAGE).equal
    assert compare(lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: x.mean((2, 3), keepdim=True), IMAGE).equal
    assert compare(lambda x: F.avg_pool2d(x, 2), lambda x: windows(x).sum(-1) / 3, IMAGE).unequal
