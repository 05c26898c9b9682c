"""A program's value as an expression: the same numbers as a run, in letters that a paper can use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passes import direction, gates, neurons, norm
from rewrite import InputError, Program, SiteError, trace
from tests.models import MLP, spread
from tests.verify.programs import normal
from verify import formula

GOLDEN = Path(__file__).parent / "golden" / "two_neurons.tex"
WRITE_GOLDEN = "TAUTOMER_WRITE_GOLDEN"


def traced(model: nn.Module, **example: Tensor) -> Program:
    """The model in float64, no bias zero, at one shape."""
    return trace(spread(model, 0).double(), dynamic=False, **example)


def check(program: Program, site: str, given: Sequence[str] = (), **more: Any) -> Any:
    """The formula, which gives the numbers of a run to 1e-12 of the largest."""
    found = formula(program, site, given=given, **more)
    inputs = {leaf.name: program.example[1].get(leaf.name) for leaf in program.leaves.values() if leaf.kind == "input"}
    values = {**program.tensors, **inputs, **program.values([site, *given])}
    wanted = values[site].detach().numpy()
    numbers = found.evaluate({name: values[name] for name in found.symbols})
    assert numbers.shape == wanted.shape
    assert np.abs(numbers - wanted).max() <= 1e-12 * max(1, np.abs(wanted).max())
    return found


class Function(nn.Module):
    """A function of an input and a parameter w."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.same(self.function(x, self.w)) * 1


MASK = torch.tensor([[True, False], [True, True]])
OPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ring": lambda x, w: (2 * x - 0.25 * w) / (w**2 + 1) + x.square() - 3,
    "powers": lambda x, w: w**x + w.rsqrt() + w.sqrt() + 2**x + (1 / w),
    "functions": lambda x, w: torch.tanh(x) + torch.erf(x) + torch.exp(x) + torch.log(w) + torch.sin(x) + torch.cos(w) + x.abs() + x.sign(),
    "activations": lambda x, w: F.gelu(x) + F.gelu(x, approximate="tanh") + F.silu(x) + F.softplus(w) + F.mish(x) + torch.sigmoid(x),
    "corners": lambda x, w: F.relu(x) + F.leaky_relu(x, 0.1) + x.clamp(-0.5, 0.5) + torch.maximum(x, w) + F.elu(x) + F.hardswish(x),
    "choices": lambda x, w: torch.where(x > 0, x, w * x) + (x > w) * w + x.masked_fill(x < 0, 7.0),
    "sums": lambda x, w: x.sum() + x.mean(-1, keepdim=True) + x.var(-1, keepdim=True) + x.cumsum(-1) + x.logsumexp(-1, keepdim=True) + x.std(),
    "rows": lambda x, w: x.softmax(-1) * w + x.log_softmax(0),
    "norms": lambda x, w: F.layer_norm(x, (4,), w, w) + F.rms_norm(x, (4,), w, 1e-6) + x / x.norm(dim=-1, keepdim=True),
    "moves": lambda x, w: torch.cat([x[:, 2:], x[:, :2].flip(1)], 1) + x.roll(1, 0) + x.t().reshape(2, 4) + x.tril() + F.pad(x[:, 1:], (1, 0)),
    "products": lambda x, w: x @ torch.outer(w, w) + torch.einsum("ij,j->i", x, w)[:, None] + F.linear(x, w.expand(4, 4), w),
    "masks": lambda x, w: (x[:, :2] + torch.zeros(2, 2).masked_fill(~MASK, float("-inf"))).softmax(-1) @ x[:2],
    "tables": lambda x, w: x[:, torch.tensor([3, 0, 0, 1])] + w[torch.tensor([[1], [2]])] + torch.arange(4) + x.gather(1, torch.tensor([[0, 1, 1, 3], [3, 3, 2, 0]])),
    "largest": lambda x, w: x.amax(-1, keepdim=True) + x.amin(0) + x.prod(-1, keepdim=True),
    "taken apart by torch": lambda x, w: F.glu(torch.cat([x, x], 1)) + F.celu(x) + torch.lerp(x, w, 0.3) + torch.logaddexp(x, w) + F.pad(x[:, :3], (0, 1), value=2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_every_op_gives_the_numbers_of_a_run(name: str) -> None:
    check(traced(Function(OPS[name]), x=normal(2, 4).double()), "same")


class Attention(nn.Module):
    """Causal attention of two heads."""

    def __init__(self, width: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for t in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-2, -3).flatten(-2))


def test_attention_and_its_causal_mask() -> None:
    found = check(traced(Attention(), x=normal(1, 3, 4).double()), "out")
    read = {symbol.name.partition("[")[2] for symbol in found[0, 0, 0].free_symbols if symbol.name.startswith("x[")}
    assert read == {f"0,0,{i}]" for i in range(4)}  # the first position sees itself alone


def test_a_gpt2_of_one_layer() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=2, n_positions=4, n_inner=4, bos_token_id=0, eos_token_id=0)
    program = traced(GPT2LMHeadModel(config), input_ids=torch.tensor([[1, 3]]))
    found = check(program, "lm_head")
    assert found.symbols["transformer.wte.weight"].shape == (5, 4)
    with pytest.raises(InputError, match="expected at most 100000 operations to print"):
        str(found)
    short = check(program, "transformer.h.0.mlp", given=["transformer.h.0.mlp.c_fc"])
    assert len(str(short).splitlines()) == 8 and short.array.shape == (1, 2, 4)


def two_neurons() -> Program:
    """An MLP of two neurons, one position."""
    return traced(MLP(2, 2), x=normal(1, 2).double())


def test_the_latex_of_two_neurons() -> None:
    text = formula(two_neurons(), "down", letters={"up.weight": "U", "down.weight": "V"}).latex() + "\n"
    if os.environ.get(WRITE_GOLDEN):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_terms_in_terms_of_what_is_given() -> None:
    program = two_neurons().apply(neurons.at("down"))
    member = formula(program, "down/neuron[1]", given={"act": "a"})
    assert str(member).splitlines()[0] == "down/neuron[1][0, 0] = act[0,1]*down.weight[0,1]"
    assert member.latex().splitlines()[1] == r"\mathrm{down/neuron[1]}_{0} &= a_{1} W^{\mathrm{down}}_{01} \\"
    assert str(formula(program, "down/neuron[1]@act", given=["act"])) == "down/neuron[1]@act[0] = act[0,1]"
    assert formula(program, "down@[0, 1]").array.shape == ()
    assert sympy.expand(formula(program, "down/neuron", given=["act"])[0, 0] - sum(formula(program, f"down/neuron[{i}]", given=["act"])[0, 0] for i in (0, 1))) == 0  # fmt: skip


def test_a_module_and_an_input_of_one_name_are_told_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.out = nn.Linear(1, 1), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.x(x) - x) * 1

    program = traced(Twice(), x=normal(1).double())
    assert str(formula(program, "out", given=["x"])) in ("out[0] = -x[0] + x@out[0]", "out[0] = x@out[0] - x[0]")


def test_passes_and_gates() -> None:
    program = two_neurons().apply(direction.at("act", d=torch.tensor([1.0, 2.0]).double(), name="d"), gates.at("act/d"))
    opened = check(program, "down")
    assert opened.symbols["act/d.d"].shape == (2,)  # what a pass brought along is a letter, a gate is the number that it is
    assert str(formula(program, "act", given=["act/d", "act/d.rest"])).splitlines()[0] == "act[0, 0] = act/d.rest[0,0] + act/d[0,0]"
    program.gates["act/d"].g = 0
    assert str(check(program, "act/d")) == "act/d[0, 0] = 0\nact/d[0, 1] = 0"
    assert str(check(program, "down")) != str(opened)


def test_parts_of_a_norm() -> None:
    program = traced(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)), input=normal(1, 3).double()).apply(norm.at("0"))
    found = check(program, "0/scale")
    assert "input[0,0]" in str(found)


def test_a_wrong_number_is_seen() -> None:
    program = two_neurons()
    found = formula(program, "down")
    values = {**program.tensors, "x": program.example[1]["x"]}
    moved = {**values, "up.bias": values["up.bias"] + 1e-9}
    assert np.abs(found.evaluate(moved) - found.evaluate(values)).max() > 1e-12


def test_activations_are_written_out_on_demand() -> None:
    program = two_neurons()
    assert "gelu(" in str(formula(program, "down")) and "erf(" not in str(formula(program, "down"))
    written = str(formula(program, "down").written_out())
    assert "gelu(" not in written and "erf(" in written


def test_what_has_no_formula_is_named() -> None:
    program = traced(Function(lambda x, w: x.topk(2, -1).values), x=normal(2, 4).double())
    with pytest.raises(
        InputError, match=r"expected ops that have a formula, got aten.topk.default at topk \(.*\). Stop behind it with given="
    ):
        formula(program, "same")
    ids = traced(Function(lambda x, w: x.long() * w), x=normal(2, 4).double())
    with pytest.raises(InputError, match="expressions as torch.int64"):
        formula(ids, "same")
    masked = traced(Function(lambda x, w: (x + torch.full((4,), float("-inf"))).softmax(-1)), x=normal(2, 4).double())
    with pytest.raises(InputError, match="a softmax of masked elements alone"):
        formula(masked, "same")


def test_misuse() -> None:
    program = two_neurons()
    with pytest.raises(InputError, match="expected at most 10 elements on the way, got more at .*Trace a smaller model"):
        formula(program, "down", limit=10)
    with pytest.raises(SiteError, match="no site matches 'dwn'"):
        formula(program, "dwn")
    with pytest.raises(SiteError, match="expected a family, got 'down', which is none"):
        formula(program, "down[1]")
    with pytest.raises(InputError, match="expected given= sites other than 'down', whole ones, got 'down'"):
        formula(program, "down", given=["down"])
    with pytest.raises(InputError, match="expected letters for weights and inputs, got one for 'up.wieght'"):
        formula(program, "down", letters={"up.wieght": "U"})
    with pytest.raises(InputError, match=r"expected one site, got \d+"):
        formula(program, "*")
    with pytest.raises(InputError, match="got none for 'x'"):
        formula(program, "down").evaluate(program.tensors)
