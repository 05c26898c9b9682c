"""Misuse is an error that says what was expected, what was found and what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passes import direction, gates, heads, surrogate
from rewrite import PassError, Program, TautomerError, Terms, split, trace
from rewrite.errors import FileError, InputError, SiteError
from verify import equivalence


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval(), torch.randn(2, 4))


@split
def reading(y: Tensor) -> Terms:
    """Reads a number, which no graph can."""
    scale = float(y.sum().item())
    return Terms(y * scale, rest=y - y * scale)


X = torch.ones(2, 4)
MISUSE: dict[str, tuple[Callable[[Program], Any], type[TautomerError], str]] = {
    "a number read in a split": (lambda p: p.apply(reading.at("0")), PassError, "0/reading: expected a function of its tensors' values"),
    "whole numbers for a direction": (
        lambda p: p.apply(direction.at("0", d=torch.ones(4, dtype=torch.int64))),
        PassError,
        "d holds torch.int64, not floating point numbers",
    ),
    "a law called with an address": (lambda p: heads("0"), PassError, r"Write heads\.at\('0'\)"),
    "a list of passes": (lambda p: p.apply([gates.at("0")]), PassError, r"Unpack it: apply\(\*passes\)"),
    "another argument": (lambda p: p(inputs=X), InputError, "got 'inputs'. Nearest: 'input'"),
    "inputs of run": (lambda p: p.run(X, edit={"0": 0.0}), InputError, r"Write run\(dict\(input_ids=ids\)\) or run\(\{\}, ids\)"),
    "batches that are tensors": (lambda p: p.apply(surrogate.at("0", fit=X)), PassError, "expected fit= batches as dicts of inputs"),
    "a module for a program": (lambda p: equivalence(nn.ReLU()), InputError, "got ReLU. Trace it first"),  # type: ignore[arg-type]
    "a path to itself": (lambda p: p.values("0 -> 2"), SiteError, "no site matches"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse(program: Program, case: str) -> None:
    act, error, message = MISUSE[case]
    with pytest.raises(error, match=message):
        act(program)


def test_a_folder_of_other_files_is_left_alone(program: Program, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="got one with other files"):
        program.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_misspelt_attribute_of_a_gate_is_an_error(program: Program) -> None:
    gated = program.apply(gates.at("0"))
    with pytest.raises(AttributeError):
        gated.gates["0"].gg = 0.0  # type: ignore[attr-defined]


def test_gates_print_as_a_table_with_all_digits(program: Program) -> None:
    gated = program.apply(gates.at("0", "2"))
    gated.gates["0"].g = 1.0000001
    assert repr(gated.gates).splitlines() == ["0  g=1.0000001, h=0, r=0", "2  g=1, h=0, r=0"]
