"""Surrogates: any function f as a term, and what it misses.

    y = f(x) + (y - f(x))        for every f

f may be a module (a transcoder, say), a function, a sympy expression applied to every element, or the least-squares fit to data. The
rest keeps its own copy of f: editing inside f moves the output, it is not cancelled by the rest.
Source: Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits" (f a transcoder).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
import torch
from torch import Tensor, nn

from rewrite import PassError, Terms, split
from rewrite.arguments import SiteView

Function = nn.Module | Callable[[Tensor], Tensor] | sympy.Expr


@split(callables=("f",))
def surrogate(y: Tensor, x: Tensor, *, f: Function | None = None, fit: Iterable[Mapping[str, Any]] | None = None) -> Terms:
    """`f` of the module's first input, and the rest of the module's output. With `fit=` (batches of inputs) f is fitted first.

    Shapes: x [..., d_in], y [..., d_out]; terms [..., d_out].
    """
    approximation = as_function(f)(x)
    return Terms(approximation, rest=y - approximation)


def as_function(f: Any) -> Callable[[Tensor], Tensor]:
    """`f` as a function of a tensor; a sympy expression in one symbol is applied to every element.

    Raises: PassError for anything else.
    """
    if isinstance(f, sympy.Basic):
        symbols = sorted(f.free_symbols, key=str)
        if len(symbols) != 1:
            raise PassError(f"surrogate: expected a sympy expression in one symbol, got {len(symbols)} in {f}. Write it in x alone.")
        names = {
            name: _of_either(getattr(torch, name), getattr(math, name)) for name in ("exp", "tanh", "sqrt", "log", "erf", "sin", "cos")
        }
        function: Any = sympy.lambdify(symbols, f, modules=[{**names, "Max": _largest, "Min": _smallest, "Abs": abs}])
        return lambda x: function(x)
    if not callable(f):
        raise PassError(f"surrogate: expected f= a module, function or sympy expression, or fit= batches, got {type(f).__name__}.")
    return f  # type: ignore[return-value]


def _of_either(of_tensor: Callable[[Tensor], Tensor], of_number: Callable[[float], float]) -> Callable[[Any], Any]:
    """The function of tensors and of plain numbers, such as the root of two in an expression."""
    return lambda value: of_tensor(value) if isinstance(value, Tensor) else of_number(value)


def _largest(*values: Any) -> Tensor:
    tensor = next(value for value in values if isinstance(value, Tensor))
    for value in values:
        tensor = torch.maximum(tensor, value) if isinstance(value, Tensor) else tensor.clamp(min=float(value))
    return tensor


def _smallest(*values: Any) -> Tensor:
    tensor = next(value for value in values if isinstance(value, Tensor))
    for value in values:
        tensor = torch.minimum(tensor, value) if isinstance(value, Tensor) else tensor.clamp(max=float(value))
    return tensor


@surrogate.prepare
def _fitted(site: SiteView, arguments: dict[str, Any]) -> dict[str, Any]:
    if arguments["fit"] is None:
        return arguments
    if arguments["f"] is not None:
        raise PassError(f"{site.address}: expected f= or fit=, got both. Leave one out.")
    return {"f": least_squares(site, arguments["fit"]), "fit": None}


def least_squares(site: SiteView, batches: Iterable[Mapping[str, Any]]) -> nn.Linear:
    """The affine map from the module's first input to the site that is nearest in the mean square over `batches`.

    Raises: PassError if there is no batch.
    """
    inputs, outputs = [], []
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise PassError(f"{site.address}: expected fit= batches as dicts of inputs, got {type(batch).__name__}. Write fit=[dict(x=x)].")
        values = site.program.values([f"{site.module}@in", site.address], **batch)
        inputs.append(values[f"{site.module}@in"].detach().flatten(0, -2))
        outputs.append(values[site.address].detach().flatten(0, -2))
    if not inputs:
        raise PassError(f"{site.address}: expected at least one batch to fit on, got none.")
    x, y = torch.cat(inputs), torch.cat(outputs)
    ones = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
    least = torch.finfo(x.dtype).eps * max(x.shape)  # directions that only rounding put into the data (behind a norm) are none
    solution = torch.linalg.lstsq(torch.cat([x, ones], 1).double(), y.double(), rcond=least, driver="gelsd").solution.to(x.dtype)
    fitted = nn.Linear(x.shape[1], y.shape[1], dtype=x.dtype, device=x.device)
    with torch.no_grad():
        fitted.weight.copy_(solution[:-1].T)
        fitted.bias.copy_(solution[-1])
    return fitted.eval().requires_grad_(False)


@surrogate.identity("f(x) and the rest sum to y, whatever f is", y=(2, 2), x=(2, 2), f=torch.tanh)
def _sum(law: Any, y: Any, x: Any, f: Any):
    return law(y, x, f=f).total, y
