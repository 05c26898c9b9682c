"""Data: which arguments hold examples, and what is exchanged when examples change places; in every analysis the same."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analysis.data import drawn, example_axes
from analysis.scrubbing import Hypothesis, Part, scrub, unconditional
from rewrite import InputError, Program, trace

N = 3


class Nested(nn.Module):
    """Reads a tensor, a table that all examples share, and a nested tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, table: Tensor, more: dict[str, Tensor]) -> Tensor:
        return self.out(self.f(x) * table + more["own"])


def batch(seed: int, examples: int = N) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    more = {"own": torch.randn(examples, 4, generator=draw)}
    return {"x": torch.randn(examples, 4, generator=draw), "table": torch.ones(1, 4), "more": more}


@cache
def nested() -> Program:
    torch.manual_seed(0)
    return trace(Nested().eval(), **batch(0))


def squares(output: Tensor, batch: Any) -> Tensor:
    return output.square().sum(1)


def test_axes_of_examples_are_known_by_name() -> None:
    assert example_axes(nested()) == {"x": 0, "table": None, "more:own": 0}


def test_an_example_changes_places_with_all_that_is_its_own_and_nothing_else() -> None:
    data = [batch(1, examples=4), batch(2), batch(3, examples=1)]  # as many examples in the last as the table has rows
    data[2]["table"] = torch.full((1, 4), 2.0)
    rows = {tuple(x.tolist()): (n, i) for n, one in enumerate(data) for i, x in enumerate(one["x"])}
    for one, made in zip(data, drawn(nested(), data, 0), strict=True):
        assert torch.equal(made["table"], one["table"])
        sources = [rows[tuple(x.tolist())] for x in made["x"]]
        assert torch.equal(made["more"]["own"], torch.stack([data[n]["more"]["own"][i] for n, i in sources]))
    assert sorted(rows.values()) == sorted(rows[tuple(x.tolist())] for made in drawn(nested(), data, 0) for x in made["x"])


# ------------------------------------------------------------------------------------------------ scrubbing


TREE = Hypothesis(Part("f", "f ~> out@in", unconditional))


def test_scrubbing_shares_what_has_no_examples_and_draws_what_is_nested() -> None:
    data = [{**batch(seed, 4), "labels": ("a", "b", "c", "d")} for seed in (1, 2)]
    result = scrub(nested(), TREE, data, squares, seeds=(0,))
    assert result.scrubbed.loss.shape == (1, 8)
    whole = Hypothesis(Part("f", "f ~> out@in", unconditional), sampler=lambda parent, data, generator: torch.arange(8))
    again = scrub(nested(), whole, data, lambda o, b: squares(o, b) + 0 * len(b["labels"]), seeds=(0,))
    assert again.scrubbed.loss.shape == (1, 8)


def test_scrubbing_refuses_shared_arguments_that_differ() -> None:
    data = [batch(1), {**batch(2), "table": torch.zeros(1, 4)}]
    with pytest.raises(InputError, match="'table', which has no axis of examples, to be the same in all batches"):
        scrub(nested(), TREE, data, squares)


@pytest.mark.parametrize("labels", [torch.zeros(N + 1), ["a"], {"inner": torch.zeros(N - 1)}])
def test_scrubbing_refuses_labels_of_other_rows(labels: Any) -> None:
    with pytest.raises(InputError, match=f"to have {N} rows, one for each example"):
        scrub(nested(), TREE, {**batch(1), "labels": labels}, squares)


class Listed(Nested):
    def forward(self, x: Tensor, table: Tensor, more: list[Tensor]) -> Tensor:
        return super().forward(x, table, {"own": more[0]})


def test_scrubbing_refuses_examples_in_lists() -> None:
    made = {**batch(1), "more": [batch(1)["x"]]}
    with pytest.raises(InputError, match="expected 'more' as tensors whose first axis is that of examples"):
        scrub(trace(Listed().eval(), **made), TREE, made, squares)


@pytest.mark.parametrize("rows", [torch.tensor([0, 1, -1]), torch.tensor([0, 1, N])])
def test_rows_that_there_are_not_are_refused(rows: Tensor) -> None:
    odd = Hypothesis(Part("f", "f ~> out@in", sampler=lambda parent, data, generator: rows))
    with pytest.raises(InputError, match=r"sampler of 'f': expected rows from 0 to 2, got"):
        scrub(nested(), odd, batch(1), squares)


def test_made_up_examples_without_an_argument_are_refused() -> None:
    odd = Hypothesis(Part("f", "f ~> out@in", sampler=lambda parent, data, generator: {"x": data["x"]}))
    with pytest.raises(InputError, match=r"sampler of 'f': expected examples with the program's arguments, got none of 'more'"):
        scrub(nested(), odd, batch(1), squares)


def test_a_loss_without_bound_has_no_constant_model() -> None:
    assert scrub(nested(), TREE, batch(1), lambda o, b: o[:, 0], seeds=(0,)).constant is None
    assert scrub(nested(), TREE, batch(1), squares, seeds=(0,)).constant is not None


def test_scrubbing_tells_how_far_it_is() -> None:
    said: list[str] = []
    scrub(nested(), TREE, batch(1), squares, seeds=(0, 1), memory=1, progress=said.append)
    chunks = [text for text in said if text.startswith("chunk")]
    assert chunks[0] == f"chunk 1 of {5 * N}"  # the model, and two hypotheses with two seeds
    assert chunks[-1] == f"chunk {5 * N} of {5 * N}"
