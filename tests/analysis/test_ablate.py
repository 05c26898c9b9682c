"""Ablation equals plain hooks on the model, in every mode; what cannot be right is refused before any work."""

from typing import Any

import pytest
import torch
from torch import nn

from analysis import ablate, sweep
from rewrite import InputError, PassError, SiteError, TautomerError, Terms, split, trace
from tests.analysis.ablating import PROJECTION, change, data, head_input, inputs_of, logit, ready, squares
from tests.models import HEADS, LAYERS
from tests.passes.checking import attention, mlp, traced
from verify import Verdict

CLOSE = {"atol": 1e-5, "rtol": 0}
ATTN = "transformer.h.0.attn"


def heads_of(model: str) -> str:
    return f"{attention(model, '*')}/head[:]"


def zeroed(module, args, output):
    return torch.zeros_like(output)


@pytest.mark.parametrize("name", [one if one == "gpt2" else pytest.param(one, marks=pytest.mark.slow) for one in PROJECTION])
def test_zero_ablation_equals_plain_hooks(name) -> None:
    model, example, program = ready(name)
    batches = data(example)
    table = sweep(program, [heads_of(name), mlp(name, "*")], batches, logit)
    assert table.standing.verdict is Verdict.PROVED
    assert len(table.rows) == LAYERS * (HEADS + 1)
    for layer in range(LAYERS):
        for head in range(HEADS):
            hook = {f"{PROJECTION[name].format(layer)}@in": head_input(torch.zeros_like, head)}
            found = table.examples[f"{attention(name, layer)}/head[{head}]"]
            torch.testing.assert_close(found, change(model, batches, hook), **CLOSE)
        torch.testing.assert_close(table.examples[mlp(name, layer)], change(model, batches, {mlp(name, layer): zeroed}), **CLOSE)
    row = table[f"{attention(name, 0)}/head[1]"]
    values = table.examples[row["address"]]
    assert row["n"] == 4
    assert row["effect"] == pytest.approx(values.mean().item())
    assert row["low"] <= row["effect"] <= row["high"]
    assert "rewrite PROVED" in str(table)
    assert "mode zero, seed 0" in str(table)


@pytest.mark.parametrize(("mode", "over"), [("mean", "dataset"), ("mean", "batch"), ("mean", "position"), ("value", None)])
def test_references_equal_plain_hooks(mode, over) -> None:
    model, example, program = ready("gpt2")
    batches = data(example)
    module = PROJECTION["gpt2"].format(0)
    own = [values[..., 8:16] for values in inputs_of(model, batches, module)]
    means = {"dataset": torch.cat(own).mean((0, 1)), "position": torch.cat(own).mean(0), None: torch.tensor(0.3)}
    expected = []
    for batch, values in zip(batches, own, strict=True):
        reference = values.mean((0, 1)) if over == "batch" else means[over]
        expected.append(change(model, [batch], {f"{module}@in": head_input(lambda old, new=reference: new.expand_as(old), 1)}))
    settings: Any = {"mode": mode, **({"over": over} if over else {"value": 0.3})}
    table = sweep(program, f"{ATTN}/head[1]", batches, logit, **settings)
    torch.testing.assert_close(table.examples[f"{ATTN}/head[1]"], torch.cat(expected), **CLOSE)
    assert f"mode {mode}, over {over}" in str(table) or over is None


def test_resampling_takes_what_another_example_has() -> None:
    model, example, program = ready("gpt2")
    batches = data(example)
    x = torch.cat(inputs_of(model, batches, f"{ATTN}.c_proj"))
    table = sweep(program, f"{ATTN}/head[2]", batches, logit, mode="resample", seed=4)
    found = table.examples[f"{ATTN}/head[2]"]
    sources = []
    for number in range(4):
        batch = {"input_ids": batches[number // 2]["input_ids"][number % 2 :][:1]}
        tried = [
            change(model, [batch], {f"{ATTN}.c_proj@in": head_input(lambda v, o=other: x[o : o + 1, :, 16:24], 2)}).item()
            for other in range(4)
        ]
        sources.append(min(range(4), key=lambda i: abs(tried[i] - found[number].item())))
        assert abs(tried[sources[-1]] - found[number].item()) < 1e-5
    assert sorted(sources) == [0, 1, 2, 3]
    assert all(source != number for number, source in enumerate(sources))
    again = sweep(program, f"{ATTN}/head[2]", batches, logit, mode="resample", seed=4)
    assert torch.equal(again.examples[f"{ATTN}/head[2]"], found)


def test_all_together() -> None:
    model, example, program = ready("gpt2")
    batches = data(example)
    table = ablate(program, [f"{ATTN}/head[0,3]", "transformer.h.1.mlp"], batches, logit)
    first, last = head_input(torch.zeros_like, 0), head_input(torch.zeros_like, 3)
    hooks = {f"{ATTN}.c_proj@in": lambda module, args: last(module, first(module, args)), "transformer.h.1.mlp": zeroed}
    (row,) = table.rows
    assert row["address"] == f"{ATTN}/head[0] + {ATTN}/head[3] + transformer.h.1.mlp"
    torch.testing.assert_close(table.examples[row["address"]], change(model, batches, hooks), **CLOSE)


def test_a_direct_path_only() -> None:
    model, example, program = ready("gpt2")
    batches = data(example)
    path = "transformer.h.0.mlp -> transformer.ln_f@in"
    kept = []
    hooks = {
        "transformer.h.0.mlp": lambda module, args, output: kept.append(output),
        "transformer.ln_f@in": lambda module, args: (args[0] - kept[-1],),
    }
    table = sweep(program, path.replace(" ", ""), batches, logit)
    torch.testing.assert_close(table.examples[path], change(model, batches, hooks), **CLOSE)


def test_entries_and_dicts_of_values() -> None:
    model, example, program = ready("gpt2")
    batches = data(example)
    table = sweep(program, "transformer.h.0.mlp@[:, 1]", batches, logit)

    def hook(module, args, output):
        output = output.clone()
        output[:, 1] = 0
        return output

    torch.testing.assert_close(table.examples["transformer.h.0.mlp@[:, 1]"], change(model, batches, {"transformer.h.0.mlp": hook}), **CLOSE)
    value = {"transformer.h.0.mlp": torch.linspace(-1, 1, 32)}
    table = sweep(program, "transformer.h.0.mlp", batches, logit, mode="value", value=value)
    expected = change(model, batches, {"transformer.h.0.mlp": lambda module, args, output: value["transformer.h.0.mlp"].expand_as(output)})
    torch.testing.assert_close(table.examples["transformer.h.0.mlp"], expected, **CLOSE)


def test_neurons_are_split_when_asked_for() -> None:
    model, example, program = traced("llama")
    batches = data(example)
    table = sweep(program, "model.layers.1.mlp/neuron[5]", batches, logit)

    def hook(module, args):
        x = args[0].clone()
        x[..., 5] = 0
        return (x,)

    expected = change(model, batches, {"model.layers.1.mlp.down_proj@in": hook})
    torch.testing.assert_close(table.examples["model.layers.1.mlp/neuron[5]"], expected, **CLOSE)


@split
def halved(y):
    """Not the same function: the terms do not sum to the value."""
    return Terms(y * 0.5, rest=y * 0.4)


def test_another_function_is_refused_and_shown_only_when_asked() -> None:
    _, example, program = traced("gpt2")
    wrong = program.apply(halved.at("transformer.h.0.mlp"))
    with pytest.raises(TautomerError, match="expected a rewrite that is the same function, got rewrite (REFUTED|DIFFERS)"):
        sweep(wrong, "transformer.h.0.mlp/halved", data(example), logit)
    table = sweep(wrong, "transformer.h.0.mlp/halved", data(example), logit, unproved=True)
    assert "rewrite REFUTED" in str(table) or "rewrite DIFFERS" in str(table)


MLP = "transformer.h.0.mlp"
BAD = {
    "no address": (lambda p, d: sweep(p, [], d, logit), InputError, "at least one address"),
    "an address without a match": (lambda p, d: sweep(p, "transformer.h.0.mpl", d, logit), SiteError, "Nearest: 'transformer.h.0.mlp'"),
    "a family that is none": (lambda p, d: sweep(p, f"{MLP}[0]", d, logit), InputError, "expected a family"),
    "a member that is not there": (lambda p, d: sweep(p, f"{ATTN}/head[4]", d, logit), SiteError, "from 0 to 3"),
    "heads where there are none": (lambda p, d: sweep(p, f"{MLP}/head[0]", d, logit), PassError, "not from attention"),
    "a path that is no sum": (lambda p, d: sweep(p, f"{MLP} -> lm_head", d, logit), PassError, "layer_norm"),
    "no data": (lambda p, d: sweep(p, MLP, [], logit), InputError, "at least one batch"),
    "an empty batch": (lambda p, d: sweep(p, MLP, [{"input_ids": d[0]["input_ids"][:0]}], logit), InputError, "expected examples"),
    "a batch that does not fit": (lambda p, d: sweep(p, MLP, [*d, {"input_ids": torch.zeros(2, 7)}], logit), InputError, "torch.int64"),
    "a metric of the batch": (lambda p, d: sweep(p, MLP, d, lambda o, b: o.logits.mean()), InputError, r"shape \[2\]"),
    "a metric that is NaN": (lambda p, d: sweep(p, MLP, d, lambda o, b: o.logits[:, 0, 0] * torch.nan), InputError, "finite numbers"),
    "an unknown mode": (lambda p, d: sweep(p, MLP, d, logit, mode="delete"), InputError, "'delete'"),  # type: ignore[arg-type]
    "a mean over something else": (lambda p, d: sweep(p, MLP, d, logit, mode="mean", over="layer"), InputError, "'layer'"),  # type: ignore[arg-type]
    "no value": (lambda p, d: sweep(p, MLP, d, logit, mode="value"), InputError, "expected value="),
    "a value of the wrong shape": (
        lambda p, d: sweep(p, MLP, d, logit, mode="value", value=torch.ones(31)), InputError, r"broadcasts to \['\*', '\*', 32\], got shape \[31\]",
    ),
    "a value for another address": (lambda p, d: sweep(p, MLP, d, logit, mode="value", value={"x": 1.0}), InputError, "expected an entry"),
    "nobody to draw from": (
        lambda p, d: sweep(p, MLP, [{"input_ids": d[0]["input_ids"][:1]}], logit, mode="resample"), InputError, "another example",
    ),
    "a setting that there is not": (lambda p, d: sweep(p, MLP, d, logit, mod="mean"), InputError, "got 'mod'.*'mode'"),  # type: ignore[call-arg]
    "pairs of what is one": (lambda p, d: ablate(p, MLP, d, logit, pairs=True), InputError, "got 'pairs'"),  # type: ignore[call-arg]
    "a negative seed": (lambda p, d: sweep(p, MLP, d, logit, seed=-1), InputError, "a seed from 0"),
    "no function": (lambda p, d: sweep(p, MLP, d, 5), InputError, "expected metric to be a function"),  # type: ignore[arg-type]
    "no progress": (lambda p, d: sweep(p, MLP, d, logit, progress=5), InputError, "expected progress to be a function"),  # type: ignore[arg-type]
    "memory in words": (lambda p, d: sweep(p, MLP, d, logit, memory="1GB"), InputError, "a number of bytes"),  # type: ignore[arg-type]
    "no text": (lambda p, d: sweep(p, [5], d, logit), InputError, "expected addresses as text"),  # type: ignore[list-item]
    "no batches": (lambda p, d: sweep(p, MLP, None, logit), InputError, "expected batches, got NoneType"),  # type: ignore[arg-type]
    "complex numbers": (lambda p, d: sweep(p, MLP, d, lambda o, b: logit(o, b) * 1j), InputError, "expected real numbers"),
    "entries that are not there": (lambda p, d: sweep(p, f"{MLP}@[:, 7]", d, logit), InputError, "index 7 is out of bounds"),
    "entries that are none": (lambda p, d: sweep(p, f"{MLP}@[:, 7:9]", d, logit), InputError, "entries that batch 0 has, got none"),
    "a value for entries that do not fit": (
        lambda p, d: sweep(p, f"{MLP}@[:, 1]", d, logit, mode="value", value=torch.ones(5)), InputError, "expected a reference that broadcasts",
    ),
    "a value of too many examples for the last batch": (
        lambda p, d: sweep(p, MLP, [d[0], {"input_ids": d[1]["input_ids"][:1]}], logit, mode="value", value=torch.ones(2, 7, 32)),
        InputError, r"broadcasts to \[1, 7, 32\], got \[2, 7, 32\]",
    ),
    "means by position of other lengths": (
        lambda p, d: sweep(p, MLP, [d[0], {"input_ids": d[1]["input_ids"][:, :4]}], logit, mode="mean", over="position"),
        InputError, "batches of one shape",
    ),
    "positions that are not there": (lambda p, d: sweep(p, MLP, d, logit, positions=7), InputError, "from -7 to 6"),
    "positions without a name": (lambda p, d: sweep(p, MLP, d, logit, positions="last"), InputError, "'last'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_before_the_long_part(case, monkeypatch) -> None:
    _, example, program = traced("gpt2")
    monkeypatch.setattr("analysis.ablation.measure.standing", lambda *args, **kwargs: pytest.fail("the long part began"))
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(program, data(example))


def test_a_metric_that_fails_on_the_way_gives_no_table() -> None:
    _, example, program = ready("gpt2")
    batches = data(example)

    def metric(output, batch):
        return logit(output, batch) * (torch.nan if batch is batches[1] or torch.equal(batch["input_ids"], batches[1]["input_ids"]) else 1)

    with pytest.raises(InputError, match="metric, batch 1: expected finite numbers"):
        sweep(program, MLP, batches, metric)


class Cancelling(nn.Module):
    """A remainder that reads the edited copy of f: what people write with hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.mlp, self.out = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        f = self.f(x)
        return self.out(f + (self.mlp(x) - f))


def test_an_edit_that_reaches_no_output_is_an_error() -> None:
    program = trace(Cancelling().eval(), torch.randn(2, 6))
    with pytest.raises(TautomerError, match="f: expected an edit that can reach an output, got one that cannot: .*takes the edit back"):
        sweep(program, ["mlp", "f"], {"x": torch.randn(2, 6)}, squares)
    assert len(sweep(program, "mlp", {"x": torch.randn(2, 6)}, squares).rows) == 1
