"""Traced models that tests share: tracing is the slow part."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from torch import nn

from rewrite.program import Program
from rewrite.trace import trace
from tests.models import PLAIN, TRANSFORMERS


@pytest.fixture(scope="session")
def traced() -> Callable[[str], tuple[nn.Module, dict[str, Any], Program]]:
    """The function from a name in tests.models to (model, example, program), traced once; a test that changes any of them traces its own."""

    @cache
    def made(name: str) -> tuple[nn.Module, dict[str, Any], Program]:
        model, example = {**TRANSFORMERS, **PLAIN}[name]()
        return model, example, trace(model, **example)

    return made
