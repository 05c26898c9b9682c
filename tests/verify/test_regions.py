"""Composition and claims: regions are proved once, never confused, and the checker's own mistakes are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn
from transformers import GPT2Config, GPT2LMHeadModel

from passes import direction, heads
from rewrite import Program, trace
from rewrite.errors import PassError
from rewrite.records import Claim
from tests.models import Residual
from tests.verify.programs import normal, plain, tiny, toy
from verify import Verdict, claims, equivalence
from verify.rules import RULES

aten = torch.ops.aten


def deep(layers: int) -> Program:
    torch.manual_seed(0)
    return trace(Residual(layers=layers).eval(), normal(2, 3, 32))


def gpt2(layers: int) -> Program:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=61, n_embd=32, n_layer=layers, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0)
    return trace(GPT2LMHeadModel(config).eval(), input_ids=torch.tensor([[3, 1, 4]]), dynamic=False)


def test_equal_layers_are_one_statement() -> None:
    found = []
    for layers in (3, 6):
        sites = [f"blocks.{i}.mlp" for i in range(layers)]
        report = equivalence(deep(layers).apply(direction.at(*sites, d=normal(32), name="d")))
        assert report.proved
        found.append(report.counts["distinct regions"])
    assert found[0] == found[1]


def test_split_values_of_equal_layers_are_one_statement() -> None:
    """Terms read by others are proved where they stand in the stream: no deeper layer is compared against what an earlier one cut."""
    found = []
    for layers in (3, 6):
        every = [f"transformer.h.{i}" for i in range(layers)]
        split = gpt2(layers).apply(
            heads.at(*[f"{block}.attn" for block in every]),
            direction.at(*[f"{block}.mlp" for block in every], d=normal(32), name="d"),
        )
        report = equivalence(split)
        assert report.proved
        found.append(report.counts["distinct regions"])
    assert found[0] == found[1]


class Stack(nn.Module):
    """Layers x + tanh(x u) v, each with its own u and v; `crossed` gives the last one v of the first."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.crossed = nn.ModuleList(Pair() for _ in range(3)), crossed

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x + layer(x, self.layers[0].v if self.crossed and i == 2 else layer.v)
        return x


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.tanh(x @ self.u) @ v


def test_a_layer_with_another_ones_weight_is_another_statement() -> None:
    a, b = (trace(Stack(crossed).eval(), normal(2, 4)) for crossed in (False, True))
    assert equivalence(a, trace(Stack(False).eval(), normal(2, 4))).proved
    report = equivalence(a, b)
    assert report.verdict is Verdict.REFUTED
    assert report.site.startswith("layers.2")


def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = plain(lambda x: nn.functional.silu(x), normal(3, 4)), plain(lambda x: nn.functional.relu(x), normal(3, 4))
    monkeypatch.setitem(RULES, aten.silu.default, RULES[aten.relu.default])
    report = equivalence(one, one)
    assert report.verdict is not Verdict.PROVED
    assert "the checker found fault with itself: rules are" in str(report)
    assert equivalence(one, other).verdict is Verdict.REFUTED


def test_sizes_are_computed_and_not_believed() -> None:
    """A graph that lies about a size in its records is still evaluated with the true one."""
    program = trace(nn.Flatten().eval(), normal(3, 4, 5))
    graph, image = fx.Graph(), {}
    graph.output(graph.graph_copy(program.graph, image))
    sizes = [node for node in graph.nodes if node.target is torch.ops.aten.sym_size.int]
    assert sizes
    for node in sizes:
        node.meta = {**node.meta, "val": 7}
    assert equivalence(program, replace(program, graph=graph, traced_from=None)).verdict is Verdict.PROVED


# Claims


def claim_of(program: Program, function, bindings: dict[str, tuple[str, str]], reads: tuple[str, ...]) -> Claim:
    graph = fx.Graph()
    values = []
    for name, (_, what) in bindings.items():
        values.append(graph.placeholder(name))
        values[-1].meta = {"val": program.nodes[what].meta["val"], "scope": ()}
    left, right = function(graph, *values)
    graph.output([left, right])
    return Claim("as said", "transformer.h.0.mlp", 0, graph, bindings, reads)


def split_gpt2() -> Program:
    return tiny("gpt2").apply(direction.at("transformer.h.0.mlp", d=normal(32), name="d"))


def test_a_claim_that_reads_no_term_is_an_error() -> None:
    program = split_gpt2()
    whole = program.splits[0].whole
    said = claim_of(program, lambda g, y: (y, y), {"y": ("node", whole)}, ("transformer.h.0.mlp/d",))
    with pytest.raises(PassError, match="expected a claim that reads a term"):
        equivalence(replace(program, claims=(said,)))


def test_a_false_claim_fails_and_a_true_one_is_printed_as_proved() -> None:
    program = split_gpt2()
    term, rest = (program.sites_by_address[f"transformer.h.0.mlp/{name}"].node for name in ("d", "d.rest"))
    bindings = {"t": ("node", term), "r": ("node", rest), "y": ("node", program.splits[0].whole)}

    def total(g: fx.Graph, t: fx.Node, r: fx.Node, y: fx.Node) -> tuple[fx.Node, fx.Node]:
        made = g.call_function(aten.add.Tensor, (t, r))
        made.meta = dict(y.meta)
        return made, y

    right = claim_of(program, total, bindings, ("transformer.h.0.mlp/d", "transformer.h.0.mlp/d.rest"))
    wrong = claim_of(program, lambda g, t, r, y: (t, r), bindings, ("transformer.h.0.mlp/d", "transformer.h.0.mlp/d.rest"))
    report = equivalence(replace(program, claims=(right, wrong)))
    assert [line.status for line in report.claims] == ["proved", "fails"]
    assert report.claims[0].equation.startswith("(transformer.h.0.mlp/d + transformer.h.0.mlp/d.rest) = ")
    assert not report.proved


def test_members_of_large_families_are_sampled_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "ALL_MEMBERS", 3)
    monkeypatch.setattr(claims, "SAMPLED", 2)
    report = equivalence(tiny("gpt2").apply(heads.at("transformer.h.0.attn")))
    assert "2 members sampled of 4" in str(report)


def test_a_free_direction_is_proved_for_all_directions_and_zero_is_named() -> None:
    report = equivalence(split_gpt2())
    assert report.proved
    assert "divisions" in report.scope


def test_the_same_program_is_the_same() -> None:
    assert equivalence(toy(), toy()).subject == "Toy against itself"


def test_one_expression_on_both_sides_needs_its_ops_to_have_a_meaning() -> None:
    known = plain(lambda w, x: torch.tanh(x @ w), normal(2, 3), normal(3, 3))
    report = equivalence(known, known, seed=0)
    assert report.proved
    assert report.counts["primes at most"] == 1
    unknown = plain(lambda w, x: torch.linalg.inv(x @ w), normal(3, 3), normal(3, 3))
    report = equivalence(unknown, unknown, seed=0)
    assert report.verdict is Verdict.CONSISTENT
    assert report.reasons[0].startswith("no exact meaning")


def test_one_expression_of_other_leaves_is_another_one() -> None:
    left = plain(lambda u, v, x: torch.tanh(x @ u) @ v, normal(2, 3), normal(3, 3), 2 * normal(3, 3))
    right = plain(lambda u, v, x: torch.tanh(x @ v) @ u, normal(2, 3), normal(3, 3), 2 * normal(3, 3))
    assert equivalence(left, right, seed=0).verdict is Verdict.REFUTED
    assert equivalence(left, right, seed=0, weights="any").verdict is not Verdict.PROVED
