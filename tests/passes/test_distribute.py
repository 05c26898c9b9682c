"""Affine maps of sums: a term for each summand, equal to what is worked out by hand, summing to the site."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from passes import direction, distribute, freeze, gates, heads, norm, paths
from rewrite import PassError, Program, Terms, split, trace
from rewrite.law import Law
from tests.models import WIDTH
from tests.passes.checking import (
    NORM,
    assert_claim_fails,
    assert_close,
    assert_refuted,
    attention,
    draw,
    layer,
    logits,
    mlp,
    proved,
    traced,
)

SENTENCE = "each term reads its own summand only"
Map = Callable[[Tensor], Tensor]


def logit_terms(name: str, *first: Any) -> Program:
    """A model with its logits distributed over the residual stream, the final norm's scale frozen."""
    return traced(name)[2].apply(*first, norm.at(NORM[name]), freeze.at(f"{NORM[name]}/scale"), distribute.at("lm_head"))


def test_terms_are_direct_logit_attributions_of_gpt2() -> None:
    model, example = cast(Any, traced("gpt2")[0]), traced("gpt2")[1]
    program = logit_terms("gpt2")
    terms = program.values("lm_head/from.**", **example)
    wanted = ["transformer.wte", "transformer.wpe", *(f"transformer.h.{i}.{part}" for i in (0, 1) for part in ("attn", "mlp"))]
    assert set(terms) == {f"lm_head/from.{name}" for name in (*wanted, "bias")}
    kept: dict[str, Tensor] = {}
    handles = [model.get_submodule(name).register_forward_hook(keep(kept, name)) for name in (*wanted, "transformer.h.1")]
    output = logits(model, example)
    for handle in handles:
        handle.remove()
    ln, unembed, x = model.transformer.ln_f, model.lm_head.weight, kept["transformer.h.1"]
    scale = 1 / torch.sqrt(x.var(-1, keepdim=True, correction=0) + ln.eps)
    with torch.no_grad():
        for name in wanted:
            by_hand = ((kept[name] - kept[name].mean(-1, keepdim=True)) * scale * ln.weight) @ unembed.T
            assert_close(terms[f"lm_head/from.{name}"], by_hand.expand_as(output), 64)
        assert_close(terms["lm_head/from.bias"], (ln.bias @ unembed.T).expand_as(output))
    assert_close(torch.stack(list(terms.values())).sum(0), output, 64)


def keep(kept: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        kept[name] = (output[0] if isinstance(output, tuple) else output).detach()

    return hook


@pytest.mark.parametrize("name", [pytest.param("gpt2", marks=pytest.mark.slow), "llama"])
def test_terms_of_terms_sum_to_the_logits(name: str) -> None:
    first = [heads.at(attention(name, "*")), direction.at(mlp(name, 1), d=draw(WIDTH), name="d")]
    model, example, _ = traced(name)
    program = logit_terms(name, *first)
    terms = program.values("lm_head/from.**", **example)
    for summand in (f"{attention(name, 0)}/head", f"{mlp(name, 1)}/d", f"{mlp(name, 1)}/d.rest", mlp(name, 0)):
        assert f"lm_head/from.{summand}" in terms
    assert_close(torch.stack(list(terms.values())).sum(0), logits(model, example), 64)


def small() -> Program:
    """The small layer, its last norm's output distributed."""
    return layer()[2].apply(norm.at("ln_f"), freeze.at("ln_f/scale"), distribute.at("ln_f"))


def test_it_is_proved_and_so_is_the_claim() -> None:
    assert SENTENCE in {claim.sentence for claim in proved(small()).claims}


def test_a_gate_on_a_term_is_the_direct_effect_only() -> None:
    x = layer()[1]
    program = small().apply(gates.at("ln_f/from.attn"))
    term, output = program.values("ln_f/from.attn", x)["ln_f/from.attn"], program(x)
    program.gates["ln_f/from.attn"].g = 0
    assert_close(program(x), output - term, 64)


def test_a_gate_on_the_writer_reaches_its_term() -> None:
    x = layer()[1]
    program = small().apply(gates.at("mlp"))
    term, output = program.values("ln_f/from.mlp", x)["ln_f/from.mlp"], program(x)
    program.gates["mlp"].g = 0.5
    assert_close(program(x), output - term / 2, 64)


def test_an_edit_of_a_term_made_before_reaches_what_is_made_of_it() -> None:
    x = layer()[1]
    program = layer()[2].apply(
        direction.at("mlp", d=draw(8), name="d"), norm.at("ln_f"), freeze.at("ln_f/scale"), distribute.at("ln_f"), gates.at("mlp/d")
    )
    term, output = program.values("ln_f/from.mlp/d", x)["ln_f/from.mlp/d"], program(x)
    program.gates["mlp/d"].g = 0
    assert_close(program(x), output - term, 64)


class Weighted(nn.Module):
    """A sum with coefficients, one of them a parameter, of which one summand cancels: modules `a`, `b`, `c`, `out`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.scale = nn.Parameter(torch.linspace(1, 2, 8))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), torch.tanh(self.c(x))
        return self.out((0.22 * a - self.scale * b + c) - (c - torch.relu(c)))


def test_coefficients_are_kept_and_what_cancels_is_left_out() -> None:
    torch.manual_seed(0)
    model, x = Weighted().eval(), draw(2, 3, 8)
    program = trace(model, x).apply(distribute.at("out"))
    proved(program)
    terms = program.values("out/**", x)
    assert set(terms) == {"out/from.a", "out/from.b", "out/from.relu", "out/from.bias"}
    with torch.no_grad():
        assert_close(terms["out/from.a"], 0.22 * model.a(x) @ model.out.weight.T)
        assert_close(terms["out/from.b"], -(model.scale * model.b(x)) @ model.out.weight.T)


def test_a_path_is_a_summand_of_its_own() -> None:
    model, x, program = cast(Any, layer()[0]), layer()[1], layer()[2]
    program = program.apply(paths.at("attn -> ln_f@in"), distribute.at("ln_f@in"), gates.at("attn -> ln_f@in"))
    proved(program)
    program.gates["attn -> ln_f@in"].g = 0
    with torch.no_grad():
        middle = x + model.attn(model.ln(x))
        assert_close(program(x), model.ln_f(x + model.mlp(middle)))


def test_over_says_which_sum() -> None:
    program = layer()[2].apply(norm.at("ln_f"), freeze.at("ln_f/scale"), distribute.at("ln_f/affine", over="ln_f@in"))
    assert {row.address for row in program.sites("ln_f/affine/**")} >= {"ln_f/affine/from.attn", "ln_f/affine/from.bias"}
    with pytest.raises(PassError, match="is not a sum"):
        layer()[2].apply(distribute.at("mlp.2", over="mlp.2@in"))
    with pytest.raises(PassError, match=r"layer_norm.*norm writes a norm out, freeze holds its scale fixed"):
        layer()[2].apply(distribute.at("ln_f", over="ln_f@in"))
    with pytest.raises(PassError, match="pow .* is not affine. Freeze a value behind it"):
        layer()[2].apply(norm.at("ln_f"), distribute.at("ln_f", over="ln_f@in"))


# ------------------------------------------------------------------------------------------------ wrong versions


@split(of="sum", name="from")
def no_constant(summands: Mapping[str, Tensor], through: Map, constant: Tensor | None) -> Terms:
    return Terms(**{name: through(x) for name, x in summands.items()})


@split(of="sum", name="from")
def constant_twice(summands: Mapping[str, Tensor], through: Map, constant: Tensor | None) -> Terms:
    assert constant is not None
    return Terms(**{name: through(x) + (constant if name == "attn" else 0) for name, x in summands.items()}, bias=constant)


@pytest.mark.parametrize("law", [no_constant, constant_twice])
def test_wrong_sums_are_not_proved(law: Law) -> None:
    assert_refuted(layer()[2].apply(norm.at("ln_f"), freeze.at("ln_f/scale"), law.at("ln_f")))


@split(of="sum", name="from")
def exchanged(summands: Mapping[str, Tensor], through: Map, constant: Tensor | None, *, over: str | None = None) -> Terms:
    names = list(summands)
    return Terms(**{name: through(summands[other]) for name, other in zip(names, names[1:] + names[:1], strict=True)}, bias=constant)


def test_terms_under_other_names_fail_the_claim() -> None:
    exchanged.claims = list(distribute.claims)
    assert_claim_fails(layer()[2].apply(norm.at("ln_f"), freeze.at("ln_f/scale"), exchanged.at("ln_f")), SENTENCE)
