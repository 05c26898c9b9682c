"""The options of passes: each gives a program that is proved, runs like the model, and has terms that are what they say."""

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn

from passes import dictionary, surrogate
from rewrite import Program
from tests.models import WIDTH
from tests.passes.checking import FEATURES, draw, sae, traced
from verify import Verdict, equivalence

AT = "transformer.h.0.mlp"
x = sympy.Symbol("x")
EXPRESSIONS: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "polynomial": (x**2 / 2 + 3 * x - 1, lambda t: t * t / 2 + 3 * t - 1),
    "squash": (sympy.tanh(x / 2), lambda t: torch.tanh(t / 2)),
    "gelu": (x * (1 + sympy.erf(x / sympy.sqrt(2))) / 2, lambda t: nn.functional.gelu(t)),
    "relu": (sympy.Max(x, 0), lambda t: t.relu()),
    "between": (sympy.Min(sympy.Max(x, -1), 1), lambda t: t.clamp(-1, 1)),
    "size": (sympy.Abs(x), lambda t: t.abs()),
}


def proved(program: Program) -> None:
    """Raises: AssertionError unless the program is proved, gradients left aside, and runs like its origin."""
    report = equivalence(program, seed=0)
    assert report.verdict is Verdict.PROVED, str(report)
    _, example, origin = traced("gpt2")
    with torch.no_grad():
        torch.testing.assert_close(program(**example).logits, origin(**example).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_surrogate_written_in_sympy(name: str) -> None:
    expression, function = EXPRESSIONS[name]
    program = traced("gpt2")[2].apply(surrogate.at(AT, f=expression))
    values = program.values([f"{AT}@in", f"{AT}/surrogate", f"{AT}/surrogate.rest", AT])
    torch.testing.assert_close(values[f"{AT}/surrogate"], function(values[f"{AT}@in"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(values[f"{AT}/surrogate"] + values[f"{AT}/surrogate.rest"], values[AT])
    proved(program)


def test_a_fitted_surrogate_is_the_least_squares_solution() -> None:
    _, example, origin = traced("gpt2")
    batches = [{**example, "input_ids": (example["input_ids"] + i) % 50} for i in range(12)]
    program = origin.apply(surrogate.at(AT, fit=batches))
    read = [origin.values([f"{AT}@in", AT], **batch) for batch in batches]
    inputs = torch.cat([values[f"{AT}@in"].flatten(0, -2) for values in read]).double()
    outputs = torch.cat([values[AT].flatten(0, -2) for values in read]).double()
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    best = torch.linalg.lstsq(torch.cat([inputs, ones], 1), outputs, rcond=1e-5, driver="gelsd").solution
    here = program.values([f"{AT}@in", f"{AT}/surrogate"])
    wanted = here[f"{AT}@in"].double() @ best[:-1] + best[-1]
    torch.testing.assert_close(here[f"{AT}/surrogate"].double(), wanted, rtol=1e-3, atol=1e-4)
    proved(program)


class Autoencoder(nn.Module):
    """A sparse autoencoder as an object: its tensors are attributes."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))


def top(pre: Tensor, k: int) -> Tensor:
    """The k largest, the others zero."""
    values, at = pre.topk(k, -1)
    return torch.zeros_like(pre).scatter(-1, at, values.relu())


THRESHOLD = draw(FEATURES, seed=9).abs()
ENCODERS: dict[str, tuple[dict[str, Tensor], dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "relu": ({}, {}, lambda pre: pre.relu()),
    "jumprelu": ({"threshold": THRESHOLD}, {}, lambda pre: pre.relu() * (pre > THRESHOLD)),
    "topk": ({}, {"k": 3}, lambda pre: top(pre, 3)),
    "not centred": ({}, {"center": False}, lambda pre: pre.relu()),
}


@pytest.mark.parametrize("made", [dict, lambda tensors: Autoencoder(tensors).eval()], ids=["tensors", "module"])
@pytest.mark.parametrize("name", ENCODERS)
def test_dictionaries_of_every_kind(name: str, made: Callable[[dict[str, Tensor]], Any]) -> None:
    more, options, activation = ENCODERS[name]
    tensors = sae(WIDTH, **more)
    program = traced("gpt2")[2].apply(dictionary.at(AT, sae=made(tensors), **options))
    family = f"{AT}/feature"
    values = program.values([AT, f"{family}@act", family, f"{family}.bias", f"{family}.error", f"{family}[2]"])
    shift = tensors["b_dec"] if options.get("center", True) else 0.0
    acts = activation((values[AT] - shift) @ tensors["W_enc"] + tensors["b_enc"])
    torch.testing.assert_close(values[f"{family}@act"], acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values[f"{family}[2]"], acts[..., 2:3] * tensors["W_dec"][2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values[family] + values[f"{family}.bias"] + values[f"{family}.error"], values[AT], rtol=1e-4, atol=1e-4)
    proved(program)
