"""Patterns of differences: each is found where it was planted, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.verify.programs import normal
from verify.witnesses.pattern import axis_names, by_floats, of_weights, where_text

SHAPE = (2, 7, 16)
Change = Callable[[Tensor], Tensor]


def at(change: Callable[[Tensor], object], by: float = 0.5) -> Change:
    """A change that adds random numbers where `change` puts True."""

    def apply(x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape, dtype=torch.bool)
        change(mask)
        return x + mask * by * (1 + normal(*x.shape, seed=9).abs())

    return apply


def put(*index: object) -> Callable[[Tensor], object]:
    return lambda mask: mask.__setitem__(index, True)


def found(change: Change, shape: tuple[int, ...] = SHAPE, batch: int = 2, sequence: int = 7):
    p = normal(*shape).double()
    q = change(p)
    return by_floats("x", "output", (p.float(), q.float(), p, q), axis_names(shape, batch, sequence), "")


ALL = slice(None)
WHERE = {
    "everywhere": put(ALL),
    "all positions but the first (axis 1)": put(ALL, slice(1, None)),
    "all positions but the last (axis 1)": put(ALL, slice(None, -1)),
    "one position (axis 1, index 3 of 7)": put(ALL, 3),
    "one row (axis 0, index 1 of 2)": put(1),
    "one column (axis 2, index 5 of 16)": put(ALL, ALL, 5),
    "columns 4 to 7 of 16 (axis 2)": put(ALL, ALL, slice(4, 8)),
    "columns 1, 5, ... to 13, every 4th of 16 (axis 2)": put(ALL, ALL, slice(1, None, 4)),
    "all columns but 3 and 8 (axis 2)": put(ALL, ALL, [i for i in range(16) if i not in (3, 8)]),
    "columns 0, 5 and 6 of 16 (axis 2)": put(ALL, ALL, [0, 5, 6]),
    "6 of 16 columns (axis 2)": put(ALL, ALL, [0, 1, 3, 7, 8, 15]),
    "one row (axis 0, index 0 of 2), one position (axis 1, index 2 of 7), one column (axis 2, index 1 of 16)": put(0, 2, 1),
}


@pytest.mark.parametrize("text", WHERE)
def test_where(text: str) -> None:
    difference = found(at(WHERE[text]))
    assert difference is not None
    assert difference.where == text
    assert difference.how == ""


HOW: dict[str, Change] = {
    "by one number, 0.25": lambda x: x + 0.25,
    "by one number for each row and position": lambda x: x + normal(2, 7, 1),
    "by one number for each column": lambda x: x + normal(16),
    "by one factor, 1.5": lambda x: x * 1.5,
    "by one factor, 1 + 1e-08": lambda x: x * (1 + 1e-8),
    "by one factor for each row and position": lambda x: x * (2 + normal(2, 7, 1).abs()),
    "by one factor for each column": lambda x: x * (2 + normal(16).abs()),
    "the sign is the other one": lambda x: -x,
    "0 in the second": lambda x: x * 0,
    "": lambda x: x + normal(*SHAPE, seed=3),
}


@pytest.mark.parametrize("text", HOW)
def test_how(text: str) -> None:
    difference = found(HOW[text])
    assert difference is not None
    assert (difference.where, difference.how) == ("everywhere", text)


def test_both_at_once() -> None:
    difference = found(lambda x: torch.cat([x[:, :1], x[:, 1:] * 3], 1))
    assert str(difference) == "192 of 224 elements differ: all positions but the first (axis 1), by one factor, 3"


def test_a_head_is_called_a_head() -> None:
    difference = found(at(put(ALL, 3)), (2, 4, 7, 5))
    assert difference is not None
    assert difference.where == "one head (axis 1, index 3 of 4)"
    assert axis_names((2, 4, 7, 7), 2, 7) == ("row", "head", "query", "key")
    assert axis_names((2, 7, 4, 5), 2, 7) == ("row", "position", "head", "column")
    assert axis_names((3, 5)) == ("row", "column")
    assert axis_names((3, 5, 6)) == ("row", "index", "column")


def test_parts_of_squares() -> None:
    part = torch.ones(7, 7, dtype=torch.bool)
    names = ("row", "head", "query", "key")
    assert where_text(part.triu(1).expand(2, 4, 7, 7), names) == "above the diagonal (axes 2 and 3)"
    assert where_text((part.triu() & part.tril()).expand(2, 4, 7, 7), names) == "on the diagonal (axes 2 and 3)"
    mask = torch.zeros(2, 4, 7, 7, dtype=torch.bool)
    mask[:, 1] = part.tril(-1)
    assert where_text(mask, names) == "below the diagonal (axes 2 and 3), one head (axis 1, index 1 of 4)"


def test_what_has_no_shape_is_called_scattered() -> None:
    mask = torch.zeros(8, 9, dtype=torch.bool)
    mask[0, 0] = mask[7, 8] = mask[3, 3] = mask[3, 4] = True
    assert (
        where_text(mask, axis_names(mask.shape)) == "scattered, 33% of rows 0, 3 and 7 of 8 (axis 0), columns 0, 3, 4 and 8 of 9 (axis 1)"
    )
    assert where_text(torch.arange(64).view(8, 8) % 7 < 3, ("row", "column")) == "scattered over 44% of it"


def test_rounding_is_no_difference() -> None:
    p = normal(50, 50).double()
    q = (p / 3) * 3
    low = p.float()
    assert by_floats("x", "output", (low, (low / 3) * 3, p, q), ("row", "column"), "") is None


def test_a_number_that_is_none_is_wrong() -> None:
    difference = found(lambda x: torch.where(torch.arange(16) == 2, torch.nan, x))
    assert difference is not None
    assert difference.where == "one column (axis 2, index 2 of 16)"


def test_other_shapes_and_whole_numbers() -> None:
    p = torch.arange(6)
    difference = by_floats("x", "output", (p, p % 4, p, p % 4), ("index",), "")
    assert difference is not None
    assert (difference.wrong, difference.where) == (2, "indices 4 to 5 of 6 (axis 0)")
    other = by_floats("x", "output", (p, p[:3], p, p[:3]), ("index",), "")
    assert other is not None
    assert "[6] and [3]" in str(other)
    scalar = by_floats("x", "output", (torch.tensor(1.0),) * 2 + (torch.tensor(1.0), torch.tensor(2.0)), (), "")
    assert str(scalar) == "its one number differs"


def test_differences_of_weights() -> None:
    w = normal(24, 16)
    one = w.clone()
    one[3, 4] += 1e-3
    assert str(of_weights("w", w, one)) == ("1 of 384 elements differ: one row (axis 0, index 3 of 24), one column (axis 1, index 4 of 16)")
    half = of_weights("w", w, w.half().float())
    assert half is not None
    assert half.how == "rounded to float16"
    doubled = of_weights("w", w, torch.cat([w[:8], w[8:] * 2]))
    assert doubled is not None
    assert (doubled.where, doubled.how) == ("rows 8 to 23 of 24 (axis 0)", "by one factor, 2")
    assert of_weights("w", w, w.clone()) is None
