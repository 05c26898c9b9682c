"""Running: like the model in every way, the least that is needed, and never from a stale cache."""

import pytest
import torch
from torch import Tensor, nn

from passes import dictionary, direction
from rewrite import InputError, Program, SiteError, Terms, split, trace
from rewrite.run import needed, prune
from tests import models


@split
def low_rank(x: Tensor, *, w: Tensor, u: Tensor) -> Terms:
    """A constant derived from a weight: what is cached must follow the weight."""
    derived = w - u @ (u.mT @ w)
    return Terms((x @ derived.sum(0)).unsqueeze(-1).expand_as(x), rest=x - (x @ derived.sum(0)).unsqueeze(-1))


@pytest.fixture
def gpt2(traced) -> tuple[nn.Module, dict[str, Tensor], Program]:
    return traced("gpt2")


@pytest.fixture
def own_gpt2() -> tuple[nn.Module, dict[str, Tensor], Program]:
    """One that a test may change the weights of."""
    model, example = models.gpt2()
    return model, example, trace(model, **example)


def test_called_like_the_model(gpt2) -> None:
    model, example, program = gpt2
    expected = model(**example)
    for found in (program(**example), program(example["input_ids"]), program(input_ids=example["input_ids"], attention_mask=None)):
        assert type(found) is type(expected)
        assert torch.equal(found.logits, expected.logits)


def test_other_batches_and_lengths(gpt2) -> None:
    model, _, program = gpt2
    for shape in ((1, 1), (5, 3), (1, 12)):
        ids = models.token_ids(*shape)
        torch.testing.assert_close(program(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.zeros(2, 7)}, r"input_ids: expected torch\.int64, got torch\.float32\. Convert it"),
        ({"input_ids": torch.zeros(7, dtype=torch.int64)}, r"input_ids: expected 2 dimensions, got shape \[7\]"),
        ({}, r"expected the arguments of the example, \['input_ids'\], got no 'input_ids'"),
        (
            {"input_ids": torch.zeros(2, 7, dtype=torch.int64), "labels": torch.zeros(2, 7)},
            r"got 'labels'\. Trace with an example that has",
        ),
        ({"input_ids": [1, 2]}, r"expected inputs nested like the example's|expected a tensor, got"),
    ],
)
def test_inputs_that_do_not_fit(gpt2, inputs, message: str) -> None:
    _, _, program = gpt2
    with pytest.raises(InputError, match=message):
        program(**inputs)


def test_sizes_that_go_together(traced) -> None:
    _, example, program = traced("bert")
    with pytest.raises(InputError, match=r"expected size 7 in dimension 1 like dimension 1 of input_ids, got 5"):
        program(**{**example, "attention_mask": example["attention_mask"][:, :5]})


def test_weight_edits_are_seen(own_gpt2) -> None:
    model, example, program = own_gpt2
    w = program.weight("transformer.h.0.attn.c_proj.weight")
    rewritten = program.apply(low_rank.at("transformer.h.0.mlp", w=w, u=torch.eye(32)[:, :4]))
    with torch.no_grad():
        torch.testing.assert_close(rewritten(**example).logits, model(**example).logits)
        before = rewritten.values("transformer.h.0.mlp/low_rank", **example)["transformer.h.0.mlp/low_rank"]
        model.transformer.h[0].attn.c_proj.weight.mul_(1.5)
        after = rewritten.values("transformer.h.0.mlp/low_rank", **example)["transformer.h.0.mlp/low_rank"]
        assert not torch.allclose(before, after)
        torch.testing.assert_close(rewritten(**example).logits, model(**example).logits)
        state = {k: v + 0.01 for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        torch.testing.assert_close(rewritten(**example).logits, model(**example).logits)


def test_an_edit_through_data_needs_a_refresh(own_gpt2) -> None:
    model, example, program = own_gpt2
    w = program.weight("transformer.h.0.attn.c_proj.weight")
    rewritten = program.apply(low_rank.at("transformer.h.0.mlp", w=w, u=torch.eye(32)[:, :4]))
    address = "transformer.h.0.mlp/low_rank"
    with torch.no_grad():
        before = rewritten.values(address, **example)[address]
        model.transformer.h[0].attn.c_proj.weight.data.mul_(2)
        rewritten.refresh()
        assert not torch.allclose(before, rewritten.values(address, **example)[address])


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "bert"])
def test_gradients_flow_and_agree_with_and_without_grad_mode(traced, name: str) -> None:
    model, example, program = traced(name)
    site = next(a for a in program.select("**", kind="output") if a.endswith((".mlp", "output.dense")))
    rewritten = program.apply(direction.at(site, d=torch.ones(32)))
    with torch.no_grad():
        quiet = rewritten(**example).logits
    loud = rewritten(**example).logits
    torch.testing.assert_close(quiet, loud)
    grads = []
    for one in (model, rewritten):
        model.zero_grad()
        one(**example).logits.square().mean().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key], rtol=2e-4, atol=1e-6)


def test_a_remainders_copy_costs_nothing_until_something_inside_is_edited(gpt2) -> None:
    _, _, program = gpt2
    sae = {"W_enc": torch.randn(32, 40), "b_enc": torch.zeros(40), "W_dec": torch.randn(40, 32), "b_dec": torch.zeros(32)}
    rewritten = program.apply(dictionary.at("transformer.h.0.mlp", sae=sae))
    graph, _ = prune(rewritten.graph, rewritten.outputs)
    decoders = [n for n in graph.nodes if "matmul" in str(n.target) and any("w_dec" in str(a).lower() for a in n.args)]
    assert len(decoders) == 1


def test_only_what_is_wanted_is_computed(gpt2) -> None:
    _, _, program = gpt2
    site = program.sites_by_address["transformer.h.0.mlp"]
    assert not any("h_1" in node.name for node in needed([program.nodes[site.node]]))


def test_numbers_of_one_value_and_different_type_are_told_apart() -> None:
    class Types(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((2,), 1) + torch.full((2,), 1.0) * x + torch.full((2,), True)

    model, x = Types().eval(), torch.randn(2)
    assert torch.equal(trace(model, x)(x), model(x))


def test_edits_and_reads(gpt2) -> None:
    model, example, program = gpt2
    captured = {}

    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
        captured["mlp"] = output
        new = output.clone()
        new[:, 1] = 0
        return new

    handle = model.transformer.h[0].mlp.register_forward_hook(hook)
    expected = model(**example).logits
    handle.remove()
    output, read = program.run(
        example, edit={"transformer.h.0.mlp@[:, 1]": 0.0}, read=["transformer.h.0.mlp", "transformer.h.0.mlp@[:, 1]"]
    )
    torch.testing.assert_close(output.logits, expected)
    assert torch.count_nonzero(read["transformer.h.0.mlp@[:, 1]"]) == 0
    torch.testing.assert_close(read["transformer.h.0.mlp"][:, 2:], captured["mlp"][:, 2:])
    doubled, _ = program.run(example, edit={"transformer.h.0.mlp": lambda y: 2 * y})
    assert not torch.allclose(doubled.logits, expected)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            {"transformer.h.0.mpl": 0.0},
            SiteError,
            r"no site matches 'transformer\.h\.0\.mpl' among \d+\. Nearest: 'transformer\.h\.0\.mlp'",
        ),
        ({"transformer.h.0.mlp[1]": 0.0}, SiteError, r"expected a family, got a output|Members and @act belong to families"),
        ({"transformer.h.0.mlp": torch.zeros(5)}, InputError, r"expected a value that broadcasts to \[2, 7, 32\], got \[5\]"),
    ],
)
def test_edits_that_do_not_fit(gpt2, edit, error: type[Exception], message: str) -> None:
    _, example, program = gpt2
    with pytest.raises(error, match=message):
        program.run(example, edit=edit)
