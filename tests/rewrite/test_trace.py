"""Tracing: the program is the model, bit for bit, at other shapes and in its gradients too; and it is a clean graph."""

import copy
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rewrite.checks import runner
from rewrite.switches import switched
from rewrite.trace import trace
from tests.models import PLAIN, TRANSFORMERS, gpt2, llama, mlp, pair, token_ids, vectors

aten = torch.ops.aten
ALL = {**TRANSFORMERS, **PLAIN}


def flat(model: nn.Module, *args: Any, **kwargs: Any) -> list[Any]:
    """The flat outputs of a model under the settings that tracing needs."""
    with switched(model, (args, kwargs)):
        return tree_leaves(model(*args, **kwargs))


@pytest.mark.parametrize("name", ALL)
def test_every_check_of_the_header_is_bit_identical(traced: Any, name: str) -> None:
    header = traced(name)[2].header
    assert header.checks == dict.fromkeys(("outputs", "outputs at another shape", "gradients"), "bit-identical")
    assert header.dynamic == "batch, sequence"
    assert header.model == type(traced(name)[0]).__name__
    assert header.torch == torch.__version__


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 2), (2, 7)])
def test_other_shapes_give_the_models_outputs(traced: Any, name: str, shape: tuple[int, int]) -> None:
    model, example, program = traced(name)
    kwargs = {key: token_ids(*shape) if key == "input_ids" else torch.ones(shape, dtype=torch.int64) for key in example}
    with torch.no_grad():
        for a, b in zip(flat(model, **kwargs), runner(program)((), kwargs), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_gradients_flow_in_grad_mode(traced: Any, name: str) -> None:
    model, example, program = traced(name)
    model.zero_grad()
    runner(program)((), example)[0].square().sum().backward()
    found = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    flat(model, **example)[0].square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[key], parameter.grad, rtol=1e-4, atol=1e-4 * float(parameter.grad.abs().max()))
    model.zero_grad()


@pytest.mark.parametrize("name", ALL)
def test_the_graph_is_lifted_functional_and_clean(traced: Any, name: str) -> None:
    program = traced(name)[2]
    kinds = [leaf.kind for leaf in program.leaves.values()]
    assert kinds == sorted(kinds, key=["parameter", "buffer", "constant", "input"].index)
    assert [node.name for node in program.graph.find_nodes(op="placeholder")] == list(program.leaves)
    assert {node.op for node in program.graph.nodes} == {"placeholder", "call_function", "output"}
    for node in program.graph.nodes:
        assert set(node.meta) == {"val", "scope"}, node.format_node()
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable
            assert not any(word in str(node.target) for word in ("dropout", "assert", "lift_fresh", "view", "sym_constrain"))
    program.graph.lint()


@pytest.mark.parametrize("name", ALL)
def test_tensors_are_the_models_own_under_all_their_names(traced: Any, name: str) -> None:
    model, _, program = traced(name)
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    assert {leaf.name for leaf in program.leaves.values() if leaf.kind in ("parameter", "buffer")} == set(own)
    assert all(program.tensors[key] is tensor for key, tensor in own.items())


def test_a_tied_weight_is_read_under_the_name_of_the_module_that_reads_it(traced: Any) -> None:
    program = traced("gpt2")[2]
    assert program.tensors["lm_head.weight"] is program.tensors["transformer.wte.weight"]
    readers = {name: [str(user.target) for user in program.nodes[name].users] for name in ("lm_head_weight", "transformer_wte_weight")}
    assert readers == {"lm_head_weight": ["aten.linear.default"], "transformer_wte_weight": ["aten.embedding.default"]}


def test_buffers_say_whether_they_persist(traced: Any) -> None:
    leaves = {leaf.name: leaf for leaf in traced("pair")[2].leaves.values()}
    assert leaves["shift"].kind == leaves["scale"].kind == "buffer"
    assert leaves["shift"].persistent and not leaves["scale"].persistent


def test_the_calling_convention_is_the_models(traced: Any) -> None:
    model, _, program = traced("gpt2")
    calling, taken = program.calling, inspect.signature(model.forward).parameters.values()
    assert calling.parameters == tuple(one.name for one in taken if one.kind is one.POSITIONAL_OR_KEYWORD)
    assert calling.outputs == ("logits",)
    assert traced("pair")[2].calling.outputs == ("sum", "both:0", "both:1")
    assert traced("mlp")[2].calling.outputs == ("",)
    rebuilt = calling.out_spec.unflatten([torch.ones(1)])
    assert type(rebuilt).__name__ == "CausalLMOutputWithCrossAttentions" and "logits" in rebuilt


def test_arguments_by_position_and_by_name_give_the_same_names() -> None:
    model, example = pair()
    for args, kwargs in [
        ((example["a"], example["b"]), {}),
        ((example["a"],), {"b": example["b"]}),
        ((), {"b": example["b"], "a": example["a"]}),
    ]:
        program = trace(model, *args, **kwargs)
        assert sorted(leaf.name for leaf in program.leaves.values() if leaf.kind == "input") == ["a", "b"]
        assert torch.equal(runner(program)(args, kwargs)[0], flat(model, **example)[0])


class Constants(nn.Module):
    """A tensor made in forward, a plain attribute, a plain argument and a None."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(5.0)

    def forward(self, x: Tensor, *rest: Tensor, flag: bool = True, options: dict[str, Tensor] | None = None) -> Any:
        y = x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + self.table
        return y if flag else (y + rest[0] * (options or {})["gain"], None, 3)


def test_constants_and_nested_arguments_have_stable_names() -> None:
    model, x, gain = Constants().eval(), torch.randn(2, 5, requires_grad=True), torch.tensor(2.0)
    program = trace(model, x, x, flag=False, options={"gain": gain})
    names = [(leaf.kind, leaf.name) for leaf in program.leaves.values()]
    assert sorted(names[:2]) == [("constant", "constant_0"), ("constant", "table")]
    assert names[2:] == [("input", "x"), ("input", "rest:0"), ("input", "flag"), ("input", "options:gain")]
    assert program.tensors["table"] is model.table
    assert program.outputs[1:] == (None, 3)
    assert program.calling.outputs == ("0", "1", "2")
    other = torch.randn(2, 5)  # one object given twice is two arguments all the same
    args, kwargs = (x, other), {"flag": False, "options": {"gain": gain}}
    assert torch.equal(runner(program)(args, kwargs)[0], model(*args, **kwargs)[0])


def test_a_batch_of_one_still_gives_a_batch_dynamic_program() -> None:
    model, _ = gpt2()
    ids = token_ids(1, 7)
    program = trace(model, ids)
    assert program.header.dynamic == "batch, sequence"
    assert program.header.notes == ("the example's batch of 1 was repeated to 2 for tracing",)
    assert program.example[0][0] is ids
    for batch in (1, 3):
        with torch.no_grad():
            assert torch.equal(runner(program)((token_ids(batch, 5),), {})[0], flat(model, token_ids(batch, 5))[0])


class Recurrent(nn.Module):
    """An LSTM: a loop over the sequence, which torch unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Reshaping(nn.Module):
    """Fixes every size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 21).sin()


def test_dynamic_falls_back_to_the_batch_then_to_nothing() -> None:
    torch.manual_seed(0)
    program = trace(Recurrent().eval(), torch.randn(2, 5, 6))
    assert program.header.dynamic == "batch"
    assert trace(Reshaping().eval(), torch.randn(2, 7, 3)).header.dynamic == "static"


def test_dynamic_can_be_forbidden_or_given() -> None:
    model, example = mlp()
    fixed = trace(model, **example, dynamic=False)
    assert fixed.header.dynamic == "static" and "outputs at another shape" not in fixed.header.checks
    given = trace(model, **example, dynamic={"x": {0: torch.export.Dim("rows", min=2, max=64)}})
    assert given.header.dynamic == "as given"
    assert torch.equal(runner(given)((), {"x": vectors(batch=5)})[0], model(vectors(batch=5)))


class Hostile(nn.Module):
    """In-place writes to aliases of tapped values, a view, a detach, and reshapes that views would break on."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.same, self.drop = nn.Linear(6, 6), nn.Identity(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.same(self.drop(self.up(x)))
        z = y.clone()
        z[..., 0] = 0
        z.view(-1)[1:3].add_(1)
        w = self.drop(z).float()
        w += y.detach().detach_()
        return w.transpose(0, 1).reshape(-1, 6) * z.flatten(0, 1).relu_()


def test_in_place_writes_become_functional_and_gradients_stay() -> None:
    torch.manual_seed(0)
    program = trace(Hostile().eval(), torch.randn(2, 7, 6))
    assert program.header.checks == dict.fromkeys(("outputs", "outputs at another shape", "gradients"), "bit-identical")
    assert not any(node.target._schema.is_mutable for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload))


def test_a_model_on_the_meta_device_is_traced_and_said_to_be_unchecked() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 4).eval()
    program = trace(model, torch.empty(2, 3, device="meta"))
    assert program.header.checks == {"outputs": "unchecked", "gradients": "unchecked"}


def test_tracing_leaves_the_model_as_it_was_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model, example = llama()
    model.lm_head.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = trace(model, **example)
    assert capfd.readouterr() == ("", "")
    assert "config.use_cache=False" in program.header.switches
    assert model.config.use_cache is True  # type: ignore[union-attr]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules() if type(module) is not type(model))
    assert all(p.grad is None for p in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_an_interrupt_leaves_the_model_as_it_was() -> None:
    model, example = gpt2()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.lm_head.register_forward_hook(interrupt)  # type: ignore[union-attr, operator]
    with pytest.raises(KeyboardInterrupt):
        trace(model, **example)
    handle.remove()
    assert model.config.use_cache is True  # type: ignore[union-attr]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Writing(nn.Module):
    """Writes a part of a value, of another type and of fewer dimensions, into zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        zeros = torch.zeros_like(y)
        zeros[:, 1:3] = y[:, 1:3]
        zeros[:, 0] = torch.ones((), dtype=torch.float64)
        zeros[0].copy_(y[1].double())
        return zeros


def test_slices_written_into_a_value_have_gradients() -> None:
    torch.manual_seed(0)
    program = trace(Writing().eval(), torch.randn(2, 4))
    assert program.header.checks["outputs"] == program.header.checks["gradients"] == "bit-identical"
    assert all(node.target is not torch.ops.aten.copy.default for node in program.graph.nodes)
