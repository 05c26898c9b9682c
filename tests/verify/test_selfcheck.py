"""The rule table over float64 against torch, on whole models; and that it, and the check after every op, catch a wrong rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from tests import models
from tests.verify.graphs import KEY, checked, compare
from verify.interpret import evaluate, same
from verify.rules import RULES
from verify.selfcheck import self_check
from verify.value import Value
from verify.world import World, concrete

aten = torch.ops.aten
ALL = {**models.TRANSFORMERS, **models.PLAIN}


@cache
def exported(name: str) -> tuple[fx.Graph, dict[str, Tensor], list[str], list[str]]:
    """A tiny model's graph, its data by placeholder, which of them are ids, and its outputs."""
    model, example = ALL[name]()
    if hasattr(model, "config"):
        model.config.use_cache, model.config._experts_implementation = False, "batched_mm"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (), example, strict=False).run_decompositions({})
    stored = {**dict(program.state_dict), **program.constants}
    data, ids = {}, []
    for spec in program.graph_signature.input_specs:
        data[spec.arg.name] = example[spec.arg.name] if spec.kind.name == "USER_INPUT" else stored[spec.target].detach()
        if spec.arg.name == "input_ids":
            ids.append(spec.arg.name)
    outputs = [a.name for a in program.graph.output_node().args[0] if isinstance(a, fx.Node)]
    return program.graph, data, ids, outputs


def drawn(data: dict[str, Tensor], ids: list[str], world: World) -> dict[str, Value]:
    floats = {name: world.tensor(name, t.shape) for name, t in data.items() if t.dtype.is_floating_point}
    whole = {name: t for name, t in data.items() if name not in floats}
    return floats | {name: concrete(t, role="ids" if name in ids else None, label=name, world=world) for name, t in whole.items()}


@pytest.mark.parametrize("name", ALL)
def test_every_node_of_a_model_is_what_torch_says(name: str) -> None:
    graph, data, ids, _ = exported(name)
    result = self_check(graph, data, ids)
    assert result.nodes > 5
    assert result.error < 1e-5, result


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [3, 5])
def test_a_model_agrees_with_itself_and_not_with_a_changed_parameter(name: str, count: int) -> None:
    graph, data, ids, outputs = exported(name)
    world = World(KEY, count)
    given = drawn(data, ids, world)
    first = evaluate(graph, given, outputs[:1], world)[outputs[0]]
    result = same(first, evaluate(graph, given, outputs[:1], world)[outputs[0]], world)
    assert result.equal
    assert not result.undefined
    assert world.log2_bound() < (-15 if count == 3 else -40)
    changed = next(n for n in reversed(list(data)) if data[n].dtype.is_floating_point and n.startswith(("p_", "x", "a")))
    parts = tuple(part.clone() for part in given[changed].parts)
    parts[0].view(-1)[0] += 1
    other = evaluate(graph, {**given, changed: replace(given[changed], parts=parts)}, outputs[:1], world)[outputs[0]]
    assert same(first, other).unequal


def test_a_graph_can_be_cut_at_any_node() -> None:
    graph, data, ids, outputs = exported("gpt2")
    world = World(KEY)
    given = drawn(data, ids, world)
    cut = [n.name for n in graph.nodes if n.target is aten.layer_norm.default][2]
    whole = evaluate(graph, given, [cut, outputs[0]], world)
    rest = evaluate(graph, {**given, cut: whole[cut]}, outputs[:1], world)
    assert same(whole[outputs[0]], rest[outputs[0]]).unequal == 0
    fresh = evaluate(graph, {**given, cut: world.tensor("cut", whole[cut].shape)}, outputs[:1], world)
    assert same(whole[outputs[0]], fresh[outputs[0]]).unequal


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts another rule in the table for one test."""
    return lambda op, wrong: monkeypatch.setitem(RULES, op, wrong)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_a_wrong_rule_is_invisible_to_comparison_and_caught_by_the_self_check(rule: Callable[..., None]) -> None:
    rule(aten.silu.default, lambda a, x: a.mul(x, a.oracle("tanh", x, odd=True)))
    assert compare(lambda x: F.silu(x), lambda x: F.silu(x), X).equal
    assert checked(lambda x: F.silu(x), X).error > 0.1


def test_a_rule_that_loses_a_residue_is_stopped(rule: Callable[..., None]) -> None:
    right = RULES[aten.neg.default]
    rule(aten.neg.default, lambda a, x: replace(v := right(a, x), parts=v.parts[:2]))
    with pytest.raises(AssertionError, match="2 residues"):
        compare(torch.neg, torch.neg, X)


def test_a_rule_of_another_shape_than_torchs_is_stopped(rule: Callable[..., None]) -> None:
    rule(aten.sum.dim_IntList, lambda a, x, dims, keepdim=False: a.sum(x, dims, True))
    with pytest.raises(AssertionError, match="torch gives"):
        compare(lambda x: x.sum(-1), lambda x: x.sum(-1), X)
