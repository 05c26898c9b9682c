"""Outputs are compared as whoever calls a program reads them: by keys or by places, not as a row of leaves."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.export import register_dataclass

from rewrite import Program, load, trace
from tests.verify.programs import normal
from verify import Report, Verdict, equivalence


class Pair(NamedTuple):
    """Two values by place and by name."""

    a: Tensor
    b: Tensor


class Other(NamedTuple):
    """Two values of other names."""

    b: Tensor
    a: Tensor


@dataclass
class Record:
    """Two values by name."""

    a: Tensor
    b: Tensor


register_dataclass(Record)


class Returns(nn.Module):
    """Two values in a container of one's own choice."""

    def __init__(self, put: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.put = put
        self.w = nn.Parameter(normal(4))

    def forward(self, x: Tensor) -> Any:
        return self.put(self.w * x, x + 1)


def program(put: Callable[[Tensor, Tensor], Any]) -> Program:
    return trace(Returns(put).eval(), normal(3, 4), dynamic=False)


def against(a: Callable[..., Any], b: Callable[..., Any]) -> Report:
    return equivalence(program(a), program(b), seed=0)


READ_ALIKE = {
    "a tuple and a list": (lambda a, b: (a, b), lambda a, b: [a, b]),
    "a tuple and a deque": (lambda a, b: (a, b), lambda a, b: deque((a, b))),
    "a tuple and a named one": (lambda a, b: (a, b), Pair),
    "keys in another order": (lambda a, b: {"a": a, "b": b}, lambda a, b: {"b": b, "a": a}),
    "whole numbers as keys": (lambda a, b: {0: a, 1: b}, lambda a, b: {1: b, 0: a}),
    "keys in another order, inside": (lambda a, b: ({"a": a, "b": b}, a), lambda a, b: ({"b": b, "a": a}, a)),
    "a dict and an ordered one": (lambda a, b: {"a": a, "b": b}, lambda a, b: OrderedDict(b=b, a=a)),
    "a dict and a dataclass": (lambda a, b: {"a": a, "b": b}, Record),
    "a place that is empty": (lambda a, b: (a, None, b), lambda a, b: [a, None, b]),
}
READ_OTHERWISE = {
    "a tuple and a dict": (lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}),
    "a tuple and a dataclass": (lambda a, b: (a, b), Record),
    "a named tuple and a dict": (Pair, lambda a, b: {"a": a, "b": b}),
    "named tuples of other names": (Pair, lambda a, b: Other(a, b)),
    "digits as keys": (lambda a, b: (a, b), lambda a, b: {"0": a, "1": b}),
    "keys of other types": (lambda a, b: {0: a, 1: b}, lambda a, b: {"0": a, "1": b}),
    "a lone value and a tuple of it": (lambda a, b: a, lambda a, b: (a,)),
    "one nested and one not": (lambda a, b: (a, b), lambda a, b: ((a, b),)),
    "a bracket moved": (lambda a, b: ((a, b), a), lambda a, b: (a, (b, a))),
    "a key with a colon": (lambda a, b: {"a": {"b": a}, "c": b}, lambda a, b: {"a:b": a, "c": b}),
    "an empty container": (lambda a, b: {"a": a, "n": ()}, lambda a, b: {"a": a}),
    "an empty dict and an empty tuple": (lambda a, b: (a, {}), lambda a, b: (a, ())),
    "None elsewhere": (lambda a, b: (a, None, b), lambda a, b: (a, b, None)),
    "None left out": (lambda a, b: (a, None, b), lambda a, b: (a, b)),
    "a number of another type": (lambda a, b: (a, 1), lambda a, b: (a, True)),
}
SWAPPED = {
    "places": (lambda a, b: (a, b), lambda a, b: [b, a]),
    "keys": (lambda a, b: {"a": a, "b": b}, lambda a, b: {"b": a, "a": b}),
    "whole numbers as keys": (lambda a, b: {0: a, 1: b}, lambda a, b: {1: a, 0: b}),
    "keys of a dataclass": (Record, lambda a, b: Record(b, a)),
    "keys inside": (lambda a, b: ({"a": a, "b": b}, a), lambda a, b: ({"b": a, "a": b}, a)),
}


@pytest.mark.parametrize("name", READ_ALIKE)
def test_outputs_that_are_read_alike_are_compared(name: str) -> None:
    report = against(*READ_ALIKE[name])
    assert report.proved, str(report)


@pytest.mark.parametrize("name", READ_OTHERWISE)
def test_outputs_that_are_read_otherwise_differ(name: str) -> None:
    for pair in (READ_OTHERWISE[name], READ_OTHERWISE[name][::-1]):
        report = against(*pair)
        assert report.verdict is Verdict.DIFFERS, str(report)
        assert "output" in report.reasons[0]


@pytest.mark.parametrize("name", SWAPPED)
def test_values_under_each_others_names_are_told_apart(name: str) -> None:
    assert against(*SWAPPED[name]).verdict is Verdict.REFUTED


def test_a_difference_is_named_where_it_is() -> None:
    report = against(lambda a, b: {"x": (a, b)}, lambda a, b: {"x": {"a": a, "b": b}})
    assert report.reasons[0] == "other outputs at x: a sequence of 2 and values by name (a, b)"


def test_leaves_of_a_dataclass_bear_its_field_names() -> None:
    assert program(Record).calling.outputs == ("a", "b")


@pytest.mark.parametrize(
    "put", [Pair, lambda a, b: OrderedDict(b=b, a=a), lambda a, b: {1: a, 0: (b, None)}], ids=["named", "ordered", "nested"]
)
def test_a_saved_program_is_still_read_like_the_first(put: Callable[..., Any], tmp_path: Any) -> None:
    first = program(put)
    first.save(tmp_path / "p")
    assert equivalence(first, load(tmp_path / "p"), seed=0).proved


def test_an_output_class_and_a_dict_of_its_fields_are_read_alike() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    kind = lambda a, b: outputs.BaseModelOutputWithPooling(last_hidden_state=a, pooler_output=b)  # noqa: E731
    assert against(kind, lambda a, b: {"pooler_output": b, "last_hidden_state": a}).proved
    assert not against(kind, lambda a, b: {"pooler_output": a, "last_hidden_state": b}).proved
    assert against(kind, lambda a, b: (a, b)).verdict is Verdict.DIFFERS


class Sized(nn.Module):
    """What it is given, and sizes of it."""

    def __init__(self, *sizes: Callable[[Tensor], Any]):
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Any:
        return 2 * x, *(size(x) for size in self.sizes)


def test_sizes_are_compared_as_formulas() -> None:
    x = torch.randn(3, 4)
    one, same, other = (
        trace(Sized(f).eval(), x) for f in (lambda x: 2 * x.shape[0] + 2, lambda x: 2 * (x.shape[0] + 1), lambda x: 3 * x.shape[0] - 1)
    )
    assert equivalence(one, same, seed=0).verdict is Verdict.PROVED
    report = equivalence(one, other, seed=0)
    assert report.verdict is Verdict.DIFFERS
    assert "output 1 is 2*x[0] + 2 and 3*x[0] - 1" in report.reasons[0]


FORMULAS = {
    "a size alone": (lambda x: x.shape[0], lambda x: 1 * x.shape[0]),
    "a fraction": (lambda x: (x.shape[0] / 2, 2 * x), lambda x: (x.shape[0] / 2, x + x)),
    "a comparison": (lambda x: (x.shape[0] > 7, x), lambda x: (x.shape[0] > 7, 1 * x)),
    "a number that is read": (lambda x: (x.sum().item(), x), lambda x: (x.sum(0).sum().item(), x)),
    "what is made of it": (lambda x: (2 * x.sum().item() + x.shape[0], x), lambda x: (2 * (x / 2 + x / 2).sum().item() + x.shape[0], x)),
    "a truth value that is read": (lambda x: ((x.sum() > 0).item(), x), lambda x: ((x.sum(0).sum() > 0).item(), x)),
}
OTHER_FORMULAS = {
    "a size alone": (lambda x: x.shape[0], lambda x: x.shape[0] + 1),
    "a fraction": (lambda x: (x.shape[0] / 2, x), lambda x: (x.shape[0] / 3, x)),
    "a comparison": (lambda x: (x.shape[0] > 2, x), lambda x: (x.shape[0] > 7, x)),
    "a whole number for a fraction": (lambda x: (x.shape[0] // 2, x), lambda x: (x.shape[0] / 2, x)),
    "another number that is read": (lambda x: (x.sum().item(), x), lambda x: (x.mean().item(), x)),
    "another whole number": (lambda x: (x.long().sum().item(), x), lambda x: (x.long().amin((0, 1)).item(), x)),
    "another thing made of it": (lambda x: (2 * x.sum().item(), x), lambda x: (3 * x.sum().item(), x)),
    "another truth value": (lambda x: ((x.sum() > 0).item(), x), lambda x: ((x.sum() < 0).item(), x)),
    "how many are not zero": (lambda x: (x.nonzero().shape[0], x), lambda x: ((x > 1).nonzero().shape[0], x)),
    "a tensor for a size": (lambda x: (x.shape[0], x), lambda x: (x.sum(), x)),
}


class Returning(nn.Module):
    """What a function makes of a value."""

    def __init__(self, made: Callable[[Tensor], Any]):
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(x)


def returned(pair: tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]) -> Any:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return equivalence(*(trace(Returning(made).eval(), x) for made in pair), seed=0)


@pytest.mark.parametrize("name", FORMULAS)
def test_numbers_among_outputs_are_compared(name: str) -> None:
    report = returned(FORMULAS[name])
    assert report.verdict is Verdict.PROVED, report
    assert "a degree reached" not in str(report)


@pytest.mark.parametrize("name", OTHER_FORMULAS)
def test_other_numbers_among_outputs_are_not_proved(name: str) -> None:
    assert returned(OTHER_FORMULAS[name]).verdict in (Verdict.DIFFERS, Verdict.REFUTED)


SAME_NUMBERS = {  # made of other tensors
    "a sum in another order": (lambda x: (x[0].sum().item() + x[1].sum().item(), x), lambda x: (x[1].sum().item() + x[0].sum().item(), x)),
    "a square": (lambda x: (x.sum().item() ** 2, x), lambda x: ((-x).sum().item() ** 2, x)),
    "a sign": (lambda x: (x.sum().item() > 0, x), lambda x: ((2 * x).sum().item() > 0, x)),
}
OTHER_NUMBERS = {
    "a difference in another order": (
        lambda x: (x[0].sum().item() - x[1].sum().item(), x),
        lambda x: (x[1].sum().item() - x[0].sum().item(), x),
    ),
    "a cube": (lambda x: (x.sum().item() ** 3, x), lambda x: ((-x).sum().item() ** 3, x)),
    "another sign": (lambda x: (x.sum().item() > 0, x), lambda x: ((-x).sum().item() > 0, x)),
}


@pytest.mark.parametrize("name", SAME_NUMBERS)
def test_one_number_made_of_other_tensors_is_not_refuted(name: str) -> None:
    assert returned(SAME_NUMBERS[name]).verdict in (Verdict.DIFFERS, Verdict.PROVED)


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_another_number_made_of_other_tensors_is_refuted(name: str) -> None:
    report = returned(OTHER_NUMBERS[name])
    assert report.verdict is Verdict.REFUTED, report


class Apart(nn.Module):
    """The difference of two sums, and the first size of one of them."""

    def __init__(self, of: int, sign: int = 1):
        super().__init__()
        self.of, self.sign = of, sign

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return (x, y)[self.of].shape[0], self.sign * (x.sum() - y.sum())


class Named(Apart):
    """The same of values of other names."""

    def forward(self, one: Tensor, other: Tensor) -> Any:
        return super().forward(one, other)


def test_sizes_are_those_of_the_inputs_that_are_matched() -> None:
    given = (normal(3, 4), normal(5, 4)), (normal(5, 4), normal(3, 4))
    first, by_place, by_place_other = (trace(model.eval(), *given[0]) for model in (Apart(0), Named(0), Named(1)))
    turned, turned_other = (trace(Apart(of, -1).eval(), *given[1]) for of in (1, 0))
    crossed = {"x": "y", "y": "x"}
    assert equivalence(first, by_place, seed=0).proved
    assert not equivalence(first, by_place_other, seed=0).proved
    assert equivalence(first, turned, match=crossed, seed=0).proved
    assert not equivalence(first, turned_other, match=crossed, seed=0).proved
