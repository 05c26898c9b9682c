"""The program in tests/data/format-1: a model whose weights are written down, and the passes that were applied to it.

`python -m tests.golden_folder FOLDER` saves it anew: for a new format, into a new folder; an old folder is never written again.
"""

import sys
from pathlib import Path

import torch

from passes import direction, gates, neurons
from rewrite import Program, trace
from tests.models import MLP

FOLDER = Path(__file__).parent / "data" / "format-1"


def model() -> MLP:
    """An MLP of three columns and four hidden units, its weights multiples of an eighth."""
    made = MLP(3, 4).eval()
    with torch.no_grad():
        for k, parameter in enumerate(made.parameters()):
            parameter.copy_((torch.arange(parameter.numel()) * (k + 3) % 17 - 8).reshape(parameter.shape) / 8)
    return made


def program() -> Program:
    """The model with its neurons as a family, a direction in its hidden layer, and a gate."""
    traced = trace(model(), x=torch.arange(12.0).reshape(2, 2, 3) / 4)
    return traced.apply(direction.at("act", d=torch.tensor([1.0, -2.0, 0.5, 1.0])), neurons.at("down"), gates.at("down/neuron"))


if __name__ == "__main__":
    program().save(sys.argv[1])
