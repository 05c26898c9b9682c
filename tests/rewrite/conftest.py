"""Traced models that tests share: tracing is the slow part."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from passes import direction, gates, neurons
from rewrite.program import Program
from rewrite.trace import trace
from tests.models import HIDDEN, PLAIN, TRANSFORMERS, mlp
from tests.passes.checking import draw


@pytest.fixture(scope="session")
def traced() -> Callable[[str], tuple[nn.Module, dict[str, Any], Program]]:
    """The function from a name in tests.models to (model, example, program), traced once; a test that changes any of them traces its own."""

    @cache
    def made(name: str) -> tuple[nn.Module, dict[str, Any], Program]:
        model, example = {**TRANSFORMERS, **PLAIN}[name]()
        return model, example, trace(model, **example)

    return made


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that loads: an MLP with a direction, a family, a gate and claims."""
    model, example = mlp()
    program = trace(model, **example).apply(neurons.at("down"), direction.at("act", d=draw(HIDDEN, seed=1)), gates.at("down/neuron"))
    folder = tmp_path_factory.mktemp("good")
    program.save(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be spoilt."""
    for file in good.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path
