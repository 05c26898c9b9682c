"""Losses in every reduction are their formulas, and neither those of another number nor of another reduction; and what torch has wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.core import core_program
from rewrite import trace
from rewrite.errors import InputError
from tests.verify.lossy import Loss, Three, Two
from verify import Report, Verdict, equivalence

N, C = 3, 4
DRAW = torch.Generator().manual_seed(0)
X, Y, Z = (torch.randn(N, C, generator=DRAW) for _ in range(3))
SIGN = torch.tensor([[1.0, -1, 1, -1], [-1, 1, 1, -1], [1, 1, -1, -1]])
IDS = torch.tensor([0, 3, 2])
LABELS = torch.tensor([[2, 0, -1, 1], [3, -1, 0, 0], [-1, 1, 2, 3]])
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}


def compared(one: Loss, other: Loss, example: tuple[Tensor, ...]) -> Report:
    kind = Two if len(example) == 2 else Three
    return equivalence(*(trace(kind(loss).eval(), *example, dynamic=False) for loss in (one, other)), seed=0)


def smooth(x: Tensor, y: Tensor, n: float) -> Tensor:
    z = (x - y).abs()
    return torch.where(z < n, z * z / (2 * n), z - n / 2)


def hinge(x: Tensor, s: Tensor, n: float) -> Tensor:
    return torch.where(s == 1, 0.0, F.relu(n - x)) + torch.where(s == -1, 0.0, x)


def cosine(x: Tensor, y: Tensor, s: Tensor, n: float) -> Tensor:
    small = float(torch.tensor(1e-12))
    found = (x * y).sum(-1) / ((x.square().sum(-1) + small) * (y.square().sum(-1) + small)).sqrt()
    return torch.where(s[:, 0] == 1, 1 - found, 0.0) + torch.where(s[:, 0] == -1, F.relu(found - n), 0.0)


def margins(x: Tensor, ids: Tensor, n: float) -> Tensor:
    above = F.relu(n - x.gather(1, ids[:, None]) + x)
    return torch.where(torch.arange(C) == ids[:, None], 0.0, above).sum(-1) / C


def labelled(x: Tensor, labels: Tensor) -> Tensor:
    places = torch.arange(C)
    real = places < torch.where(labels == -1, places, C).amin(-1, keepdim=True)
    taken = (places == torch.where(real, labels, -1)[..., None]).any(1)
    above = F.relu(1 - x.gather(1, torch.where(real, labels, 0))[..., None] + x[:, None])
    return torch.where(real[..., None] & ~taken[:, None], above, 0.0).sum((1, 2)) / C


def soft_labelled(x: Tensor, y: Tensor) -> Tensor:
    return -(y * x.sigmoid().log() + (1 - y) * (-x).sigmoid().log()).sum(-1) / C


def triplet(x: Tensor, y: Tensor, z: Tensor, n: float) -> Tensor:
    near, far = ((x - other + 1e-6).square().sum(-1).sqrt() for other in (y, z))
    return F.relu(near - far + n)


def triplet_of_sizes(x: Tensor, y: Tensor, z: Tensor, n: float) -> Tensor:
    near, far = ((x - other + 1e-6).abs().sum(-1) for other in (y, z))
    return F.relu(near - far + n)


def gaussian(x: Tensor, y: Tensor, n: float) -> Tensor:
    return 0.5 * (torch.full_like(x, n).log() + (x - y).square() / n)


# name: the loss (of a number, if it has one), its formula for each element, an example
WITH_NUMBER: dict[str, tuple[Loss, Loss, tuple[Tensor, ...]]] = {
    "huber": (lambda x, y, n, r: F.huber_loss(x, y, r, n), lambda x, y, n: n * smooth(x, y, n), (X, Y)),
    "smooth l1": (lambda x, y, n, r: F.smooth_l1_loss(x, y, reduction=r, beta=n), smooth, (X, Y)),
    "hinge": (lambda x, s, n, r: F.hinge_embedding_loss(x, s, n, reduction=r), hinge, (X, SIGN)),
    "ranking": (
        lambda x, y, s, n, r: F.margin_ranking_loss(x, y, s, n, reduction=r),
        lambda x, y, s, n: F.relu(n - s * (x - y)),
        (X, Y, SIGN),
    ),
    "cosine": (lambda x, y, s, n, r: F.cosine_embedding_loss(x, y, s[:, 0], n, reduction=r), cosine, (X, Y, SIGN)),
    "margins": (lambda x, ids, n, r: F.multi_margin_loss(x, ids, margin=n, reduction=r), margins, (X, IDS)),
    "triplet": (lambda x, y, z, n, r: F.triplet_margin_loss(x, y, z, n, reduction=r), triplet, (X, Y, Z)),
    "triplet of sizes": (lambda x, y, z, n, r: F.triplet_margin_loss(x, y, z, n, p=1, reduction=r), triplet_of_sizes, (X, Y, Z)),
    "poisson": (
        lambda x, y, n, r: F.poisson_nll_loss(x, y, log_input=False, eps=n, reduction=r),
        lambda x, y, n: x - y * (x + n).log(),
        (X.abs(), Y.abs()),
    ),
    "gaussian": (lambda x, y, n, r: F.gaussian_nll_loss(x, y, n, reduction=r), gaussian, (X, Y)),
}
WITHOUT: dict[str, tuple[Loss, Loss, tuple[Tensor, ...]]] = {
    "squares": (lambda x, y, r: F.mse_loss(x, y, reduction=r), lambda x, y: (x - y) ** 2, (X, Y)),
    "sizes": (lambda x, y, r: F.l1_loss(x, y, reduction=r), lambda x, y: torch.maximum(x - y, y - x), (X, Y)),
    "soft margin": (lambda x, s, r: F.soft_margin_loss(x, s, reduction=r), lambda x, s: torch.log1p(torch.exp(-s * x)), (X, SIGN)),
    "labels": (lambda x, ids, r: F.multilabel_margin_loss(x, ids, reduction=r), labelled, (X, LABELS)),
    "soft labels": (lambda x, y, r: F.multilabel_soft_margin_loss(x, y, reduction=r), soft_labelled, (X, Y)),
    "divergence": (
        lambda x, y, r: F.kl_div(x, y, reduction=r),
        lambda x, y: torch.where(y == 0, 0.0, y * y.log()) - y * x,
        (X.log_softmax(-1), Y.softmax(-1)),
    ),
    "binary": (
        lambda x, y, r: F.binary_cross_entropy(x, y, reduction=r),
        lambda x, y: -(y * x.log().clamp(min=-100) + (1 - y) * (1 - x).log().clamp(min=-100)),
        (X.sigmoid(), Y.sigmoid()),
    ),
    "binary of logits": (
        lambda x, y, r: F.binary_cross_entropy_with_logits(x, y, reduction=r),
        lambda x, y: (1 - y) * x - x.sigmoid().log(),
        (X, Y.sigmoid()),
    ),
}
LOSSES = {
    **WITHOUT,
    **{
        name: (lambda *x, r, loss=loss: loss(*x, 0.5, r), lambda *x, formula=formula: formula(*x, 0.5), example)
        for name, (loss, formula, example) in WITH_NUMBER.items()
    },
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula(name: str, reduction: str) -> None:
    loss, formula, example = LOSSES[name]
    report = compared(lambda *x: loss(*x, r=reduction), lambda *x: REDUCTIONS[reduction](formula(*x)), example)
    assert report.verdict is Verdict.PROVED, report
    assert report.counts["expressions whose rules were compared with torch"] > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_mean_is_no_sum(name: str) -> None:
    loss, _, example = LOSSES[name]
    report = compared(lambda *x: loss(*x, r="mean"), lambda *x: loss(*x, r="sum"), example)
    assert report.verdict in (Verdict.DIFFERS, Verdict.REFUTED), report


@pytest.mark.parametrize("name", WITH_NUMBER)
def test_a_loss_of_another_number_is_another(name: str) -> None:
    loss, formula, example = WITH_NUMBER[name]
    report = compared(lambda *x: loss(*x, 0.5, "none"), lambda *x: formula(*x, 0.75), example)
    assert report.verdict in (Verdict.DIFFERS, Verdict.REFUTED), report


WRONG: dict[str, tuple[Loss, Loss, tuple[Tensor, ...]]] = {
    "labels after the end": (F.multilabel_margin_loss, lambda x, ids: labelled(x, torch.where(ids == -1, 0, ids)).mean(), (X, LABELS)),
    "targets among the others": (F.multi_margin_loss, lambda x, ids: F.relu(1 - x.gather(1, ids[:, None]) + x).mean(), (X, IDS)),
    "sizes for squares": (F.triplet_margin_loss, lambda x, y, z: triplet_of_sizes(x, y, z, 1.0).mean(), (X, Y, Z)),
    "a double for torch's float32": (
        lambda x, y, s: F.cosine_embedding_loss(x, y, s[:, 0], reduction="none"),
        lambda x, y, s: torch.where(s[:, 0] == 1, 1 - torch_like(x, y, 1e-12), 0.0) + torch.where(s[:, 0] == -1, F.relu(torch_like(x, y, 1e-12)), 0.0),
        (X, Y, SIGN),
    ),
}  # fmt: skip


def torch_like(x: Tensor, y: Tensor, small: float) -> Tensor:
    return (x * y).sum(-1) / ((x.square().sum(-1) + small) * (y.square().sum(-1) + small)).sqrt()


@pytest.mark.parametrize("name", WRONG)
def test_a_formula_that_is_nearly_the_loss_is_not_proved(name: str) -> None:
    assert compared(*WRONG[name]).verdict in (Verdict.DIFFERS, Verdict.REFUTED)


@pytest.mark.parametrize("labels", [torch.tensor([[0, 4, -1, 0]] * N), torch.tensor([[-2, 0, 1, 2]] * N)])
def test_labels_that_are_no_classes_are_not_proved(labels: Tensor) -> None:
    """torch gives an error: there is no number to prove."""
    program = trace(Two(F.multilabel_margin_loss).eval(), X, LABELS, dynamic=False)
    with pytest.raises(InputError, match="out of range"):
        equivalence(program, program, inputs={"x": X, "y": labels}, seed=0)


@pytest.mark.parametrize(("reduction", "verdict"), [("none", Verdict.CONSISTENT), ("mean", Verdict.PROVED), ("sum", Verdict.PROVED)])
def test_labels_of_one_example(reduction: str, verdict: Verdict) -> None:
    """torch's trace of "none" says [1], its run gives a number without dims."""
    loss = lambda x, ids: F.multilabel_margin_loss(x[0], ids[0], reduction=reduction)  # noqa: E731
    assert compared(loss, lambda x, ids: labelled(x[:1], ids[:1]).sum(), (X, LABELS)).verdict is verdict


@pytest.mark.parametrize("order", [1.0, 2.0, float("inf")])
def test_a_norm_is_its_formula(order: float) -> None:
    formulas: dict[float, Callable[[Tensor], Tensor]] = {
        1.0: lambda z: z.abs().sum(-1),
        2.0: lambda z: z.square().sum(-1).sqrt(),
        float("inf"): lambda z: z.abs().amax(-1),
    }
    for at, formula in formulas.items():
        report = compared(lambda x, y: torch.linalg.vector_norm(x - y, order, -1), lambda x, y, formula=formula: formula(x - y), (X, Y))
        assert (report.verdict is Verdict.PROVED) == (at == order), report


def test_torchs_own_decomposition_of_labels_is_refuted() -> None:
    """It leaves in what comes after the first -1 (docs/found.md)."""
    model: Any = Two(F.multilabel_margin_loss).eval()
    report = equivalence(trace(model, X, LABELS, dynamic=False), core_program(model, x=X, y=LABELS), seed=0)
    assert report.verdict is Verdict.REFUTED, report
