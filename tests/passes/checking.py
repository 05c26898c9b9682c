"""What the tests of passes share: traced models, comparison with a hooked model, golden text, claims on floats."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from passes import dictionary, direction, distribute, gates, heads, neurons, norm, paths, subspace, surrogate
from rewrite import Bound, Program, trace
from tests.models import PLAIN, TRANSFORMERS, WIDTH, token_ids
from verify import Report, equivalence

FEATURES = 20
GOLDEN = Path(__file__).parent / "golden"
# TAUTOMER_WRITE_GOLDEN=1 pytest tests/passes writes the files anew; read the difference before you commit it
WRITE_GOLDEN = "TAUTOMER_WRITE_GOLDEN"

BLOCK = {"gpt2": "transformer.h.{}", "llama": "model.layers.{}", "mixtral": "model.layers.{}", "bert": "bert.encoder.layer.{}"}
ATTENTION = {"gpt2": "attn", "llama": "self_attn", "mixtral": "self_attn", "bert": "attention.output.dense"}
MLP = {"gpt2": "mlp", "llama": "mlp", "mixtral": "mlp", "bert": "output.dense"}
NORM = {"gpt2": "transformer.ln_f", "llama": "model.norm", "mixtral": "model.norm", "bert": "bert.encoder.layer.1.output.LayerNorm"}
PATH = {
    "gpt2": "transformer.h.0.mlp -> transformer.ln_f@in",
    "llama": "model.layers.0.mlp -> model.norm@in",
    "mixtral": "model.layers.0.mlp -> model.norm@in",
    "bert": "bert.encoder.layer.1.output.dense -> bert.encoder.layer.1.output.LayerNorm@in",
}


@cache
def traced(name: str) -> tuple[nn.Module, dict[str, Any], Program]:
    """(model, example, program) of a model in tests.models; nobody may change the first two."""
    model, example = {**TRANSFORMERS, **PLAIN}[name]()
    return model, example, trace(model, **example)


def block(model: str, layer: int | str = 0) -> str:
    """The address of a block."""
    return BLOCK[model].format(layer)


def attention(model: str, layer: int | str = 0) -> str:
    """The address where attention's output projection is written."""
    return f"{block(model, layer)}.{ATTENTION[model]}"


def mlp(model: str, layer: int | str = 0) -> str:
    """The address of an MLP's output."""
    return f"{block(model, layer)}.{MLP[model]}"


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Random normal numbers."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sae(width: int = WIDTH, features: int = FEATURES, **more: Tensor) -> dict[str, Tensor]:
    """A sparse autoencoder with random weights."""
    encoder, decoder = draw(width, features, seed=1, scale=0.3), draw(features, width, seed=2)
    return {"W_enc": encoder, "b_enc": draw(features, seed=3), "W_dec": decoder, "b_dec": draw(width, seed=4, scale=0.1), **more}


def transcoder(width: int = WIDTH) -> nn.Sequential:
    """A two-layer function to put in an MLP's place."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(width, FEATURES), nn.ReLU(), nn.Linear(FEATURES, width)).eval().requires_grad_(False)


def surrogate_site(model: str) -> str:
    """A module whose input and output are both of the model's width."""
    return f"{block(model, 1)}.attention.output.dense" if model == "bert" else mlp(model, 1)


PASSES: dict[str, Callable[[str], Bound]] = {
    "direction": lambda m: direction.at(mlp(m, "*"), d=draw(WIDTH, seed=6)),
    "subspace": lambda m: subspace.at(attention(m, 0), basis=draw(3, WIDTH, seed=7)),
    "surrogate": lambda m: surrogate.at(surrogate_site(m), f=transcoder()),
    "dictionary": lambda m: dictionary.at(block(m, 0), sae=sae()),
    "heads": lambda m: heads.at(attention(m, "*")),
    "neurons": lambda m: neurons.at(f"{mlp(m, '*')}" if m != "mixtral" else "lm_head"),
    "norm": lambda m: norm.at(NORM[m]),
    "paths": lambda m: paths.at(PATH[m]),
    "gates": lambda m: gates.at(mlp(m, "*"), attention(m, "*")),
    "distribute": lambda m: distribute.at(f"{NORM[m]}@in"),
}


def other_example(example: dict[str, Any]) -> dict[str, Any]:
    """The example's arguments at another shape."""
    return {key: token_ids(3, 5, seed=9) if key == "input_ids" else torch.ones(3, 5, dtype=torch.int64) for key in example}


def logits(model: Any, example: dict[str, Any]) -> Tensor:
    """The logits, without gradients."""
    with torch.no_grad():
        return model(**example).logits


def assert_close(found: Tensor, wanted: Tensor, ulps: float = 32) -> None:
    """Equal within `ulps` units in the last place of the largest element."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    worst, unit = float((found - wanted).abs().max()), torch.finfo(wanted.dtype).eps * float(wanted.abs().max())
    assert worst <= ulps * unit, f"{worst / unit:.3g} ulp of the largest"


def assert_moved(found: Tensor, original: Tensor) -> None:
    """Different by far more than rounding."""
    assert float((found - original).abs().max()) > 1e-3 * float(original.abs().max())


def assert_edit(program: Program, edit: dict[str, Any], model: nn.Module, example: dict[str, Any], ulps: float = 64) -> Tensor:
    """The logits under `edit`, which are what `model`, hooked by the caller, gives, and not what the program gives unedited."""
    with torch.no_grad():
        found = program.run(example, edit=edit)[0].logits
    assert_close(found, logits(model, example), ulps)
    assert_moved(found, logits(program, example))
    return found


@contextmanager
def hooked(model: nn.Module, path: str, *, output: Any = None, inputs: Any = None) -> Iterator[None]:
    """`model` with `output(x, y)` in place of what the module at `path` returns, or `inputs(x)` in place of its first input."""
    module = model.get_submodule(path)

    def after(_: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        return (output(x, result[0]), *result[1:]) if isinstance(result, tuple) else output(x, result)

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (inputs(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: inputs(kwargs[first])}

    handle = module.register_forward_hook(after, with_kwargs=True) if output else module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def zeroed(index: Any) -> Callable[[Tensor], Tensor]:
    """A function that sets `x[..., index]` to zero."""

    def function(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., index] = 0
        return x

    return function


def proved(program: Program) -> Report:
    """The report on `program`, which must be proved with all its claims."""
    report = equivalence(program, seed=0)
    assert report.proved, str(report)
    return report


def assert_claim_fails(program: Program, sentence: str) -> None:
    """The claim called `sentence` is not proved, though the sum is, wherever it was made."""
    report = equivalence(program, seed=0)
    lines = [line for line in report.claims if line.sentence == sentence]
    assert {line.status for line in lines} == {"fails"}, str(report)


def assert_refuted(program: Program) -> None:
    """The program is not proved to be its origin."""
    report = equivalence(program, seed=0)
    assert report.verdict.value in ("REFUTED", "DIFFERS"), str(report)


def check_golden(name: str, program: Program) -> None:
    """The listing of `program` is that of the golden file; see WRITE_GOLDEN."""
    path, text = GOLDEN / f"{name}.txt", f"{program}\n"
    if os.environ.get(WRITE_GOLDEN):
        path.write_text(text)
    assert path.exists(), f"{path.name} is missing: run {WRITE_GOLDEN}=1 pytest tests/passes, and read it"
    assert text == path.read_text()


class Attention(nn.Module):
    """Causal attention with two heads, small enough to be read: modules `q`, `k`, `v`, `out`."""

    def __init__(self, width: int = 8, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        future = ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = (q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5)).masked_fill(future, -1e4)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A block around attention and an MLP, and a norm: modules `ln`, `attn`, `up`, `down`, `mlp`, `ln_f`."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.ln, self.attn, self.ln_f = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln(x))
        return self.ln_f(x + self.mlp(x))


@cache
def layer() -> tuple[nn.Module, Tensor, Program]:
    """(model, input, program) of a small plain layer, traced at one shape so that its listing has no symbols."""
    torch.manual_seed(0)
    model, x = Layer().eval(), draw(2, 3, 8)
    return model, x, trace(model, x, dynamic=False)
