"""Pairs of programs that two parties wrote: torch.nn.functional against torch._refs, models of transformers against ones by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.mutants import byhand
from benchmarks.mutants.judges import BOUND
from benchmarks.mutants.results import Line
from rewrite import TautomerError, trace
from verify import Report, equivalence

Function = Callable[..., Tensor]

X = {"x": (3, 8)}
XY = {"x": (3, 8), "y": (3, 8)}
FUNCTIONS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "gelu": ("gelu", X, {}),
    "gelu by tanh": ("gelu", X, {"approximate": "tanh"}),
    "softplus": ("softplus", X, {}),
    "softplus, beta 2": ("softplus", X, {"beta": 2.0}),
    "elu": ("elu", X, {}),
    "celu": ("celu", X, {"alpha": 0.5}),
    "selu": ("selu", X, {}),
    "leaky_relu": ("leaky_relu", X, {}),
    "relu": ("relu", X, {}),
    "relu6": ("relu6", X, {}),
    "hardtanh": ("hardtanh", X, {}),
    "hardshrink": ("hardshrink", X, {}),
    "softshrink": ("softshrink", X, {}),
    "tanhshrink": ("tanhshrink", X, {}),
    "threshold": ("threshold", X, {"threshold": 0.5, "value": -1.0}),
    "mish": ("mish", X, {}),
    "glu": ("glu", X, {}),
    "softmax": ("softmax", X, {"dim": -1}),
    "log_softmax": ("log_softmax", X, {"dim": -1}),
    "softmin": ("softmin", X, {"dim": -1}),
    "layer_norm": ("layer_norm", X, {"normalized_shape": [8]}),
    "group_norm": ("group_norm", {"x": (2, 6, 5)}, {"num_groups": 3}),
    "smooth_l1_loss": ("smooth_l1_loss", XY, {}),
    "huber_loss": ("huber_loss", XY, {}),
    "l1_loss": ("l1_loss", XY, {}),
    "mse_loss": ("mse_loss", XY, {}),
    "margin_ranking_loss": ("margin_ranking_loss", {**XY, "z": (3, 8)}, {}),
    "poisson_nll_loss": ("poisson_nll_loss", XY, {}),
    "pairwise_distance": ("pairwise_distance", XY, {}),
    "pixel_shuffle": ("pixel_shuffle", {"x": (1, 4, 2, 2)}, {"upscale_factor": 2}),
    "pixel_unshuffle": ("pixel_unshuffle", {"x": (1, 1, 4, 4)}, {"downscale_factor": 2}),
}


class Plain(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Function, settings: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """What the function gives."""
        return self.function(*(t for t in (x, y, z) if t is not None), **self.settings)


def of_function(name: str, seed: int) -> Line:
    """torch.nn.functional against torch._refs."""
    called, shapes, settings = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(seed)
    example = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    sides = [getattr(module, called) for module in (F, torch._refs.nn.functional)]
    first, second = (trace(Plain(side, settings).eval(), **example, dynamic=False) for side in sides)
    found = said(equivalence(first, second, bound=BOUND, seed=seed))
    if [node.target for node in first.graph.nodes] == [node.target for node in second.graph.nodes]:
        found["remark"] = f"{found['remark']} (traced to the same ops)".strip()
    return {"first": f"F.{name}", "second": f"torch._refs {called}", **found}


def of_model(name: str, seed: int) -> Line:
    """A model of transformers against one written from its paper or its documentation."""
    return {"first": f"transformers {name}", "second": "by hand", **said(byhand.MODELS[name](seed))}


def said(report: Report) -> Line:
    """A verdict and where it comes from."""
    remark = "" if report.proved else "; ".join([*([f"at {report.site}"] if report.site else []), *report.reasons])[:160]
    return {"verdict": report.verdict.value, "remark": remark.replace("|", "/").replace("\n", " ")}


PAIRS: dict[str, list[str]] = {"function": list(FUNCTIONS), "model": list(byhand.MODELS)}
MAKE = {"function": of_function, "model": of_model}


def run(kind: str, seed: int, done: set[str]) -> Iterator[Line]:
    """A line for every pair of a kind that is not done."""
    for name in PAIRS[kind]:
        key, start = f"pair/{kind}/{name}", time.process_time()
        if key in done:
            continue
        try:
            line = MAKE[kind](name, seed)
        except (TautomerError, RuntimeError, AttributeError, TypeError) as error:
            line = {"first": name, "second": "", "verdict": "not traced", "remark": str(error).splitlines()[0][:160].replace("|", "/")}
        yield {"key": key, **line, "seconds": round(time.process_time() - start, 2)}
