"""Edits of terms do what a hook written by hand does to the model, through a run and through a gate; nothing cancels them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passes import dictionary, direction, gates, heads, neurons, norm, paths, subspace, surrogate
from rewrite import Bound
from tests.models import HEADS, WIDTH
from tests.passes.checking import (
    assert_close,
    assert_edit,
    attention,
    draw,
    hooked,
    logits,
    mlp,
    sae,
    surrogate_site,
    traced,
    transcoder,
    zeroed,
)

HEAD = WIDTH // HEADS
OUT = {"gpt2": "transformer.h.0.attn.c_proj", "llama": "model.layers.0.self_attn.o_proj", "mixtral": "model.layers.0.self_attn.o_proj"}
DOWN = {"gpt2": "transformer.h.1.mlp.c_proj", "llama": "model.layers.1.mlp.down_proj", "bert": "bert.encoder.layer.1.output.dense"}
ALL = ("gpt2", "llama", "mixtral", "bert")


def both(model: str, bound: Bound, term: str, path: str, **hook: Any) -> None:
    """Zeroing `term` by an edit, and by its gate, gives what the hooked model gives."""
    original, example, program = traced(model)
    rewritten = program.apply(bound)
    gated = rewritten.apply(gates.at(term))
    assert_close(logits(gated, example), logits(rewritten, example), 8)
    gated.gates[term].g = 0.0
    with hooked(original, path, **hook):
        found = assert_edit(rewritten, {term: 0.0}, original, example)
    assert_close(logits(gated, example), found, 64)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("head", [0, 2])
def test_heads(name: str, head: int) -> None:
    at = attention(name)
    mine = slice(head * HEAD, (head + 1) * HEAD)
    both(name, heads.at(at), f"{at}/head[{head}]", OUT.get(name, at), inputs=zeroed(mine))


@pytest.mark.parametrize("name", ALL)
def test_the_coordinate_of_a_head_is_its_slice(name: str) -> None:
    at, (model, example, program) = attention(name), traced(name)
    rewritten = program.apply(heads.at(at))
    with hooked(model, OUT.get(name, at), inputs=zeroed(slice(HEAD, 2 * HEAD))):
        assert_edit(rewritten, {f"{at}/head[1]@act": 0.0}, model, example)


@pytest.mark.parametrize("name", DOWN)
def test_neurons(name: str) -> None:
    at = mlp(name, 1)
    both(name, neurons.at(at), f"{at}/neuron[5]", DOWN[name], inputs=zeroed(5))


@pytest.mark.parametrize("name", ALL)
def test_directions(name: str) -> None:
    at, d = mlp(name, 0), draw(WIDTH, seed=1)
    unit = d / d.norm()
    both(name, direction.at(at, d=d), f"{at}/direction", at, output=lambda x, y: y - (y @ unit)[..., None] * unit)
    both(name, direction.at(at, d=d), f"{at}/direction.rest", at, output=lambda x, y: (y @ unit)[..., None] * unit)


@pytest.mark.parametrize("name", ALL)
def test_subspaces(name: str) -> None:
    at, basis = mlp(name, 0), draw(3, WIDTH, seed=1)
    q = torch.linalg.qr(basis.T).Q
    both(name, subspace.at(at, basis=basis), f"{at}/subspace", at, output=lambda x, y: y - y @ q @ q.T)


@pytest.mark.parametrize("name", ALL)
def test_features(name: str) -> None:
    at, s = mlp(name, 0), sae()

    def without(x: Tensor, y: Tensor) -> Tensor:
        activation = torch.relu((y - s["b_dec"]) @ s["W_enc"] + s["b_enc"])[..., 3:4]
        return y - activation * s["W_dec"][3]

    both(name, dictionary.at(at, sae=s), f"{at}/feature[3]", at, output=without)


@pytest.mark.parametrize("name", ALL)
def test_surrogates(name: str) -> None:
    at, f = surrogate_site(name), transcoder()
    both(name, surrogate.at(at, f=f), f"{at}/surrogate", at, output=lambda x, y: y - f(x))


@pytest.mark.parametrize("name", ALL)
def test_an_edit_inside_a_surrogate_is_not_cancelled(name: str) -> None:
    at, f = surrogate_site(name), transcoder()
    model, example, program = traced(name)
    cut = nn.Sequential(f[0], f[1])

    def without(x: Tensor, y: Tensor) -> Tensor:
        return y - f(x) + f[2](zeroed(slice(0, 10))(cut(x)))

    with hooked(model, at, output=without):
        assert_edit(program.apply(surrogate.at(at, f=f)), {f"{at}/surrogate/1": zeroed(slice(0, 10))}, model, example)


def test_the_parts_of_a_norm() -> None:
    model, example, program = traced("gpt2")
    rewritten = program.apply(norm.at("transformer.ln_f"))
    ln: Any = model.get_submodule("transformer.ln_f")

    def at_scale_two(x: Tensor, y: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) * 2 * ln.weight + ln.bias

    with hooked(model, "transformer.ln_f", output=at_scale_two):
        assert_edit(rewritten, {"transformer.ln_f/scale": 2.0}, model, example)
    with hooked(model, "transformer.ln_f", output=lambda x, y: ln.bias.expand_as(y)):
        assert_edit(rewritten, {"transformer.ln_f/centred": 0.0}, model, example)


def test_a_path_changes_its_reader_only() -> None:
    _, example, program = traced("gpt2")
    path = "transformer.h.0.mlp -> transformer.h.1.ln_1@in"
    term = program.values("transformer.h.0.mlp", **example)["transformer.h.0.mlp"].detach()
    both("gpt2", paths.at(path), path, "transformer.h.1.ln_1", inputs=lambda x: x - term)
    rewritten = program.apply(paths.at(path))
    _, read = rewritten.run(example, edit={path: 0.0}, read=["transformer.h.0.mlp", "transformer.h.0"])
    for address, value in read.items():
        assert torch.equal(value, program.values(address, **example)[address])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rewriting_an_input_rewrites_its_own_readers_only(name: str) -> None:
    inside = {"gpt2": "transformer.h.0.ln_1", "llama": "model.layers.0.input_layernorm"}[name]  # the residual stream reads the same value
    d = draw(WIDTH, seed=1)
    unit = d / d.norm()
    both(name, direction.at(f"{inside}@in", d=d), f"{inside}@in/direction", inside, inputs=lambda x: x - (x @ unit)[..., None] * unit)


def test_gates_patch_and_steer() -> None:
    model, example, program = traced("llama")
    at = mlp("llama", 0)
    gated, r = program.apply(gates.at(at)), draw(WIDTH)
    gate = gated.gates[at]
    gate.g, gate.h, gate.r = 0.0, 1.0, r
    with hooked(model, at, output=lambda x, y: r.expand_as(y)):
        assert_close(logits(gated, example), logits(model, example))
    gate.g, gate.h = 1.0, 0.5
    with hooked(model, at, output=lambda x, y: y + 0.5 * r):
        assert_close(logits(gated, example), logits(model, example))
    gate.reset()
    assert_close(logits(gated, example), logits(model, example), 8)


def test_a_reference_of_a_family_lives_in_coordinate_space() -> None:
    model, example, program = traced("gpt2")
    at = mlp("gpt2", 1)
    gated, r = program.apply(neurons.at(at), gates.at(f"{at}/neuron")), draw(4 * WIDTH)
    gate = gated.gates[f"{at}/neuron"]
    gate.g, gate.h, gate.r = torch.zeros(4 * WIDTH), 1.0, r
    with hooked(model, DOWN["gpt2"], inputs=lambda x: r.expand_as(x)):
        assert_close(logits(gated, example), logits(model, example))
