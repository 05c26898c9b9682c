"""A claim on what a mask is in is proved for every mask given, and the report says so where a mask is one number everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rewrite import Program, Terms, split, trace
from verify import Report, equivalence

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
ONES, HOLES = torch.ones(2, 3), torch.tensor([[1.0, 1, 0], [1, 0, 1]])


class Masked(nn.Module):
    """A linear map of what a mask leaves of x."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.l(x * attention_mask[..., None])


@split
def kept(y: Tensor, attention_mask: Tensor) -> Terms:
    """Half of y where the mask holds, and the rest."""
    half = y / 2 * attention_mask[..., None]
    return Terms(half, other=y - half)


@split
def halves(y: Tensor, attention_mask: Tensor) -> Terms:
    """Half of y everywhere."""
    return Terms(y / 2, other=y - y / 2)


@split
def plain(y: Tensor) -> Terms:
    """The same without a claim on masks."""
    return Terms(y / 2, other=y - y / 2)


@plain.claim("both are equal")
def _equal(t: Terms, y: Tensor) -> tuple[Tensor, Tensor]:
    return t[0], t.other


@kept.claim("zero at padding")
@halves.claim("zero at padding")
def _zero(t: Terms, y: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    return t[0] * (1 - attention_mask[..., None]), torch.zeros_like(t[0])


def checked(law: Any, *masks: Tensor, dtype: torch.dtype = torch.float32) -> Report:
    program: Program = trace(Masked().eval(), X, ONES.to(dtype)).apply(law.at("l"))
    return equivalence(program, inputs=[{"x": X, "attention_mask": mask.to(dtype)} for mask in masks], seed=0)


TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.int64])


@TYPES
@pytest.mark.parametrize("masks", [(HOLES,), (ONES, HOLES), (HOLES, ONES)])
def test_a_claim_is_proved_for_every_mask_or_fails(masks: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    assert [line.status for line in checked(kept, *masks, dtype=dtype).claims] == ["proved"]
    assert [line.status for line in checked(halves, *masks, dtype=dtype).claims] == ["fails"]


@TYPES
def test_a_mask_of_ones_says_nothing_of_padding(dtype: torch.dtype) -> None:
    report = checked(halves, ONES, dtype=dtype)
    assert [line.status for line in report.claims] == ["proved"]
    assert report.scope["claims"] == "attention_mask is 1 everywhere: what claims say of other masks was not tried; give some with inputs="
    assert "attention_mask is 1 everywhere" in str(report)


def test_nothing_is_said_where_another_mask_was_tried_or_none_is_read() -> None:
    assert "claims" not in checked(kept, ONES, HOLES).scope
    assert "claims" not in checked(plain, ONES).scope


def test_a_claim_is_of_the_mask_as_it_is() -> None:
    """Not of one with its rows exchanged."""
    one = torch.tensor([[1.0, 1, 1], [1, 1, 0]])

    @split
    def law(y: Tensor, attention_mask: Tensor) -> Terms:
        half = y / 2 * attention_mask[..., None]
        return Terms(half, other=y - half)

    @law.claim("half of the first row")
    def _first(t: Terms, y: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return t[0][0], y[0] / 2

    assert [line.status for line in checked(law, one).claims] == ["proved"]
    assert [line.status for line in checked(law, one.flip(0)).claims] == ["fails"]


def test_bounds_of_several_masks_add_up() -> None:
    once, twice = checked(kept, HOLES), checked(kept, HOLES, ONES)
    assert once.log2_bound is not None and twice.log2_bound is not None
    assert once.log2_bound < twice.log2_bound
