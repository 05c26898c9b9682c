"""What trace refuses, with the reason and the way out; and the two ways gradients are lost while outputs agree."""

import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rewrite.checks import gradients, outputs, runner
from rewrite.errors import TraceError
from rewrite.trace import trace
from tests.models import mlp, vectors


class Layer(nn.Module):
    """A linear layer; subclasses do something with its output that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 4)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        return self.after(self.up(x))

    def after(self, y: Tensor) -> Any:
        return y


class Noisy(Layer):
    def after(self, y: Tensor) -> Any:
        return y + torch.randn_like(y)


class Dropping(Layer):
    def after(self, y: Tensor) -> Any:
        return nn.functional.dropout(y, 0.5, training=True)


class Counting(Layer):
    def after(self, y: Tensor) -> Any:
        self.seen += 1
        return y + self.seen


class Overwriting(Layer):
    def forward(self, x: Tensor) -> Any:
        x.mul_(2)
        return self.up(x)


class Branching(Layer):
    def after(self, y: Tensor) -> Any:
        return y.exp() if y.sum() > 0 else y.neg()


class Sizing(Layer):
    def after(self, y: Tensor) -> Any:
        return torch.zeros(int(y.abs().sum()))


class Broken(Layer):
    def after(self, y: Tensor) -> Any:
        return y @ y


class Forgetful(Layer):
    def after(self, y: Tensor) -> Any:
        with torch.no_grad():
            scale = y.abs().mean()
        return y / scale


class Straight(torch.autograd.Function):
    """Rounds; passes gradients straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class Rounding(Layer):
    def after(self, y: Tensor) -> Any:
        return Straight.apply(y)


class Detached(Layer):
    def after(self, y: Tensor) -> Any:
        return y / y.detach().abs().mean()


class Forking(Layer):
    def after(self, y: Tensor) -> Any:
        return torch.cond(y.sum() > 0, lambda y: y + 1, lambda y: y - 1, (y,))


class Renorming(nn.Module):
    """Its embedding shortens rows in place when they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4, max_norm=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.table((x[..., 0] > 0).long())


class LoraLinear(nn.Linear):
    """Named as an adapter is."""


class Linear4bit(nn.Linear):
    """Named as a quantised layer is."""


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "random op": (
        Noisy(),
        r"expected a deterministic forward, got the random op aten\.randn_like.* Draw the random numbers outside and pass them in\.",
    ),
    "dropout left on": (Dropping(), r"expected a deterministic forward, got the random op aten\.(native_)?dropout"),
    "buffer": (Counting(), r"got one that writes to the buffer 'seen'\. Pass that state in as an argument and return the new one\."),
    "argument": (Overwriting(), r"expected a forward that leaves its arguments as they are, got one that writes to 'x'\. Clone it first\."),
    "parameter": (Renorming(), r"got one that writes to the parameter 'table\.weight'\."),
    "fork": (Forking(), r"expected plain tensor ops, got the control flow of cond\. Write it with torch\.where\."),
    "word": (nn.Sequential(OrderedDict({"class": nn.Linear(4, 4)})), r"expected modules that code can name, got 'class'\. Rename it"),
    "branch": (
        Branching(),
        r"expected control flow that does not depend on tensor values, .* at test_trace_refusals\.py:\d+ .*torch\.where",
    ),
    "size": (Sizing(), r"expected control flow that does not depend on tensor values"),
    "broken": (Broken(), r"expected a forward that torch\.export can follow, got .* at test_trace_refusals\.py:\d+ \(return y @ y\)"),
    "no_grad": (
        Forgetful(),
        r"a no_grad region or a custom autograd function, which tracing loses\. Remove it, or trace with forward_only=True\.",
    ),
    "autograd": (Rounding(), r"a no_grad region or a custom autograd function"),
    "adapter": (nn.Sequential(LoraLinear(4, 4)), r"expected a model without adapters, got LoraLinear at 0\. .*merge_and_unload\(\)\."),
    "quantised": (nn.Sequential(Linear4bit(4, 4)), r"got the quantised Linear4bit at 0\. Load the model without a quantisation setting"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_a_reason_and_a_way_out(name: str) -> None:
    model, message = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(TraceError, match=message) as caught:
        trace(model.eval(), torch.randn(2, 3, 4))
    assert str(caught.value).startswith(f"trace({type(model).__name__}): expected ")
    assert len(str(caught.value)) < 700


def test_refuses_training_mode_anywhere() -> None:
    model, example = mlp()
    model.act.train()  # type: ignore[union-attr, operator]
    with pytest.raises(
        TraceError, match=r"trace\(MLP\): expected a model in eval mode, got act in training mode\. Call model\.eval\(\) first\."
    ):
        trace(model, **example)


def test_refuses_what_is_no_module() -> None:
    with pytest.raises(TraceError, match="expected an nn.Module, got function. Wrap the function in a module's forward."):
        trace(lambda x: x, vectors())  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [Forgetful(), Rounding()], ids=["no_grad", "autograd function"])
def test_lost_gradients_can_be_accepted_and_are_said(model: nn.Module) -> None:
    x = torch.randn(2, 3, 4)
    program = trace(model.eval(), x, forward_only=True)
    assert torch.equal(runner(program)((x,), {})[0], model(x))
    assert program.header.checks["gradients"] == "forward only"
    assert "forward only: gradients are not the model's" in program.header.notes


def test_detach_is_no_reason_to_refuse() -> None:
    assert trace(Detached().eval(), torch.randn(2, 3, 4)).header.checks["gradients"] == "bit-identical"


def test_a_model_without_gradients_is_traced() -> None:
    class Counts(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return ids * 2

    program = trace(Counts().eval(), torch.arange(6).reshape(2, 3))
    assert program.header.checks["gradients"] == "none: no output depends on a parameter"


@pytest.mark.parametrize("factor", [1.01, 1 + 2e-6])
def test_the_checks_see_a_wrong_program(factor: float) -> None:
    model, example = mlp()
    program = trace(model, **example)
    program.tensors["up.bias"] = program.tensors["up.bias"].detach() * factor
    if factor > 1.001:
        with pytest.raises(TraceError, match=r"expected the model's outputs, got others \(max relative difference \de-\d+\)\."):
            outputs(model, runner(program), ((), example), "trace(MLP)")
    else:
        assert re.fullmatch(r"max relative difference \de-\d+", outputs(model, runner(program), ((), example), "trace(MLP)"))


def test_the_gradient_check_sees_a_lost_gradient_only() -> None:
    model, example = mlp()
    program = trace(model, **example)
    with program.graph.inserting_before(program.nodes["gelu"]):
        cut = program.graph.call_function(torch.ops.aten.detach.default, (program.nodes["linear"],))
    program.nodes["gelu"].replace_input_with(program.nodes["linear"], cut)
    assert outputs(model, runner(program), ((), example), "") == "bit-identical"
    words, rounding = gradients(model, runner(program), ((), example), "")
    assert words == "max relative difference 1e+00" and not rounding


class Stateful(nn.Module):
    """A Python attribute that changes from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.up(x) * self.calls


def test_refuses_a_forward_that_is_no_function_of_its_inputs() -> None:
    with pytest.raises(TraceError, match="make forward a function of its inputs"):
        trace(Stateful().eval(), torch.randn(2, 3, 4), dynamic=False)


@pytest.mark.parametrize(
    "call", [((), {}), ((vectors(), vectors()), {}), ((), {"y": vectors()})], ids=["missing", "one too many", "another name"]
)
def test_a_call_that_the_model_does_not_take(call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    with pytest.raises(TraceError, match=r"trace\(Layer\): expected a call of forward\(x\), got .* argument.*Give arguments as"):
        trace(Layer().eval(), *call[0], **call[1])
