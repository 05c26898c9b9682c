"""What the tests of ablation share: metrics, and ablation by plain hooks on the model, one at a time."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from passes import heads, paths
from rewrite import Program
from tests.models import HEADS, WIDTH, token_ids
from tests.passes.checking import PATH, attention, traced

HEAD = WIDTH // HEADS
PROJECTION = {
    "gpt2": "transformer.h.{}.attn.c_proj",
    "llama": "model.layers.{}.self_attn.o_proj",
    "bert": "bert.encoder.layer.{}.attention.output.dense",
}


@cache
def ready(name: str) -> tuple[nn.Module, dict[str, Any], Program]:
    """(model, example, program with heads split and a path), made once, so that it is proved once."""
    model, example, program = traced(name)
    return model, example, program.apply(heads.at(attention(name, "*")), paths.at(PATH[name]))


def logit(output: Any, batch: Mapping[str, Any]) -> Tensor:
    """The logit of token 3 at the last position. Units: logits."""
    return output.logits[:, -1, 3]


def squares(output: Any, batch: Mapping[str, Any]) -> Tensor:
    """The mean square of a plain output."""
    return output.square().flatten(1).mean(1)


def data(example: Mapping[str, Any], batches: int = 2) -> list[dict[str, Any]]:
    """Batches of the example's shape."""
    return [{**example, "input_ids": token_ids(seed=seed)} for seed in range(1, batches + 1)]


def head_input(new: Callable[[Tensor], Any], head: int) -> Callable[..., Any]:
    """A pre-hook of an output projection that puts `new` of the slice in the place of a head's slice."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0].clone()
        mine = slice(head * HEAD, (head + 1) * HEAD)
        x[..., mine] = new(x[..., mine])
        return (x, *args[1:])

    return hook


def run(model: nn.Module, batch: Mapping[str, Any], hooks: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The model's output with pre-hooks ("module@in") and output hooks ("module") in force."""
    with ExitStack() as stack, torch.no_grad():
        for name, hook in (hooks or {}).items():
            module = model.get_submodule(name.removesuffix("@in"))
            register = module.register_forward_pre_hook if name.endswith("@in") else module.register_forward_hook
            stack.callback(register(hook).remove)
        return model(**batch)


def change(
    model: nn.Module, batches: list[dict[str, Any]], hooks: Mapping[str, Callable[..., Any]], metric: Callable[..., Tensor] = logit
) -> Tensor:
    """What the metric changes by with the hooks, for each example of all batches. Shapes: [example]."""
    return torch.cat([metric(run(model, batch, hooks), batch) - metric(run(model, batch), batch) for batch in batches]).double()


def inputs_of(model: nn.Module, batches: list[dict[str, Any]], module: str) -> list[Tensor]:
    """What goes into a module, batch by batch."""
    found: list[Tensor] = []
    for batch in batches:
        run(model, batch, {f"{module}@in": lambda module, args: found.append(args[0])})
    return found
