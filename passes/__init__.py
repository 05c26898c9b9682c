"""The catalogue of decompositions: one file per family, each decomposition a plain PyTorch function."""

from passes.dictionary import dictionary
from passes.direction import direction
from passes.distribute import distribute
from passes.freeze import freeze
from passes.gates import gates
from passes.heads import heads
from passes.inputs import inputs
from passes.neurons import neurons
from passes.norm import norm
from passes.paths import paths
from passes.subspace import subspace
from passes.surrogate import surrogate

__all__ = [
    "dictionary",
    "direction",
    "distribute",
    "freeze",
    "gates",
    "heads",
    "inputs",
    "neurons",
    "norm",
    "paths",
    "subspace",
    "surrogate",
]
