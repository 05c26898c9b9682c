"""Inputs: some paths get a copy of the model's inputs of their own, so that what travels there can come from other data.

    x' = x on every other path, x @ copy on the paths named        equal to the original where the copies are equal to it

Source: Chan et al. 2022, "Causal scrubbing: a method for rigorously testing interpretability hypotheses" (the treeified model).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewrite import rewire


@rewire
def inputs(read: Tensor, own: Tensor, here: Tensor) -> Tensor:
    """What a reader reads: what was computed from its own copy `here` (the members or positions that the path names), else what it read.

    Shapes: read, own [...]; here broadcast to them.
    """
    return torch.where(here, own, read)


@inputs.identity("there, it is the copy's", read=(2,), own=(2,))
def _there(law: Any, read: Any, own: Any):
    return law(read, own, np.array([True, False]))[:1], own[:1]


@inputs.identity("elsewhere, it is what it was", read=(2,), own=(2,))
def _elsewhere(law: Any, read: Any, own: Any):
    return law(read, own, np.array([True, False]))[1:], read[1:]


@inputs.identity("where both are equal, it is what it was", read=(2,))
def _equal(law: Any, read: Any):
    return law(read, read, np.array([True, False])), read
