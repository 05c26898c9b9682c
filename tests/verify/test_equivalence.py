"""Verdicts: correct rewrites are proved, true but underivable ones never refuted, and every obligation is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from passes import direction, gates, heads, neurons, norm, paths
from rewrite import Terms, split, trace
from rewrite.errors import InputError
from tests.verify.programs import normal, plain, tiny, toy, variant
from tests.verify.toy import CORRECT, Toy, example, varied
from verify import Verdict, equivalence

MLP = {"gpt2": "transformer.h.1.mlp", "llama": "model.layers.1.mlp", "mixtral": "model.layers.1.mlp", "bert": "bert.encoder.layer.1.output"}
FINAL = {"gpt2": "transformer.ln_f@in", "llama": "model.norm@in", "mixtral": "model.norm@in"}


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_rewrite_is_proved(name: str) -> None:
    report = equivalence(toy(), variant(name))
    assert report.verdict is Verdict.PROVED, str(report)
    assert report.log2_bound is not None
    assert report.log2_bound <= -20
    assert report.drift.verdict == "rounding only"
    assert report.exit_code() == 0


@pytest.mark.parametrize("name", MLP)
def test_a_pass_on_a_transformer_is_proved_with_its_claims(name: str) -> None:
    program = tiny(name).apply(direction.at(MLP[name], d=normal(32), name="fire"))
    report = equivalence(program)
    assert report.proved, str(report)
    assert [claim.status for claim in report.claims] == ["proved", "proved"]


@pytest.mark.parametrize("name", FINAL)
def test_passes_compose(name: str) -> None:
    mlp = MLP[name]
    several = [
        direction.at(mlp, d=normal(32), name="fire"),
        norm.at(FINAL[name].removesuffix("@in")),
        paths.at(f"{mlp}/fire -> {FINAL[name]}"),
    ]
    program = tiny(name).apply(*several, gates.at(f"{mlp}/fire -> {FINAL[name]}"))
    report = equivalence(program)
    assert report.proved, str(report)


def test_families_prove_their_claims_for_every_member() -> None:
    report = equivalence(tiny("gpt2").apply(heads.at("transformer.h.*.attn"), neurons.at("transformer.h.0.mlp")))
    assert report.proved, str(report)
    assert any(claim.members == "all 4 members" for claim in report.claims)


def test_a_small_bound_is_reached() -> None:
    report = equivalence(tiny("llama"), bound=2**-40)
    assert report.proved
    assert report.log2_bound is not None
    assert report.log2_bound <= -40


def test_cancellation_is_proved_and_reported_unusable() -> None:
    report = equivalence(toy(), variant("c_resbig"))
    assert report.proved
    assert report.drift.usable == "unusable in float32"
    assert "unusable in float32" in str(report)


def test_a_failing_claim_is_not_proved() -> None:
    @split
    def projection(y: Tensor, *, d: Tensor) -> Terms:
        along = (y @ d).unsqueeze(-1) * d  # d is not of length one
        return Terms(along, rest=y - along)

    @projection.claim("the rest has no component along d")
    def _(t: Terms, y: Tensor, *, d: Tensor):
        return t.rest @ d, 0

    report = equivalence(tiny("gpt2").apply(projection.at("transformer.h.0.mlp", d=normal(32))))
    assert report.verdict is Verdict.PROVED
    assert not report.proved
    assert [claim.status for claim in report.claims] == ["fails"]
    assert report.exit_code() == 3


def test_terms_that_do_not_sum_are_refuted_at_their_site_and_step() -> None:
    @split
    def half(y: Tensor) -> Terms:
        return Terms(y / 2, rest=y / 2 + y * 1e-6)

    program = tiny("gpt2").apply(
        direction.at("transformer.h.0.mlp", d=normal(32)), half.at("transformer.h.1.attn"), norm.at("transformer.ln_f")
    )
    report = equivalence(program)
    assert report.verdict is Verdict.REFUTED
    assert report.exit_code() == 1
    assert report.site.startswith("transformer.h.1.attn")
    assert report.step == "2 of 3, half at transformer.h.1.attn"


# Weights


def test_other_weights_are_refuted_and_waived_on_request() -> None:
    report = equivalence(toy(), toy(5))
    assert report.verdict is Verdict.REFUTED
    assert any("other weights: wte.weight" in reason for reason in report.reasons)
    assert equivalence(toy(), toy(5), weights="any").verdict is Verdict.PROVED


def test_permuted_neurons_are_other_weights_but_never_refuted() -> None:
    def permuted(model: Toy) -> None:
        mlp, order = model.block(0).mlp, torch.randperm(24)
        mlp.up.weight.copy_(mlp.up.weight[order])
        mlp.up.bias.copy_(mlp.up.bias[order])
        mlp.down.weight.copy_(mlp.down.weight[:, order])

    report = equivalence(toy(), trace(varied(permuted), **example(), dynamic=False))
    assert report.verdict is Verdict.DIFFERS
    assert report.witness is None
    assert any("other weights: blocks.0.mlp.up.weight" in reason for reason in report.reasons)


def test_weights_tied_in_one_of_them_only() -> None:
    two = [normal(4, 4), normal(4, 4)]
    loose = plain(lambda a, b, x: x @ a @ b, normal(3, 4), *two)
    tied = replace(loose, tensors={**loose.tensors, "w.1": loose.tensors["w.0"]})
    report = equivalence(loose, tied)
    assert report.verdict is Verdict.DIFFERS
    assert any("tied in one of them only: w.1" in reason for reason in report.reasons)


def test_weights_are_matched_by_a_given_map() -> None:
    a, b = normal(4, 4, seed=1), normal(4, 4, seed=2)
    one, other = plain(lambda a, b, x: x @ a @ b, normal(3, 4), a, b), plain(lambda b, a, x: x @ a @ b, normal(3, 4), b, a)
    assert equivalence(one, other).verdict is Verdict.DIFFERS  # the numbers are the same, the weights of these names are not
    assert equivalence(one, other, match={"w.0": "w.1", "w.1": "w.0"}).proved


def test_a_dropped_bias_of_zeros_is_seen() -> None:
    w, b = normal(4, 4), torch.zeros(4)
    report = equivalence(plain(lambda w, b, x: x @ w + b, normal(3, 4), w, b), plain(lambda w, b, x: x @ w, normal(3, 4), w, b))
    assert report.verdict is Verdict.DIFFERS
    assert report.drift.outputs.rho == 0.0


def test_meta_weights_are_proved_only_as_the_same_objects() -> None:
    with torch.device("meta"):
        model = Toy().eval()
        program = trace(model, **example(), dynamic=False)
        other = trace(Toy().eval(), **example(), dynamic=False)
    report = equivalence(program)
    assert report.verdict is Verdict.PROVED
    assert "ladder not run: no values" in str(report)
    report = equivalence(program, other)
    assert report.verdict is Verdict.DIFFERS
    assert any("no values" in reason for reason in report.reasons)


# What the theory cannot derive is never called refuted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.relu(), lambda x: x.relu().relu()),
        (lambda x: (2 * x).relu(), lambda x: 2 * x.relu()),
        (lambda x: x.sin() ** 2 + x.cos() ** 2, lambda x: x * 0 + 1),
        (lambda x: (x + 1).exp(), lambda x: x.exp() * torch.ones(()).exp()),
        (lambda x: x.logsumexp(-1), lambda x: x.exp().sum(-1).log()),
        (lambda x: x + torch.relu(-x.abs()), lambda x: x),
    ],
)
def test_a_true_equation_is_never_refuted(one, other) -> None:
    report = equivalence(plain(one, normal(3, 4)), plain(other, normal(3, 4)))
    assert report.verdict in (Verdict.PROVED, Verdict.DIFFERS), str(report)
    assert report.verdict is Verdict.PROVED or any(reason.startswith("not derivable from") for reason in report.reasons)


def test_signs_of_products_are_proved_in_another_theory() -> None:
    report = equivalence(plain(lambda x: x.relu(), normal(3, 4)), plain(lambda x: x.relu().relu(), normal(3, 4)))
    assert report.verdict is Verdict.PROVED
    assert "signs as quadratic characters" in report.theory
    assert report.log2_bound is not None
    assert report.log2_bound <= -20


def test_an_op_without_exact_meaning_is_at_most_consistent() -> None:
    report = equivalence(plain(lambda x: x.cumprod(-1) + x, normal(3, 4)), plain(lambda x: x + x.cumprod(-1), normal(3, 4)))
    assert report.verdict is Verdict.CONSISTENT
    assert "cumprod" in str(report)
    assert report.exit_code() == 3
    assert report.exit_code(require="consistent") == 0


def test_a_degree_beyond_the_primes_is_never_proved() -> None:
    def tower(x: Tensor) -> Tensor:
        for _ in range(24):
            x = x * x
        return x

    report = equivalence(plain(tower, normal(2, 2)), plain(lambda x: tower(x) + 0, normal(2, 2)))
    assert report.verdict is not Verdict.PROVED
    assert "bound" in str(report)


# Gates and gradients


def test_an_edited_program_is_edited() -> None:
    program = tiny("gpt2").apply(gates.at("transformer.h.0.mlp"))
    assert equivalence(program).proved
    program.gates["transformer.h.0.mlp"].g = 0.0
    report = equivalence(program)
    assert report.verdict is Verdict.EDITED
    assert report.exit_code("consistent") == 3
    assert "gate transformer.h.0.mlp at (g, h) = (0, 0)" in report.reasons
    assert "with all gates open: proved" in report.reasons


def test_gradients_are_proved_and_measured() -> None:
    report = equivalence(toy(), variant("c_res"), gradients=True)
    assert report.verdict is Verdict.PROVED
    assert report.drift.gradients is not None
    assert report.drift.gradients.rho <= 64


def test_a_detached_remainder_has_other_gradients() -> None:
    w = normal(4, 4)
    one = plain(lambda w, x: x @ w, normal(3, 4), w)
    other = plain(lambda w, x: x @ w * 2 - (x @ w).detach(), normal(3, 4), w)
    assert equivalence(one, other).verdict is Verdict.PROVED
    report = equivalence(one, other, gradients=True)
    assert report.verdict is Verdict.REFUTED
    assert "gradients: differ" in str(report)


# Scope


def test_mask_patterns_are_those_given() -> None:
    program, inputs = tiny("bert"), dict(tiny("bert").example[1])
    other = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    report = equivalence(program, inputs=[inputs, other])
    assert report.proved
    assert "attention_mask [2, 7] (a mask, 2 patterns as given)" in report.scope["inputs"]


def test_roles_can_be_set() -> None:
    report = equivalence(tiny("gpt2"), roles={"input_ids": "mask"})
    assert report.proved
    assert "input_ids [2, 7] (a mask, 1 pattern as given)" in report.scope["inputs"]


def test_a_seed_is_said_and_gives_the_same_key() -> None:
    one, other = equivalence(toy(), seed=3), equivalence(toy(), seed=3)
    assert one.key == other.key
    assert "from the seed given" in str(one)
    assert equivalence(toy()).key != equivalence(toy()).key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "some"}, "expected weights='same' or 'any', got 'some'"),
        ({"bound": 2.0}, "expected a bound between 0 and 1, got 2.0"),
        ({"roles": {"idz": "ids"}}, r"expected inputs among \['ids'\], got 'idz'. Nearest: 'ids'"),
        ({"roles": {"ids": "id"}}, "expected one of values, ids, mask, got 'id'"),
        ({"roles": {"ids": "values"}}, "expected a role that fits torch.int64, got 'values'"),
        ({"match": {"wte.weight": "nothing"}}, "expected a name of the first program, got 'nothing'"),
        ({"match": {"wpe.weight": "wte.weight"}}, r"expected shape \[23, 16\] as of 'wte.weight', got \[6, 16\]"),
        ({"match": {"ids": "wte.weight"}}, "expected an input of the first program, as ids is one, got a weight, 'wte.weight'"),
        ({"match": {"wte.weight": "ids"}}, "expected a weight of the first program, as wte.weight is one, got an input, 'ids'"),
        ({"match": {"ids": 3}}, "expected match as a dict of names, got"),
        ({"progress": "yes"}, "equivalence: expected progress as a function of a text, got str"),
        ({"inputs": 3}, "expected inputs as a dict of arguments"),
        ({"inputs": {"ids": torch.zeros(2, 6)}}, "ids: expected torch.int64, got torch.float32"),
    ],
)
def test_misuse_is_an_error(arguments, message: str) -> None:
    with pytest.raises(InputError, match=message):
        equivalence(toy(), toy(), **arguments)


class Weighed(nn.Module):
    """One input less twice the other, under names of one's own."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x - 2 y. Shapes: any, the same."""
        return x - 2 * y


class Turned(nn.Module):
    """The same with the inputs in the other order."""

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """q - 2 p. Shapes: any, the same."""
        return q - 2 * p


@pytest.mark.parametrize("given", [{"p": "y"}, {"q": "x"}, {"p": "y", "q": "x"}])
def test_inputs_are_matched_as_asked_and_the_others_by_position(given: dict[str, str]) -> None:
    a, b = (trace(kind().eval(), normal(2, 3), normal(2, 3, seed=1)) for kind in (Weighed, Turned))
    assert equivalence(a, b, match=given, seed=0).proved
    assert equivalence(a, b, seed=0).verdict is Verdict.REFUTED
    wrong = {name: "xy"[other == "x"] for name, other in given.items()}
    assert equivalence(a, b, match=wrong, seed=0).verdict is Verdict.REFUTED


class Made(nn.Module):
    """What a function makes of a value."""

    def __init__(self, made: Callable[[Tensor], Tensor]):
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        return self.made(x)


@pytest.mark.parametrize(
    ("other", "why"),
    [(lambda x: x / x, "divisions, which may be by zero: div"), (lambda x: 1 + x.abs().log() - x.abs().log(), "no division: ")],
    ids=["a quotient", "a logarithm"],
)
def test_what_is_no_number_at_the_inputs_given_is_not_proved_and_says_so(other: Callable[[Tensor], Tensor], why: str) -> None:
    x = torch.tensor([[2.0, 3.0], [4.0, 5.0]])
    one, second = (trace(Made(made).eval(), x) for made in (torch.ones_like, other))
    assert equivalence(one, second, seed=0).verdict is Verdict.PROVED
    report = equivalence(one, second, inputs={"x": torch.zeros(2, 2)}, seed=0)
    assert report.verdict is Verdict.UNKNOWN
    assert "is infinite or NaN where that of the first is not" in report.reasons[0]
    assert report.reasons[1].startswith(why)
    assert equivalence(second, one, inputs={"x": torch.zeros(2, 2)}, seed=0).verdict is Verdict.PROVED  # wherever both are defined
