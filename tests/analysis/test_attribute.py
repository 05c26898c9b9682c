"""Attribution against finite differences, formulas worked out with hooks, and exact ablation."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analysis import ablate, agreement, attribute, direct_logit_attribution
from analysis.attribution.gating import gated
from analysis.attribution.logits import distributed
from analysis.demo import load_balancer, strings, tokens
from passes import gates, heads
from rewrite import InputError, Program, SiteError, TautomerError, trace
from tests.analysis.ablating import inputs_of
from tests.models import gpt2, token_ids

MLP, LN, WTE, WPE = "transformer.h.0.mlp", "transformer.h.1.ln_1", "transformer.wte", "transformer.wpe"
HEAD, WAY = "transformer.h.0.attn/head", f"{MLP} -> {LN}@in"
ADDRESSES = [MLP, "transformer.h.1.mlp", f"{HEAD}[:]", WTE, WPE, WAY]


@cache
def opened() -> tuple[nn.Module, Program]:
    """A tiny GPT-2 in float64, and its program with every gate that these tests use; proved once."""
    model, example = gpt2()
    model = model.double().requires_grad_(False)
    return model, gated(trace(model, **example), ["lm_head", *ADDRESSES], "test")[0]


def data(*seeds: int) -> list[dict[str, Any]]:
    return [{"input_ids": token_ids(seed=seed)} for seed in seeds]


def metric(output: Any, batch: Any) -> Tensor:
    """A logit difference at the last position."""
    return output.logits[:, -1, 3] - output.logits[:, -1, 5]


def effect(table: Any, address: str) -> Tensor:
    return table.examples[address]


@pytest.mark.parametrize("address", [MLP, f"{HEAD}[2]", WPE, WAY])
def test_gradients_are_finite_differences(address: str) -> None:
    _, program = opened()
    batches = data(0, 1)
    found = attribute(program, ADDRESSES, batches, metric)
    step, wanted = 1e-5, []
    for batch in batches:
        up, down = (metric(program.run(batch, gates={address: 1 + sign * step})[0], batch) for sign in (1, -1))
        wanted.append(-(up - down) / (2 * step))
    torch.testing.assert_close(effect(found, address), torch.cat(wanted), rtol=1e-5, atol=1e-8)


def by_hand(model: Any, clean: Tensor, corrupt: Tensor, points: list[float]) -> Tensor:
    """EAP of the edge from MLP 0 to the norm before attention 1: (corrupt - clean) times the gradient at the reader, mean over points
    at which the embeddings are that far from clean to corrupt."""
    writer, reader, embed = (model.get_submodule(name) for name in (MLP, LN, WTE))
    written = [_written(model, writer, ids) for ids in (clean, corrupt)]
    embedded = [embed(ids) for ids in (clean, corrupt)]
    total = torch.zeros(len(clean), dtype=torch.float64)
    for alpha in points:
        delta = torch.zeros_like(written[0], requires_grad=True)
        mixed = (1 - alpha) * embedded[0] + alpha * embedded[1]
        handles = [
            embed.register_forward_hook(lambda *_, mixed=mixed: mixed),
            reader.register_forward_pre_hook(lambda _, args, delta=delta: (args[0] + delta, *args[1:])),
        ]
        metric(model(clean), None).sum().backward()
        for handle in handles:
            handle.remove()
        assert delta.grad is not None
        total += ((written[1] - written[0]) * delta.grad).sum((1, 2)) / len(points)
    return total


def _written(model: Any, module: nn.Module, ids: Tensor) -> Tensor:
    kept: list[Any] = []
    handle = module.register_forward_hook(lambda m, args, output: kept.append(output))
    model(ids)
    handle.remove()
    return kept[0]


def test_edge_attribution_patching_by_hand() -> None:
    model, program = opened()
    clean, corrupt = data(0), data(5)
    found = attribute(program, WAY, clean, metric, mode=corrupt)
    wanted = by_hand(model, clean[0]["input_ids"], corrupt[0]["input_ids"], [0.0])
    torch.testing.assert_close(effect(found, WAY), wanted, rtol=1e-8, atol=1e-10)


def test_edge_attribution_with_integrated_gradients_by_hand() -> None:
    model, program = opened()
    clean, corrupt = data(0), data(5)
    found = attribute(program, WAY, clean, metric, mode=corrupt, method="integrated", steps=3, along=WTE)
    wanted = by_hand(model, clean[0]["input_ids"], corrupt[0]["input_ids"], [1 / 6, 3 / 6, 5 / 6])
    torch.testing.assert_close(effect(found, WAY), wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", ["zero", "resample"])
def test_integrated_gradients_of_one_member_move_no_other(mode: Any) -> None:
    _, program = opened()
    table = attribute(program, f"{HEAD}[2]", data(0, 1), metric, mode=mode, method="integrated", steps=40, oracle=True)
    assert abs(table[f"{HEAD}[2]"]["error"]) < 1e-4 * abs(table[f"{HEAD}[2]"]["exact"])
    two = attribute(program, f"{HEAD}[1,2]", data(0, 1), metric, mode=mode, method="integrated", steps=40)
    both = ablate(program, f"{HEAD}[1,2]", data(0, 1), metric, mode=mode)
    assert sum(row["effect"] for row in two.rows) == pytest.approx(both.rows[0]["effect"], rel=1e-3)


@pytest.mark.parametrize("mode", ["zero", "given"])
def test_a_member_on_the_way_by_hand(mode: str) -> None:
    """With head 2 moved alone: head 2 and head 1 of the same family, and an MLP behind them."""
    model, program = opened()
    clean, corrupt = data(0), data(5)
    projection, mlp = "transformer.h.0.attn.c_proj", "transformer.h.1.mlp"
    z = [inputs_of(model, one, projection)[0] for one in (clean, corrupt)]
    written = [_written(model, model.get_submodule(mlp), one[0]["input_ids"]) for one in (clean, corrupt)]
    there = 0.0 if mode == "zero" else 1.0
    shift = there * z[1] - z[0]
    wanted = {f"{HEAD}[1]": 0.0, f"{HEAD}[2]": 0.0, mlp: 0.0}
    for alpha in (1 / 6, 3 / 6, 5 / 6):
        at, delta = z[0].clone(), torch.zeros_like(written[0], requires_grad=True)
        at[..., 16:24] += alpha * shift[..., 16:24]
        at.requires_grad_()
        hooks = {f"{projection}@in": lambda module, args, at=at: (at,), mlp: lambda module, args, output, delta=delta: output + delta}
        with ExitStack() as stack:
            for name, hook in hooks.items():
                module = model.get_submodule(name.removesuffix("@in"))
                register = module.register_forward_pre_hook if name.endswith("@in") else module.register_forward_hook
                stack.callback(register(hook).remove)
            metric(model(**clean[0]), None).sum().backward()
        assert at.grad is not None
        assert delta.grad is not None
        slopes = {f"{HEAD}[1]": (shift * at.grad)[..., 8:16], f"{HEAD}[2]": (shift * at.grad)[..., 16:24]}
        slopes[mlp] = (there * written[1] - written[0]) * delta.grad
        wanted = {name: total + slopes[name].sum((1, 2)) / 3 for name, total in wanted.items()}
    reference: Any = mode if mode == "zero" else corrupt
    settings: dict[str, Any] = {"mode": reference, "method": "integrated", "steps": 3, "along": f"{HEAD}[2]"}
    found = attribute(program, list(wanted), clean, metric, **settings)
    for name, values in wanted.items():
        torch.testing.assert_close(effect(found, name), values, rtol=1e-8, atol=1e-10)
    assert found.settings["along"] == f"{HEAD}[2]"


def test_the_way_begins_at_open_gates() -> None:
    _, program = opened()
    settings: dict[str, Any] = {"method": "integrated", "steps": 2, "along": WTE}
    wanted = attribute(program, MLP, data(0), metric, **settings)
    program.gates[WTE].g = 0.5
    try:
        found = attribute(program, MLP, data(0), metric, **settings)
    finally:
        program.gates[WTE].reset()
    torch.testing.assert_close(effect(found, MLP), effect(wanted, MLP))
    assert found.standing.verdict.value == "EDITED"


@pytest.mark.parametrize("mode", ["zero", "resample"])
def test_integrated_gradients_are_complete(mode: Any) -> None:
    _, program = opened()
    errors = []
    for steps in (2, 40):
        table = attribute(program, MLP, data(0, 1), metric, mode=mode, method="integrated", steps=steps, oracle=True)
        errors.append(abs(table[MLP]["error"]))
    assert errors[1] < errors[0] / 100  # the middles of stretches: the error falls with the square of their number


def test_all_moved_together_share_what_ablating_all_does() -> None:
    _, program = opened()
    batch = data(0)[0]
    wanted = metric(program.run(batch, gates={MLP: 0.0, HEAD: 0.0})[0], batch) - metric(program(**batch), batch)
    errors = []
    for steps in (10, 40):
        table = attribute(program, [MLP, f"{HEAD}[:]"], batch, metric, method="integrated", steps=steps)
        errors.append((torch.stack(list(table.examples.values())).sum(0) - wanted).abs())
    assert bool((errors[1] < errors[0] / 8).all())
    assert bool((errors[1] < 0.01 * wanted.abs()).all())


@pytest.mark.parametrize("mode", ["mean", "resample"])
def test_at_the_logits_the_first_order_is_all_there_is(mode: Any) -> None:
    _, program = opened()
    table = attribute(program, "lm_head", data(0, 1), metric, mode=mode, oracle=True)
    assert table["lm_head"]["effect"] == pytest.approx(table["lm_head"]["exact"])
    assert effect(table, "lm_head").abs().min() > 1e-3  # no example was put in its own place


def test_agreement_with_exact_ablation() -> None:
    _, program = opened()
    table = attribute(program, ADDRESSES, data(0, 1), metric, oracle=True)
    exact = type(table)("ablation", table.standing, [{**row, "effect": row["exact"]} for row in table.rows], table.settings)
    found = agreement(table, exact, worst=2)
    assert table.settings["rank correlation"] == f"{found.rank:.3f}"
    assert 0.5 < found.rank < 1
    worst = max(table.rows, key=lambda row: abs(row["error"]))
    assert (found.worst.rows[0]["address"], len(found.worst.rows), found.n) == (worst["address"], 2, len(table.rows))
    assert "rank correlation" in str(found)
    assert "PROVED" in str(found)
    shuffled = [{**row, "effect": other["exact"]} for row, other in zip(table.rows, table.rows[1:] + table.rows[:1], strict=True)]  # type: ignore[operator]
    assert agreement(table, type(table)("ablation", table.standing, shuffled, {})).rank < found.rank
    with pytest.raises(InputError, match="expected tables of the same mode, got zero and mean"):
        agreement(table, type(table)("ablation", table.standing, exact.rows, {"mode": "mean"}))


# ------------------------------------------------------------------------------------------------ misuse


def nan(output: Any, batch: Any) -> Tensor:
    return metric(output, batch) * float("nan")


MISUSE: dict[str, tuple[Callable[[Program], Any], type[Exception], str]] = {
    "no such site": (lambda p: attribute(p, "transformer.h.7.mlp", data(0), metric), SiteError, "no site matches"),
    "no address": (lambda p: attribute(p, [], data(0), metric), InputError, "at least one address"),
    "a coordinate": (lambda p: attribute(p, f"{HEAD}[0]@act", data(0), metric), SiteError, "expected a site, family, member or path"),
    "a member of no family": (lambda p: attribute(p, f"{MLP}[0]", data(0), metric), SiteError, "which is none"),
    "no path": (lambda p: attribute(p, "transformer.h.1.* -> transformer.h.0.ln_1@in", data(0), metric), SiteError, "downstream"),
    "one number for all": (lambda p: attribute(p, MLP, data(0), lambda o, b: metric(o, b).mean()), InputError, "one number an example"),
    "not a number": (lambda p: attribute(p, MLP, data(0), nan), InputError, "expected finite numbers of the metric, got nan"),
    "no gradient": (lambda p: attribute(p, MLP, data(0), lambda o, b: metric(o, b).detach()), InputError, "metric with a gradient"),
    "no data": (lambda p: attribute(p, MLP, [], metric), InputError, "at least one batch"),
    "an unknown mode": (lambda p: attribute(p, MLP, data(0), metric, mode="noise"), InputError, "zero, mean, resample or batches"),  # type: ignore[arg-type]
    "too few references": (lambda p: attribute(p, MLP, data(0, 1), metric, mode=data(2)), InputError, "each of 2 batches, got 1"),
    "an unknown method": (lambda p: attribute(p, MLP, data(0), metric, method="shapley"), InputError, "got 'shapley'"),  # type: ignore[arg-type]
    "references of another shape": (
        lambda p: attribute(p, MLP, data(0), metric, mode=[{"input_ids": token_ids()[:, :1]}]), InputError, "of the data's shapes",
    ),
    "a batch that does not fit": (lambda p: attribute(p, MLP, [*data(0), {"input_ids": torch.zeros(2, 7)}], metric), InputError, "torch.int64"),
    "no batches": (lambda p: attribute(p, MLP, None, metric), InputError, "expected batches, got NoneType"),  # type: ignore[arg-type]
    "references that are none": (lambda p: attribute(p, MLP, data(0), metric, mode=5), InputError, "expected batches, got int"),  # type: ignore[arg-type]
    "no text": (lambda p: attribute(p, [5], data(0), metric), InputError, "expected addresses as text, got int"),  # type: ignore[list-item]
    "no addresses": (lambda p: attribute(p, None, data(0), metric), InputError, "an address or several"),  # type: ignore[arg-type]
    "half a step": (lambda p: attribute(p, MLP, data(0), metric, method="integrated", steps=2.5), InputError, "2.5 steps"),  # type: ignore[arg-type]
    "a negative seed": (lambda p: attribute(p, MLP, data(0), metric, seed=-1), InputError, "a seed from 0"),
    "no function": (lambda p: attribute(p, MLP, data(0), 5), InputError, "expected metric to be a function, got int"),  # type: ignore[arg-type]
    "complex numbers": (lambda p: attribute(p, MLP, data(0), lambda o, b: metric(o, b) * 1j), InputError, "expected real numbers"),
    "along with gradients": (lambda p: attribute(p, MLP, data(0), metric, along=WTE), InputError, "along 'transformer.wte'"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_said_before_the_proof(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.attribution.gradients.standing", lambda *args, **kwargs: pytest.fail("the long part began"))
    call, error, text = MISUSE[case]
    with pytest.raises(error, match=text):
        call(opened()[1])


# ------------------------------------------------------------------------------------------------ direct logit attribution


@pytest.mark.slow
def test_direct_logit_attribution_of_the_balancer() -> None:
    ids = tokens(strings(4, seed=0))[:, :6]  # a prefix is proved in less time
    model = load_balancer()
    program = distributed(trace(model, ids).apply(heads.at("blocks.1.attn")), "unembed")
    table = direct_logit_attribution(
        program, {"input_ids": ids, "label": torch.tensor([1, 0, 1, 1], dtype=torch.uint8)}, "label", against=0
    )
    writers = {address: values for address, values in table.examples.items() if "[" not in address}
    with torch.no_grad():
        logits = model(ids)
    wanted = logits[torch.arange(4), torch.tensor([1, 0, 1, 1])] - logits[:, 0]
    torch.testing.assert_close(sum(writers.values()), wanted.double(), rtol=1e-4, atol=1e-4)
    family = "unembed/from.blocks.1.attn/head"
    torch.testing.assert_close(table.examples[f"{family}[0]"] + table.examples[f"{family}[1]"], writers[family], rtol=1e-4, atol=1e-5)
    assert table[family]["contribution"] == pytest.approx(writers[family].mean().item())
    for token, text in (
        (7, "expected tokens from 0 to 1"),
        ("word", "expected a label 'word'"),
        (torch.tensor([0, 1]), "each of 4 examples"),
        (torch.ones(4, dtype=torch.bool), "expected one token id"),
    ):
        with pytest.raises(InputError, match=text):
            direct_logit_attribution(program, {"input_ids": ids}, token)


def test_members_add_what_they_do_at_gates_as_they_are_set() -> None:
    model, _ = opened()
    made = trace(model, input_ids=token_ids(seed=0)).apply(heads.at("transformer.h.*.attn"))
    made = distributed(made, "lm_head")
    family = "transformer.h.1.attn/head"
    made = made.apply(gates.at(family))
    made.gates[f"{family}[0]"].g = 0.0
    made.gates[f"{family}[1]"].h = 0.5
    made.gates[family].r = 0.25
    table = direct_logit_attribution(made, data(0), 3, unproved=True)
    found = {row["address"]: row["contribution"] for row in table.rows}
    term = next(address for address in found if address.endswith(family))
    members = [value for address, value in found.items() if address.startswith(f"{term}[")]
    assert members[0] == 0
    assert sum(members) == pytest.approx(found[term], abs=1e-5)


class Cancelling(nn.Module):
    """A remainder that reads the edited copy of f."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.mlp, self.out = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        f = self.f(x)
        return self.out(f + (self.mlp(x) - f))


def test_what_cannot_reach_an_output_is_no_zero_but_an_error() -> None:
    made, x = trace(Cancelling().eval(), torch.randn(2, 6)), {"x": torch.randn(2, 6)}
    with pytest.raises(TautomerError, match="f: expected an edit that can reach an output, got one that cannot: .*takes the edit back"):
        attribute(made, ["mlp", "f"], x, lambda output, batch: output.square().sum(1))
    assert len(attribute(made, "mlp", x, lambda output, batch: output.square().sum(1)).rows) == 1
