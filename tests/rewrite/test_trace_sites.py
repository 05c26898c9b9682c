"""Sites: every module boundary has one, with exactly the value of eager mode, and its own readers only."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from rewrite.checks import runner
from rewrite.program import Program
from rewrite.readers import reads
from rewrite.switches import switched
from rewrite.taps import Recorder
from rewrite.trace import trace
from tests.models import PLAIN, TRANSFORMERS, vectors

ALL = {**TRANSFORMERS, **PLAIN}


def site_values(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Every site's value."""
    graph, image = fx.Graph(), {}
    graph.graph_copy(program.graph, image)
    graph.output(tuple(image[program.nodes[site.node]] for site in program.sites_by_address.values()))
    with torch.no_grad():
        return dict(zip(program.sites_by_address, runner(replace(program, graph=graph))(args, kwargs), strict=True))


def eager_values(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """What hooks see in eager mode, by address."""
    recorder = Recorder(model)
    with torch.no_grad(), switched(model, (args, kwargs)), recorder.hooks():
        model(*args, **kwargs)
    return {address: value for tap, value in zip(recorder.taps, recorder.values, strict=True) for address in tap.addresses}


def readers(program: Program, address: str) -> set[str]:
    """The module calls (or "output") whose ops read a site."""
    site = program.sites_by_address[address]
    users = [user for user in program.nodes[site.node].users if reads(user, site)]
    return {user.op if user.op == "output" else (user.meta["scope"] or ("",))[-1] for user in users}


@pytest.mark.parametrize("name", ALL)
def test_every_module_boundary_is_a_site_with_the_eager_value(traced: Any, name: str) -> None:
    model, example, program = traced(name)
    found, expected = site_values(program, (), example), eager_values(model, (), example)
    assert set(expected) <= set(found)
    assert all(torch.equal(found[address], value) for address, value in expected.items())
    extra = {address for address in set(found) - set(expected) if not address.startswith(("@in", ":"))}
    assert all(
        "attention_mask" in address for address in extra
    )  # transformers makes a mask while tracing that it does without in eager mode


def test_root_inputs_and_outputs_are_sites(traced: Any) -> None:
    sites = traced("gpt2")[2].sites_by_address
    assert sites["@in:input_ids"].node == sites["@in"].node == "input_ids"
    assert sites[":logits"].node == sites["lm_head"].node
    assert sites["transformer:last_hidden_state"].node == sites["transformer"].node
    assert sites["transformer.h.0.attn:0"].node == sites["transformer.h.0.attn"].node
    assert sites["transformer.h.0.mlp@in:hidden_states"].scope == sites["transformer.h.0.mlp@in"].scope == "transformer.h.0.mlp"


def test_a_module_called_twice_has_two_sites_with_their_own_readers(traced: Any) -> None:
    program = traced("repeated")[2]
    assert readers(program, "layer@in") == {"layer"} and readers(program, "layer#2@in") == {"layer#2"}
    assert readers(program, "layer") == {""} and readers(program, "layer#2") == {"output"}


def test_an_identity_has_readers_of_its_own(traced: Any) -> None:
    program = traced("passing")[2]
    assert readers(program, "up") == {"same", "right"}
    assert readers(program, "same@in") == {"same"}
    assert readers(program, "same") == {"left"} == readers(program, "left@in")
    assert readers(program, "right@in") == {"right"}


@pytest.mark.parametrize(
    ("address", "changed"), [("up", "both"), ("same", "left"), ("same@in", "left"), ("left@in", "left"), ("right@in", "right")]
)
def test_rewiring_a_site_moves_its_own_readers_only(traced: Any, address: str, changed: str) -> None:
    model, example, program = traced("passing")
    site, graph, image = program.sites_by_address[address], fx.Graph(), {}
    graph.output(graph.graph_copy(program.graph, image))
    old = image[program.nodes[site.node]]
    with graph.inserting_after(old):
        double = graph.call_function(torch.ops.aten.mul.Tensor, (old, 2.0))
    for user in [image[u] for u in program.nodes[site.node].users if reads(u, site)]:
        user.replace_input_with(old, double)
    y = model.up(example["x"])  # type: ignore[operator]
    left, right = (2 if changed in ("both", side) else 1 for side in ("left", "right"))
    expected = model.left(left * y) + model.right(right * y)  # type: ignore[operator]
    torch.testing.assert_close(runner(replace(program, graph=graph))((), example)[0], expected)


class Chain(nn.Module):
    """Identity and eval dropout in a row, nobody else reading: their nodes are not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.same, self.drop, self.down = nn.Linear(4, 4), nn.Identity(), nn.Dropout(0.5), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.drop(self.same(self.up(x))).float())


def test_an_alias_that_tells_nothing_apart_is_merged_away() -> None:
    torch.manual_seed(0)
    program = trace(Chain().eval(), torch.randn(2, 3, 4))
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [torch.ops.aten.linear.default] * 2
    for address in ("up", "same@in", "same", "drop@in", "drop", "down@in"):
        assert readers(program, address) == {"down"}


@dataclass
class Record:
    """A dataclass that a module returns."""

    first: Tensor
    rest: tuple[Tensor, dict[str, Tensor]]


class Nested(nn.Module):
    """Returns tensors in a dataclass, a tuple and a dict; one of them its own argument, one twice."""

    def forward(self, x: Tensor, *, pair: tuple[Tensor, Tensor]) -> Record:
        return Record(x, (pair[0] + x, {"again": pair[1], "sum": pair[0] + pair[1]}))


class Containers(nn.Module):
    """Calls `inner` with a tuple by name and reads all that it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Nested()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made = self.inner(x, pair=(x + 1, x * 2))
        return made.first.sin(), made.rest[0].cos(), made.rest[1]["again"].exp(), made.rest[1]["sum"].neg(), x.tan()


def test_nested_arguments_and_results_have_leaves() -> None:
    program = trace(Containers().eval(), vectors())
    inside = [address for address in program.sites_by_address if address.startswith("inner")]
    assert inside == [
        "inner@in:x", "inner@in", "inner@in:pair:0", "inner@in:pair:1",
        "inner:first", "inner", "inner:rest:0", "inner:rest:1:again", "inner:rest:1:sum",
    ]  # fmt: skip
    found, expected = site_values(program, (vectors(),), {}), eager_values(Containers(), (vectors(),), {})
    assert all(torch.equal(found[address], value) for address, value in expected.items())
    assert [str(user) for user in program.nodes[program.sites_by_address["inner:first"].node].users] == ["sin"]


class Shared(nn.Module):
    """One block under two names, called three times, with a child of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(self.a(x)))


def test_a_module_under_two_names_counts_its_calls_under_the_first() -> None:
    torch.manual_seed(0)
    model = Shared().eval()
    program = trace(model, torch.randn(2, 3, 4))
    outputs = [address for address, site in program.sites_by_address.items() if site.kind == "output" and address != ":0"]
    assert outputs == ["a.0", "a.1", "a", "a.0#2", "a.1#2", "a#2", "a.0#3", "a.1#3", "a#3"]
    assert readers(program, "a#2@in") == {"a.0#2"} and readers(program, "a#2") == {"a.0#3"}
    assert {node.meta["scope"] for node in program.graph.nodes if node.op == "call_function"} == {
        (f"a{call}", f"a.{child}{call}") for call in ("", "#2", "#3") for child in (0, 1)
    }


class Unread(nn.Module):
    """Computes something that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.probe = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.probe(x)
        return self.used(x)


def test_a_site_that_nobody_reads_keeps_its_value_and_is_noted() -> None:
    torch.manual_seed(0)
    model, x = Unread().eval(), torch.randn(2, 3, 4)
    program = trace(model, x)
    assert torch.equal(site_values(program, (x,), {})["probe"], model.probe(x))
    assert readers(program, "probe") == set()
    assert program.header.notes == ("1 site that nothing reads: probe",)


class Overwritten(nn.Module):
    """Writes in place to what its modules were given and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.same, self.drop, self.act = nn.Linear(6, 6), nn.Identity(), nn.Dropout(0.5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.same(self.up(x))
        y[..., 0] = 0
        z = self.act(self.drop(y))
        z.view(-1)[1:3].add_(1)
        return self.up(z) + y


def test_a_site_is_the_value_at_the_time_of_the_call() -> None:
    torch.manual_seed(0)
    model, x = Overwritten().eval(), torch.randn(2, 3, 6)
    program = trace(model, x)
    found, expected = site_values(program, (x,), {}), eager_values(model, (x,), {})
    assert set(found) - {"@in:x", "@in", ":0"} == set(expected)
    assert all(torch.equal(found[address], value) for address, value in expected.items())
    assert not torch.equal(found["same"], found["drop@in"])
    assert program.header.checks["gradients"] == "unchecked, the model's own backward fails (RuntimeError)"
