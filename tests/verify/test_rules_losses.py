"""Losses are their formulas: written by hand they agree, with another number or reduction they do not, and the rules are torch's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.core import core_program
from rewrite import Program, trace
from tests.verify.lossy import Loss, Of, Three, Two
from verify import Report, Verdict, equivalence

N, C = 4, 5
DRAW = torch.Generator().manual_seed(0)
X, Y, Z = (torch.randn(N, C, generator=DRAW) for _ in range(3))
SIGN = torch.randn(N, C, generator=DRAW).sign()
IDS = torch.tensor([0, 3, 2, 3])
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])


class Weighed(Of):
    """A loss of logits and targets, with a weight for each class."""

    def __init__(self, loss: Loss):
        super().__init__(loss)
        self.weight = nn.Buffer(WEIGHT)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.loss(x, ids, self.weight)


def huber(x: Tensor, y: Tensor, delta: float) -> Tensor:
    z = (x - y).abs()
    return torch.where(z < delta, 0.5 * z.square(), delta * (z - 0.5 * delta)).mean()


def logits(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, y.sigmoid())


def chosen(x: Tensor, ids: Tensor, ignored: int = -100) -> Tensor:
    kept = ids != ignored
    at = torch.where(kept, ids, 0)
    return torch.where(kept, -F.log_softmax(x, -1).gather(1, at[:, None])[:, 0], 0.0)


def smoothed(x: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    logs, kept = F.log_softmax(x, -1) * weight, ids != -100
    at = torch.where(kept, ids, 0)[:, None]
    total = torch.where(kept, weight.expand(N, C).gather(1, at)[:, 0], 0.0).sum()
    nll, every = (torch.where(kept, -one, 0.0).sum() / total for one in (logs.gather(1, at)[:, 0], logs.sum(-1)))
    return 0.75 * nll + 0.25 / C * every


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1) / (x.norm(dim=-1).clamp(min=1e-8) * y.norm(dim=-1).clamp(min=1e-8))


SAME: dict[str, tuple[type[Of], Loss, Loss, tuple[Any, ...]]] = {
    "huber": (Two, lambda x, y: F.huber_loss(x, y, delta=0.5), lambda x, y: huber(x, y, 0.5), (X, Y)),
    "smooth l1": (Two, lambda x, y: F.smooth_l1_loss(x, y, beta=0.5), lambda x, y: 2 * huber(x, y, 0.5), (X, Y)),
    "smooth l1 without a bend": (Two, lambda x, y: F.smooth_l1_loss(x, y, beta=0.0), F.l1_loss, (X, Y)),
    "divergence": (
        Two,
        lambda x, y: F.kl_div(x.log_softmax(-1), y.log_softmax(-1), log_target=True, reduction="batchmean"),
        lambda x, y: (y.log_softmax(-1).exp() * (y.log_softmax(-1) - x.log_softmax(-1))).sum() / N,
        (X, Y),
    ),
    "binary, of logits": (Two, logits, lambda x, y: ((1 - y.sigmoid()) * x - F.logsigmoid(x)).mean(), (X, Y)),
    "poisson": (Two, lambda x, y: F.poisson_nll_loss(x, y), lambda x, y: (x.exp() - x * y).mean(), (X, Y)),
    "cross entropy": (Two, lambda x, ids: F.cross_entropy(x, ids), lambda x, ids: chosen(x, ids).sum() / (ids != -100).sum(), (X, IDS)),
    "cross entropy by nll": (Two, F.cross_entropy, lambda x, ids: F.nll_loss(F.log_softmax(x, 1), ids), (X, IDS)),
    "some left out": (
        Two,
        lambda x, ids: F.cross_entropy(x, ids, ignore_index=3, reduction="sum"),
        lambda x, ids: chosen(x, ids, 3).sum(),
        (X, IDS),
    ),
    "weights and smoothing": (
        Weighed,
        lambda x, ids, w: F.cross_entropy(x, ids, w, label_smoothing=0.25),
        smoothed,
        (X, IDS),
    ),
    "of probabilities": (
        Two,
        lambda x, y: F.cross_entropy(x, y.softmax(-1)),
        lambda x, y: -(y.softmax(-1) * x.log_softmax(-1)).sum(-1).mean(),
        (X, Y),
    ),
    "of every position": (
        Two,
        lambda x, ids: F.cross_entropy(x[..., None].expand(N, C, 2), ids[:, None].expand(N, 2)),
        lambda x, ids: chosen(x, ids).sum() / (ids != -100).sum(),
        (X, IDS),
    ),
    "ranking": (
        Three,
        lambda x, y, s: F.margin_ranking_loss(x, y, s, margin=0.25),
        lambda x, y, s: F.relu(0.25 - s * (x - y)).mean(),
        (X, Y, SIGN),
    ),
    "hinge": (
        Two,
        lambda x, s: F.hinge_embedding_loss(x, s),
        lambda x, s: (torch.where(s == 1, 0.0, F.relu(1 - x)) + torch.where(s == -1, 0.0, x)).mean(),
        (X, SIGN),
    ),
    "soft margin": (Two, lambda x, s: F.soft_margin_loss(x, s), lambda x, s: torch.log1p(torch.exp(-s * x)).mean(), (X, SIGN)),
    "triplet": (
        Three,
        lambda x, y, z: F.triplet_margin_loss(x, y, z, margin=0.5, swap=True),
        lambda x, y, z: F.relu(
            F.pairwise_distance(x, y) - torch.minimum(F.pairwise_distance(x, z), F.pairwise_distance(y, z)) + 0.5
        ).mean(),
        (X, Y, Z),
    ),
    "distance": (Two, lambda x, y: F.pairwise_distance(x, y), lambda x, y: (x - y + 1e-6).norm(dim=-1), (X, Y)),
    "cosine": (Two, lambda x, y: F.cosine_similarity(x, y), cosine, (X, Y)),
    "cosine, broadcast along its dim": (
        Two,
        lambda x, y: F.cosine_similarity(x[:, :1], y),
        lambda x, y: cosine(x[:, :1].expand(N, C), y),
        (X, Y),
    ),
    "cosine, of one for all": (Two, lambda x, y: F.cosine_similarity(x[0], y), lambda x, y: cosine(x[:1].expand(N, C), y), (X, Y)),
    "cosine embedding": (
        Three,
        lambda x, y, s: F.cosine_embedding_loss(x, y, s[:, 0]),
        lambda x, y, s: F.cosine_embedding_loss(y, x, s[:, 0], margin=0.0, reduction="sum") / N,
        (X, Y, SIGN),
    ),
}
OTHER: dict[str, tuple[type[Of], Loss, Loss, tuple[Any, ...]]] = {
    "another delta": (Two, lambda x, y: F.huber_loss(x, y, delta=0.5), lambda x, y: F.huber_loss(x, y, delta=0.6), (X, Y)),
    "huber for smooth l1": (Two, lambda x, y: F.huber_loss(x, y, delta=0.5), lambda x, y: F.smooth_l1_loss(x, y, beta=0.5), (X, Y)),
    "the mean of all for that of examples": (
        Two,
        F.kl_div,
        lambda x, y: F.kl_div(x, y, reduction="batchmean"),
        (X.log_softmax(-1), Y.exp()),
    ),
    "t log t, undefined at zero": (
        Two,
        lambda x, y: F.kl_div(x, y, reduction="sum"),
        lambda x, y: (y * y.log() - y * x).sum(),
        (X.log_softmax(-1), Y.softmax(-1)),
    ),
    "sides exchanged": (Two, lambda x, y: logits(x, y), lambda x, y: logits(-x, y), (X, Y)),
    "another id left out": (
        Two,
        lambda x, ids: F.cross_entropy(x, ids, ignore_index=3),
        lambda x, ids: F.cross_entropy(x, ids, ignore_index=2),
        (X, IDS),
    ),
    "none left out": (Two, lambda x, ids: F.cross_entropy(x, ids, ignore_index=3), lambda x, ids: F.cross_entropy(x, ids), (X, IDS)),
    "targets of -100 not left out": (
        Two,
        F.cross_entropy,
        lambda x, ids: -F.log_softmax(x, -1).gather(1, ids[:, None]).mean(),
        (X, IDS),
    ),
    "weights without their sum": (
        Weighed,
        lambda x, ids, w: F.cross_entropy(x, ids, w),
        lambda x, ids, w: (chosen(x, ids) * w[ids]).mean(),
        (X, IDS),
    ),
    "less smoothing": (
        Two,
        lambda x, ids: F.cross_entropy(x, ids, label_smoothing=0.1),
        lambda x, ids: F.cross_entropy(x, ids, label_smoothing=0.05),
        (X, IDS),
    ),
    "another margin": (
        Three,
        lambda x, y, s: F.margin_ranking_loss(x, y, s, margin=0.25),
        lambda x, y, s: F.margin_ranking_loss(x, y, s, margin=0.5),
        (X, Y, SIGN),
    ),
    "no swap": (
        Three,
        lambda x, y, z: F.triplet_margin_loss(x, y, z, swap=True),
        lambda x, y, z: F.triplet_margin_loss(x, y, z),
        (X, Y, Z),
    ),
    "another eps": (Two, lambda x, y: F.cosine_similarity(x, y), lambda x, y: F.cosine_similarity(x, y, eps=1e-3), (X, Y)),
    "dot product": (Two, lambda x, y: F.cosine_similarity(x, y), lambda x, y: (x * y).sum(-1), (X, Y)),
}


def traced(kind: type[Of], loss: Loss, example: tuple[Any, ...]) -> Program:
    return trace(kind(loss).eval(), *example, dynamic=False)


def compared(case: tuple[type[Of], Loss, Loss, tuple[Any, ...]], **settings: Any) -> Report:
    kind, one, other, example = case
    return equivalence(traced(kind, one, example), traced(kind, other, example), seed=0, **settings)


@pytest.mark.parametrize("name", SAME)
def test_a_loss_written_by_hand_is_proved(name: str) -> None:
    report = compared(SAME[name])
    assert report.verdict is Verdict.PROVED, report
    assert report.counts["expressions whose rules were compared with torch"] > 0


@pytest.mark.parametrize("name", OTHER)
def test_another_loss_is_not(name: str) -> None:
    assert compared(OTHER[name]).verdict in (Verdict.DIFFERS, Verdict.REFUTED, Verdict.UNKNOWN)


ITSELF: dict[str, tuple[type[Of], Loss, tuple[Any, ...]]] = {
    "binary": (Two, lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), (X, Y)),
    "binary, weighed": (
        Two,
        lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid(), WEIGHT[:C], pos_weight=1 / WEIGHT[:C], reduction="sum"),
        (X, Y),
    ),
    "poisson in full": (Two, lambda x, y: F.poisson_nll_loss(x, y.abs() + 1, log_input=False, full=True), (X.abs() + 1, Y)),
    "divergence": (Two, lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1)), (X, Y)),
    "one example": (Two, lambda x, ids: F.cross_entropy(x[0], ids[0], label_smoothing=0.1), (X, IDS)),
    "probabilities, smoothed and weighed": (
        Two,
        lambda x, y: F.cross_entropy(x, y.softmax(-1), WEIGHT, label_smoothing=0.1, reduction="none"),
        (X, Y),
    ),
    "nothing left of some": (Two, lambda x, ids: F.cross_entropy(x, ids, ignore_index=3, reduction="none", label_smoothing=0.5), (X, IDS)),
}


@pytest.mark.parametrize("name", ITSELF)
def test_the_rule_is_torchs_function(name: str) -> None:
    kind, loss, example = ITSELF[name]
    report = compared((kind, loss, loss, example))
    assert report.verdict is Verdict.PROVED, report
    assert report.counts["expressions whose rules were compared with torch"] > 0


def test_gradients_of_losses_are_proved() -> None:
    assert compared(SAME["cross entropy"], gradients=True).verdict is Verdict.PROVED
    assert compared(SAME["poisson"], gradients=True).verdict is Verdict.PROVED
    raised = lambda n, eps: n + (n.clamp(min=eps) - n).detach()  # as torch raises the norms, where autograd does not look  # noqa: E731
    by_norms = lambda x, y, f: (x * y).sum(-1) / (f(x.norm(dim=-1), 0.5) * f(y.norm(dim=-1), 0.5))  # noqa: E731
    angle = lambda x, y: F.cosine_similarity(x, y, eps=0.5)  # noqa: E731
    assert compared((Two, angle, lambda x, y: by_norms(x, y, raised), (X, Y)), gradients=True).verdict is Verdict.PROVED
    clamped = lambda x, y: by_norms(x, y, lambda n, eps: n.clamp(min=eps))  # noqa: E731
    assert compared((Two, angle, clamped, (X, Y))).verdict is Verdict.PROVED
    assert compared((Two, angle, clamped, (X, Y)), gradients=True).verdict is not Verdict.PROVED
    detached = (Two, SAME["poisson"][1], lambda x, y: (x.exp() - x.detach() * y).mean(), (X, Y))
    assert compared(detached, gradients=True).verdict is not Verdict.PROVED


def test_labels_that_are_shifted_and_padded_are_proved() -> None:
    def shifted(x: Tensor, ids: Tensor) -> Tensor:
        return F.cross_entropy(x, F.pad(ids, (0, 1), value=-100)[1:], reduction="sum")

    def other(x: Tensor, ids: Tensor) -> Tensor:
        return F.cross_entropy(x, F.pad(ids, (0, 1), value=1)[1:], reduction="sum")

    by_hand = lambda x, ids: F.cross_entropy(x[:-1], ids[1:], reduction="sum")  # noqa: E731
    assert compared((Two, shifted, by_hand, (X, IDS))).verdict is Verdict.PROVED
    assert compared((Two, shifted, other, (X, IDS))).verdict is Verdict.REFUTED


def test_the_loss_of_a_language_model_agrees_with_core_aten() -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=61, n_positions=32)
    model, ids = GPT2LMHeadModel(config).eval(), torch.randint(0, 61, (2, 7))
    example: dict[str, Any] = {"input_ids": ids, "labels": ids.masked_fill(torch.arange(7) < 3, -100)}
    core = core_program(model, **example)
    report = equivalence(trace(model, **example), core, seed=0, assuming=["literals are roots"])
    assert report.verdict is Verdict.ASSUMING, report


@pytest.mark.parametrize("ids", [torch.tensor([0, 3, 7, 1]), torch.full((N,), -100)])
def test_targets_that_are_no_classes_are_not_proved(ids: Tensor) -> None:
    """torch gives an error, or NaN for a mean of nothing: there is no number to prove."""
    program = traced(Two, lambda x, ids: F.cross_entropy(x, ids), (X, IDS))
    assert math.isnan(float(F.cross_entropy(X, torch.full((N,), -100))))
    with torch.no_grad():
        try:
            report = equivalence(program, program, inputs={"x": X, "y": ids}, seed=0)
        except Exception as error:
            assert "IndexError" in type(error).__name__ or "input" in str(error).lower()
            return
    assert report.verdict is not Verdict.PROVED


class _Labelled(torch.nn.Module):
    """A loss of the next token by shifted logits, or if `padded` by padded labels with another activation."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.padded = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11), padded

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.embed(input_ids), approximate="none" if self.padded else "tanh")
        logits = self.head(hidden)
        if self.padded:
            labels = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
            return torch.nn.functional.cross_entropy(logits.reshape(-1, 11), labels.reshape(-1))
        return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1))


def test_a_wrong_loss_that_some_sizes_do_not_fit_is_refuted() -> None:
    """Labels have free sizes of their own; a search that changes one input alone meets an error of torch, and goes on."""
    ids = torch.arange(14).view(2, 7) % 11
    a, b = (trace(_Labelled(padded).eval(), input_ids=ids, labels=ids.clone()) for padded in (False, True))
    assert equivalence(a, b, seed=0).verdict is Verdict.REFUTED
    assert equivalence(b, a, seed=0).verdict is Verdict.REFUTED
