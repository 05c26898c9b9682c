"""Families in a graph: how the sum over all members, and one member, are computed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rewrite.terms import operand_terms


def total(equation: str, operands: Sequence[Tensor]) -> Tensor:
    """The sum over all members, as the plain matrix product that it came from where it is one.

    Summed letters that stand side by side at the end of both operands are one axis: `...nk,mnk->...m` runs as a linear op on the
    flattened operands, and flattening what was unflattened is a view.
    """
    left, right = operand_terms(equation) if len(operands) == 2 else ("", "")
    output = equation.split("->")[1]
    letters = right.strip(".")
    summed = "".join(c for c in letters if c not in output)
    kept = "".join(c for c in letters if c in output)
    plain = summed and len(kept) == 1 and left == "..." + summed and output == "..." + kept and not right.startswith("...")
    if plain and letters in (kept + summed, summed + kept):
        x, w = operands[0].flatten(-len(summed)), operands[1]
        return torch.nn.functional.linear(x, w.flatten(1)) if letters == kept + summed else x @ w.flatten(0, len(summed) - 1)
    return torch.einsum(equation, *operands)
