"""Frozen values: the same function until something upstream is edited, and then still the un-edited value."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from passes import direction, freeze, gates, heads, norm, paths
from rewrite import Free, PassError, Program, load, rewire
from rewrite.law import Law
from tests.passes.checking import assert_claim_fails, assert_close, assert_moved, draw, layer, logits, proved, traced
from verify import equivalence

SENTENCE = "it is the un-edited value, whatever it is set to upstream"


def frozen_layer(law: Law = freeze) -> Program:
    """The small layer, its norm written out with the scale frozen, a gate on attention."""
    return layer()[2].apply(norm.at("ln_f"), gates.at("attn"), law.at("ln_f/scale"))


def test_it_is_the_same_function_and_its_gradient_is_not() -> None:
    program = frozen_layer()
    assert SENTENCE in {claim.sentence for claim in proved(program).claims}
    report = equivalence(program, gradients=True, seed=0)
    assert not report.proved
    assert "gradients: differ" in "; ".join(report.reasons)


def scales(program: Program, **edit: float) -> Tensor:
    return program.run({}, layer()[1], edit=edit, read=["ln_f/scale"])[1]["ln_f/scale"]


def test_no_edit_upstream_moves_it() -> None:
    program = frozen_layer()
    x = layer()[1]
    before, output = scales(program), program(x)
    program.gates["attn"].g = 0
    assert torch.equal(scales(program), before)
    assert_moved(program(x), output)
    assert torch.equal(scales(program, mlp=0.0, **{"@in": 1.0}), before)


def test_an_edit_at_the_value_itself_still_counts() -> None:
    program = frozen_layer()
    assert_moved(program.run({}, layer()[1], edit={"ln_f/scale": 0.0})[0], program(layer()[1]))


def test_the_output_is_that_of_a_model_with_the_scale_held() -> None:
    model, x = cast(Any, layer()[0]), layer()[1]
    program = frozen_layer()
    with torch.no_grad():
        scale = 1 / torch.sqrt(_before_norm(model, x, 1.0).var(-1, keepdim=True, correction=0) + model.ln_f.eps)
        y = _before_norm(model, x, 0.25)
        wanted = (y - y.mean(-1, keepdim=True)) * scale * model.ln_f.weight + model.ln_f.bias
        program.gates["attn"].g = 0.25
        assert_close(program(x), wanted)


def _before_norm(model: Any, x: Tensor, factor: float) -> Tensor:
    x = x + factor * model.attn(model.ln(x))
    return x + model.mlp(x)


def test_a_gate_that_was_closed_before_is_left_out_too() -> None:
    program = layer()[2].apply(norm.at("ln_f"), gates.at("attn"), heads.at("attn.out"), gates.at("attn.out/head"))
    before = scales(program)
    program.gates["attn"].g = 0
    program.gates["attn.out/head"].g = torch.tensor([0.0, 2.0])
    assert_moved(scales(program), before)
    assert_close(scales(program.apply(freeze.at("ln_f/scale"))), before)


def test_it_is_saved_with_its_copy(tmp_path: Path) -> None:
    program = frozen_layer()
    program.save(tmp_path / "frozen")
    again = load(tmp_path / "frozen")
    again.gates["attn"].g = 0
    assert torch.equal(scales(again), scales(program))
    assert proved(load(tmp_path / "frozen")).claims


def test_rewrites_made_later_do_not_reach_the_copy() -> None:
    program = frozen_layer().apply(direction.at("mlp", d=draw(8), name="d"), gates.at("mlp/d"))
    before = scales(program)
    program.gates["mlp/d"].g = 3
    assert torch.equal(scales(program), before)


def test_a_path_leads_through_a_frozen_norm() -> None:
    model, example, program = traced("llama")
    program = program.apply(norm.at("model.norm"), freeze.at("model.norm/scale"), paths.at("model.layers.0.mlp -> model.norm/affine"))
    path = "model.layers.0.mlp -> model.norm/affine"
    with torch.no_grad():
        values = program.values(["model.layers.0.mlp", "model.norm/scale"], **example)
        direct = values["model.layers.0.mlp"] * values["model.norm/scale"] * program.tensors["model.norm.weight"]
        found = program.run(example, edit={path: 0.0})[0].logits
        assert_close(found, logits(model, example) - direct @ program.tensors["lm_head.weight"].T, 64)


# ------------------------------------------------------------------------------------------------ wrong versions


@rewire
def not_frozen(read: Tensor, unedited: Tensor) -> Tensor:
    return read + unedited - unedited


@rewire
def half_frozen(read: Tensor, unedited: Tensor) -> Tensor:
    return (read + unedited.detach()) / 2


@pytest.mark.parametrize("law", [not_frozen, half_frozen])
def test_what_is_not_frozen_is_the_same_function_but_fails_the_claim(law: Law) -> None:
    law.claims = list(freeze.claims)
    program = frozen_layer(law)
    assert equivalence(program, seed=0).verdict.value == "PROVED"
    assert_claim_fails(program, SENTENCE)
    before = scales(program)
    program.gates["attn"].g = 0
    assert_moved(scales(program), before)


# ------------------------------------------------------------------------------------------------ refusals


@rewire
def squared(read: Tensor, *, g: Tensor = Free(1.0), h: Tensor = Free(0.0), r: Tensor = Free(0.0)) -> Tensor:  # type: ignore[assignment]
    return g**2 * read + h * r


def test_refusals_say_why() -> None:
    program = layer()[2]
    with pytest.raises(PassError, match="it is a family"):
        program.apply(heads.at("attn"), freeze.at("attn/head"))
    with pytest.raises(PassError, match="got the term of attn -> ln_f@in. Apply this first, then the path"):
        program.apply(paths.at("attn -> ln_f@in"), freeze.at("attn"))
    with pytest.raises(PassError, match=r"a gate of the form g \* read \+ h \* r"):
        program.apply(squared.at("attn"), freeze.at("ln_f"))
