"""Causal scrubbing: the anchor's semantics against a hand-written evaluation, samplers, scores, alarms, and errors before the long part."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analysis.demo import load_balancer, strings, tokens
from analysis.scrubbing import Hypothesis, Part, by, draw, exact, scrub, unconditional, unshared
from analysis.scrubbing.chunks import bytes_a_row
from analysis.scrubbing.samplers import Unconditional
from passes import surrogate
from rewrite import InputError, PassError, Program, SiteError, TautomerError, trace

N = 48


class Two(nn.Module):
    """Two branches of one input, the second reading the first: f, g, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.embed, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.f(x)
        return self.out(h + self.g(h))


@cache
def two() -> tuple[Two, Program, dict[str, Any]]:
    torch.manual_seed(0)
    model = Two().eval()
    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    return model, trace(model, x[:4]), {"x": x, "labels": (x[:, 0] + x[:, 1] > 0).long(), "text": [str(i) for i in range(N)]}


def loss(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch["labels"], reduction="none")


def sign(batch: Any) -> Tensor:
    return batch["x"][:, 0] > 0


def signs(batch: Any) -> Tensor:
    return (batch["x"] > 0)[:, :2]


TREE = Hypothesis(
    Part("g", "g -> out@in", by(sign), parts=[Part("f", "f ~>", by(signs))]),
    Part("direct", "f -> out@in", by(signs)),
)


# ------------------------------------------------------------------------------------------------ semantics


def test_the_scrubbed_model_is_the_tree_evaluated_by_hand() -> None:
    model, program, data = two()
    result = scrub(program, TREE, data, loss, seeds=(3, 4))
    with torch.no_grad():
        for number, seed in enumerate((3, 4)):
            drawn = {name: batch["x"] for name, batch in draw(TREE, data, data, seed).batches.items()}
            assert set(drawn) == {"", "g", "f", "direct"}
            inner = model.embed(drawn["g"]) + model.f(drawn["f"])  # what g reads: its part f, and its own other draw
            output = model.out(model.embed(drawn[""]) + model.f(drawn["direct"]) + model.g(inner))
            torch.testing.assert_close(result.scrubbed.loss[number], loss(output, data).double(), rtol=1e-5, atol=1e-6)


def test_parts_are_drawn_from_their_parents_and_siblings_apart() -> None:
    seen: list[tuple[str, Tensor]] = []

    class Spy:
        def __init__(self, name: str):
            self.name = name

        def __call__(self, parent: Any, data: Any, generator: torch.Generator) -> Tensor:
            seen.append((self.name, parent["x"]))
            return Unconditional()(parent, data, generator)  # type: ignore[return-value]

    _, _, data = two()
    parts = [Part("a", "f ~>", Spy("a")), Part("b", "embed ~>", Spy("b"))]
    tree = Hypothesis(
        Part("top", "g -> out@in", Spy("top"), parts=parts, other=Spy("other of top")), sampler=Spy("root"), other=Spy("other of root")
    )
    drawn = draw(tree, data, data, 0).batches
    parent = dict(seen)
    assert [name for name, _ in seen] == ["root", "other of root", "top", "other of top", "a", "b"]
    assert torch.equal(parent["root"], data["x"])
    assert torch.equal(parent["other of root"], parent["top"])  # the root's own sample, which never reaches the model
    assert torch.equal(parent["a"], parent["b"])
    assert torch.equal(parent["other of top"], parent["a"])
    assert not torch.equal(parent["a"], parent["top"])
    assert not torch.equal(drawn["a"]["x"], drawn["b"]["x"])
    assert not torch.equal(drawn[""]["x"], parent["top"])


def test_all_arrays_of_an_example_move_together() -> None:
    _, _, data = two()
    for batch in draw(TREE, data, data, 0).batches.values():
        rows = [int(text) for text in batch["text"]]
        assert torch.equal(batch["x"], data["x"][rows])
        assert torch.equal(batch["labels"], data["labels"][rows])


def test_a_part_more_leaves_the_draws_of_the_others() -> None:
    _, _, data = two()
    less = draw(Hypothesis(TREE.parts[0]), data, data, 5).batches
    more = draw(TREE, data, data, 5).batches
    assert all(torch.equal(less[name]["x"], more[name]["x"]) for name in less)


def test_features_are_kept_and_classes_drawn_evenly() -> None:
    data = {"x": torch.arange(12.0).reshape(12, 1)}
    third = by(lambda batch: batch["x"][:, 0].long() % 3, "third")
    many = {"x": torch.tensor([[1.0], [2.0]]).repeat(3000, 1)}
    rows = third(many, data, torch.Generator().manual_seed(0))
    assert isinstance(rows, Tensor)
    assert torch.equal(rows % 3, many["x"][:, 0].long() % 3)
    counts = torch.bincount(rows, minlength=12).double()
    assert counts[0::3].sum() == 0
    assert float((counts[1::3] - 750).abs().max()) < 120


def test_samplers_may_make_examples_up() -> None:
    model, program, data = two()
    flipped = lambda parent, source, generator: {**parent, "x": -parent["x"]}  # noqa: E731
    result = scrub(program, Hypothesis(sampler=flipped), data, loss, seeds=(0,))
    with torch.no_grad():
        torch.testing.assert_close(result.scrubbed.loss[0], loss(model(-data["x"]), data).double(), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------ what is found


def test_the_exact_hypothesis_recovers_all_and_the_random_one_nothing() -> None:
    _, program, data = two()
    whole = scrub(program, Hypothesis(), data, loss)
    assert whole.recovered().value == 1
    assert (whole.changed, whole.cancelled, whole.alarm) == (0, 0, False)
    none = scrub(program, Hypothesis(sampler=unconditional), data, loss)
    assert none.recovered().value == 0  # the same draws as the baseline's
    assert none.loss.low < none.loss.value < none.loss.high


def test_baselines_have_names_and_the_constant_model_is_the_best_one() -> None:
    _, program, data = two()
    result = scrub(
        program, TREE, data, loss, baselines={"two nats": 2.0, "shuffled f": Hypothesis(Part("f", "f ~> out@in", unconditional))}
    )
    share = data["labels"].double().mean()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).item()
    assert result.constant is not None
    assert result.constant.loss.mean().item() == pytest.approx(entropy, abs=1e-6)
    assert result.constant.accuracy == pytest.approx(max(share, 1 - share).item())
    assert result.names == ["random", "shuffled f", "constant", "two nats"]
    model, found = result.exact.loss.mean().item(), result.loss.value
    assert result.recovered("two nats").value == pytest.approx((2 - found) / (2 - model))
    for name in result.names:
        assert result.recovered(name).low <= result.recovered(name).value <= result.recovered(name).high
    text = str(result)
    assert text.startswith("scrubbed: rewrite PROVED")
    assert all(name in text for name in ("seeds 0, 1, 2", "random", "constant", "two nats", "shuffled f", "cancels"))


def test_errors_that_cancel_raise_the_alarm() -> None:
    _, program, data = two()
    half = lambda parent, source, generator: {**parent, "x": parent["x"].roll(1, 0)}  # noqa: E731
    wrong = scrub(program, Hypothesis(sampler=half), data, lambda output, batch: output[:, 0] - output[:, 1], seeds=(0,))
    assert wrong.scrubbed.loss.mean().item() == pytest.approx(wrong.exact.loss.mean().item())  # the same numbers at other examples
    assert wrong.alarm
    assert wrong.cancelled > 0.99
    assert "ALARM" in str(wrong)


def test_features_that_nothing_else_shares_are_counted() -> None:
    _, program, data = two()
    result = scrub(program, Hypothesis(Part("f", "f ~> out@in", by(lambda batch: batch["x"], "everything"))), data, loss)
    assert result.alone == {"f": (N, N)}
    assert f"f: {N} of {N} examples share their feature with no other" in str(result)
    assert result.changed > 0  # all else is exchanged


def test_the_same_seeds_give_the_same_figures_and_chunks_do_not_matter() -> None:
    _, program, data = two()
    once, again = (scrub(program, TREE, data, loss, examples=20, seeds=(7,), memory=memory) for memory in (2**26, 1))
    torch.testing.assert_close(once.scrubbed.loss, again.scrubbed.loss, rtol=1e-5, atol=1e-6)
    assert once.scrubbed.loss.shape == (1, 20)
    assert bytes_a_row(program) >= 3 * 4 * 4


def test_a_static_program_runs_in_rows_of_its_example() -> None:
    model, program, data = two()
    static = trace(model, data["x"][:5], dynamic=False)
    wanted, found = (scrub(p, TREE, data, loss, seeds=(1,)).scrubbed.loss for p in (program, static))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------ errors, before the long part


def never(output: Any, batch: Any) -> Tensor:
    raise AssertionError("the model ran")


MISTAKES: dict[str, tuple[Any, Any, str]] = {
    "overlap": ([Part("a", "f ~> out@in", exact), Part("b", "f -> out@in", exact)], PassError, r"expected paths that do not overlap"),
    "the root is missed": ([Part("a", "f ~> f@in", exact)], PassError, r"expected a way ~> from f to f@in, got none"),
    "no site": ([Part("a", "q -> out@in", exact)], PassError, r"no site matches 'q'"),
    "a hop is missing": ([Part("a", "f g -> out@in", exact)], PassError, r"expected -> or ~>, got 'g'"),
    "what is read is meant": ([Part("a", "f -> out", exact)], PassError, r"got none\. Did you mean out@in"),
    "backwards": ([Part("a", "out ~> f", exact)], PassError, r"f is not downstream of it"),
    "a reader too many": (
        [Part("a", "g -> out@in", exact, parts=[Part("b", "f -> out@in", exact)])],
        InputError,
        r"part 'b': expected a path that ends in -> or ~>",
    ),
    "a feature for a sampler": ([Part("a", "f -> out@in", sign)], InputError, r"part 'a': expected a sampler.*write by\(sign\)"),
    "a name for a sampler": ([Part("a", "f -> out@in", "labels")], InputError, r"part 'a': expected a sampler.*got 'labels'"),
    "one name twice": (
        [Part("a", "f -> out@in", exact), Part("a", "g -> out@in", exact)],
        InputError,
        r"expected parts of names of their own",
    ),
    "no part": (["f -> out@in"], InputError, r"expected parts, got str"),
    "the feature's shape": (
        [Part("a", "f -> out@in", by(lambda b: b["x"].sum(), "sum"))],
        InputError,
        r"by\(sum\): expected one feature an example",
    ),
    "the draw's length": (
        [Part("a", "f -> out@in", lambda p, d, g: torch.arange(3))],
        InputError,
        r"sampler of 'a': expected 48 row numbers",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_anything_runs(case: str) -> None:
    parts, kind, message = MISTAKES[case]
    _, program, data = two()
    with pytest.raises(kind, match=message):
        scrub(program, Hypothesis(*parts), data, never)


@pytest.mark.parametrize(
    ("positions", "kind", "message"),
    [("42", SiteError, "index 42 is out of bounds"), ("42:50", InputError, "expected positions that the data have, got none of them")],
)
def test_positions_that_the_data_do_not_have_are_named(positions: str, kind: Any, message: str) -> None:
    data = {"input_ids": tokens(strings(8, seed=0))}
    program = trace(load_balancer(), data["input_ids"])
    inner = Part("b", f"blocks.2.attn@in@[:, {positions}] ~>", exact)
    with pytest.raises(kind, match=message):
        scrub(program, Hypothesis(Part("a", "blocks.2.attn -> ln_f@in", exact, parts=[inner])), data, never)


def test_a_feature_without_a_match_is_an_error() -> None:
    odd = Hypothesis(Part("a", "f -> out@in", by(sign, "sign")))
    with pytest.raises(InputError, match=r"by\(sign\): expected an example of the data with the feature of example 0, \[1\.0\], got none"):
        draw(odd, {"x": torch.ones(2, 3)}, {"x": -torch.ones(4, 3)}, 0)


def test_a_loss_that_averages_is_an_error() -> None:
    _, program, data = two()
    with pytest.raises(InputError, match=r"Do not average over the batch"):
        scrub(program, TREE, data, lambda output, batch: loss(output, batch).mean())


def test_a_rewrite_that_is_another_function_is_refused() -> None:
    _, program, data = two()
    wrong = program.apply(surrogate.at("f", f=nn.Linear(3, 4).eval().requires_grad_(False)))
    changed = unshared(wrong, Hypothesis())
    node = next(n for n in changed.graph.nodes if n.target is torch.ops.aten.sub.Tensor)
    node.target = torch.ops.aten.add.Tensor
    with pytest.raises(TautomerError, match=r"expected a rewrite that is the same function, got rewrite REFUTED"):
        scrub(wrong, Hypothesis(), data, loss)
    assert "rewrite REFUTED" in str(scrub(wrong, Hypothesis(), data, loss, seeds=(0,), unproved=True))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seeds": (0, 0)}, "seeds of their own"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": 3}, "whole numbers"),
        ({"seeds": (-1,)}, "whole numbers from 0"),
        ({"examples": 0}, "at least one example"),
        ({"baselines": {"": 1.0}}, "a name of its own"),
        ({"baselines": {"random": 1.0}}, "a name of its own"),
        ({"baselines": {"mine": "1"}}, "a number or a Hypothesis"),
        ({"baselines": {"mine": float("nan")}}, "a number or a Hypothesis"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_runs(wrong: dict[str, Any], said: str) -> None:
    _, program, data = two()

    def never(output: Any, batch: Any) -> Tensor:
        raise AssertionError("run")

    with pytest.raises(InputError, match=said):
        scrub(program, TREE, data, never, **wrong)
