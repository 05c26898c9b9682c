"""What tracing checks itself: the program gives the model's outputs bit for bit, and its gradients.

torch.export loses `no_grad` regions inside forward and custom autograd functions without a word: outputs agree, gradients do not. One
vector-Jacobian product with a random cotangent, over all parameters and float inputs, finds that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from rewrite.errors import TraceError
from rewrite.program import Program

BIT_IDENTICAL = "bit-identical"
Flat = Callable[[Any, Any], list[Any]]


def runner(program: Program) -> Flat:
    """A function from (args, kwargs), nested as in the example, to the program's flat outputs: the graph as it stands, nothing folded."""
    module = fx.GraphModule(nn.Module(), program.graph)
    fixed = [program.tensors[leaf.name] for leaf in program.leaves.values() if leaf.kind != "input"]
    return lambda args, kwargs: list(module(*fixed, *tree_leaves((args, kwargs))))


def is_meta(tensors: Mapping[str, Tensor], example: Any) -> bool:
    """True if some tensor has no data."""
    return any(isinstance(t, Tensor) and t.is_meta for t in [*tensors.values(), *tree_leaves(example)])


def outputs(model: nn.Module, program: Flat, example: tuple[Any, Any], where: str) -> str:
    """How far the program's outputs are from the model's on one example, in words.

    Raises: TraceError if that is more than rounding.
    """
    with torch.no_grad():
        return compare(tree_leaves(model(*example[0], **example[1])), program(*example), where)


def compare(expected: Sequence[Any], found: Sequence[Any], where: str) -> str:
    """How far apart two lists of outputs are, in words.

    Raises: TraceError if that is more than rounding.
    """
    if len(expected) != len(found):
        raise TraceError(f"{where}: expected {len(expected)} outputs as from the model, got {len(found)}. Please report this model.")
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
                raise TraceError(
                    f"{where}: expected output {i} to be {a!r} as from the model, got {b!r}. Return only tensors from forward."
                )
        elif a.shape != b.shape or a.dtype != b.dtype:
            got = f"{b.dtype} {tuple(b.shape)}"
            raise TraceError(f"{where}: expected output {i} as {a.dtype} {tuple(a.shape)}, got {got}. Trace with dynamic=False.")
    gaps = [(_difference(a, b, 0.0), _rounding(a)) for a, b in zip(expected, found, strict=True) if isinstance(a, Tensor)]
    if any(gap > rounding for gap, rounding in gaps):
        raise TraceError(
            f"{where}: expected the model's outputs, got others ({_in_words(max(gap for gap, _ in gaps))}). Its forward does something"
            " that export cannot see, such as changing a Python attribute: make forward a function of its inputs."
        )
    return _in_words(max((gap for gap, _ in gaps), default=0.0))


def gradients(model: nn.Module, program: Flat, example: tuple[Any, Any], where: str, tries: int = 3) -> tuple[str, bool]:
    """How far the program's vector-Jacobian product is from the model's, in words, and whether that is only rounding.

    Where memory happens to lie decides how some products round, so a difference is looked at again.
    Raises: TraceError if the outputs already differ in grad mode.
    """
    parameters = [p for p in model.parameters() if p.is_floating_point() or p.is_complex()]
    with _requiring_grad(parameters), torch.enable_grad():
        given = tree_map(lambda x: x.detach().clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x, example)
        wanted = [*parameters, *(x for x in tree_leaves(given) if isinstance(x, Tensor) and x.requires_grad)]
        try:
            values = tree_leaves(model(*given[0], **given[1]))
            expected = _product(values, wanted)
        except RuntimeError as error:
            return f"unchecked, the model's own backward fails ({type(error).__name__})", True
        own_values = program(*given)
        compare(values, own_values, where)
        found = _product(own_values, wanted)
    if expected is None and found is None:
        return "none: no output depends on a parameter", True
    pairs = _pairs(wanted, expected or [None] * len(wanted), found or [None] * len(wanted))
    if all(torch.equal(a, b) for a, b in pairs):
        return BIT_IDENTICAL, True
    largest = max(float(a.abs().max()) for a, _ in pairs if a.numel())
    if tries > 1:
        return gradients(model, program, example, where, tries - 1)
    # a gradient that is zero in exact arithmetic, as of a key's bias, is all rounding: measured against the largest one
    gaps = [(_difference(a, b, 1e4 * torch.finfo(a.dtype).eps * largest), _rounding(a)) for a, b in pairs]
    return _in_words(max(gap for gap, _ in gaps)), all(gap <= rounding for gap, rounding in gaps)


def _pairs(wanted: Sequence[Tensor], expected: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """The gradients side by side; one that is None on one side alone is zero there."""
    return [
        (torch.zeros_like(x) if a is None else a, torch.zeros_like(x) if b is None else b)
        for x, a, b in zip(wanted, expected, found, strict=True)
        if a is not None or b is not None
    ]


def _product(values: Sequence[Any], wanted: Sequence[Tensor]) -> list[Tensor | None] | None:
    generator = torch.Generator().manual_seed(0)
    outs, cotangents = [], []
    for value in values:
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            cotangent = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
            if value.requires_grad:
                outs.append(value)
                cotangents.append(cotangent)
    return list(torch.autograd.grad(outs, wanted, cotangents, allow_unused=True)) if outs and wanted else None


@contextmanager
def _requiring_grad(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Makes parameters require gradients, frozen ones too, and puts that back."""
    frozen = [p for p in parameters if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _difference(a: Tensor, b: Tensor, floor: float) -> float:
    """The largest difference over the largest value (at least `floor`); 0 only if every bit that counts is the same."""
    a, b = a.detach(), b.detach()
    if torch.equal(a, b) or not a.numel():
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    finite = a.isfinite() & b.isfinite()
    if not bool((finite | same).all()):
        return float("inf")
    scale = max(float(a[finite].abs().max()), floor)
    gap = float((a - b)[finite].abs().max())
    return gap / scale if scale else float("inf")


def _rounding(a: Tensor) -> float:
    """The relative difference that reordered arithmetic can make in a deep model, generously."""
    return min(2**10 * torch.finfo(a.dtype).eps, 2**-5) if a.is_floating_point() or a.is_complex() else 0.0


def _in_words(difference: float) -> str:
    return BIT_IDENTICAL if difference == 0 else f"max relative difference {difference:.0e}"
