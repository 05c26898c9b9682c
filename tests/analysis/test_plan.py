"""Plans: TOML to passes, and for each thing that can be wrong a line that names the table."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from analysis.plan import read_plan
from rewrite import FileError, PassError, Program, SiteError, TautomerError, trace


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(2, 4))


def plan(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def test_passes_come_in_order_with_their_addresses_and_names(tmp_path: Path, program: Program) -> None:
    text = '[[pass]]\nname = "neurons"\nat = "2"\n\n[[pass]]\nname = "gates"\nat = ["2/neuron", "0"]\n'
    first, second = read_plan(plan(tmp_path, text), program)
    assert (first.law.name, first.where, first.name) == ("neuron", ("2",), None)
    assert (second.law.name, second.where) == ("gates", ("2/neuron", "0"))
    assert program.apply(first, second).gates["2/neuron"].g.shape == (6,)


@pytest.mark.parametrize(
    "argument",
    ['"vectors.safetensors:up"', "[0.0, 1, 0, 0, 0, 0]", '"weight:2.weight[1]"'],
    ids=["tensor of a file", "numbers", "row of a weight"],
)
def test_a_direction_from_each_source_applies(tmp_path: Path, program: Program, argument: str) -> None:
    save_file({"up": torch.arange(6.0)}, tmp_path / "vectors.safetensors")
    (bound,) = read_plan(plan(tmp_path, f'[[pass]]\nname = "direction"\nat = "0"\nterm = "up"\nd = {argument}\n'), program)
    rewritten = program.apply(bound)
    values = rewritten.values(["0", "0/up", "0/up.rest"])
    torch.testing.assert_close(values["0/up"] + values["0/up.rest"], values["0"])


def test_rows_of_a_weight_are_that_weight(tmp_path: Path, program: Program) -> None:
    (bound,) = read_plan(plan(tmp_path, '[[pass]]\nname = "subspace"\nat = "0"\nbasis = "weight:2.weight[0, 2]"\n'), program)
    assert torch.equal(bound.arguments["basis"].value, program.tensors["2.weight"][[0, 2]])


def test_a_file_without_a_key_is_all_of_its_tensors(tmp_path: Path, program: Program) -> None:
    tensors = {"W_enc": torch.randn(6, 9), "b_enc": torch.randn(9), "W_dec": torch.randn(9, 6)}
    save_file(tensors, tmp_path / "sae.safetensors")
    (bound,) = read_plan(plan(tmp_path, '[[pass]]\nname = "dictionary"\nat = "1"\nsae = "sae.safetensors"\n'), program)
    assert program.apply(bound).families["1/feature"].size == 9


def test_batches_to_fit_on_are_files(tmp_path: Path, program: Program) -> None:
    save_file({"input": torch.randn(40, 4)}, tmp_path / "batch.safetensors")
    (bound,) = read_plan(plan(tmp_path, '[[pass]]\nname = "surrogate"\nat = "1"\nfit = ["batch.safetensors"]\n'), program)
    assert "1/surrogate.rest" in program.apply(bound).sites_by_address


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", FileError, r"expected \[\[pass\]\] tables only, got nothing"),
        ("[pass]\nname = 'gates'", FileError, r"expected \[\[pass\]\] tables only, got \['pass'\]"),
        ("[[passes]]\nname = 'gates'", FileError, r"expected \[\[pass\]\] tables only, got \['passes'\]"),
        ("[[pass]\n", FileError, "expected TOML, got something else"),
        ("[[pass]]\nname = 'gate'\nat = '0'", PassError, "pass 1: expected name = one of .*, got 'gate'. Nearest: 'gates'"),
        ("[[pass]]\nname = 'gates'", PassError, "pass 1: gates: expected at = an address or a list of them, got None"),
        ("[[pass]]\nname = 'gates'\nat = [3]", PassError, "expected at = an address"),
        ("[[pass]]\nname = 'direction'\nat = '0'", PassError, "expected d=, got no value for it"),
        ("[[pass]]\nname = 'direction'\nat = '0'\nd = [1]\nterm = 3", PassError, "expected term = a name in quotes, got 3"),
        ("[[pass]]\nname = 'gates'\nat = '0'\nk = 1", PassError, "expected arguments among .*, got 'k'"),
        ("[[pass]]\nname = 'subspace'\nat = '0'\nbasis = [[1, 2], [3]]", PassError, "expected rows of one length"),
        ("[[pass]]\nnmae = 'gates'\nat = '0'", PassError, "got 'nmae'. Nearest: 'name'"),
        ("[[pass]]\nname = 'direction'\nat = '0'\nd = 'weight:0.weight[99]'", PassError, "expected rows from 0 to"),
        ("[[pass]]\nname = 'direction'\nat = '0'\nd = 'none.safetensors:d'", FileError, "got nothing there"),
        (
            "[[pass]]\nname = 'direction'\nat = '0'\nd = 'v.safetensors:upp'",
            FileError,
            "got none among 1. Nearest: 'up'",
        ),
        (
            "[[pass]]\nname = 'direction'\nat = '0'\nd = 'weight:0.wait[1]'",
            SiteError,
            "among 4. Nearest: '0.weight'",
        ),
    ],
)
def test_wrong_plans(tmp_path: Path, program: Program, text: str, error: type[TautomerError], message: str) -> None:
    save_file({"up": torch.ones(6)}, tmp_path / "v.safetensors")
    with pytest.raises(error, match=message):
        read_plan(plan(tmp_path, text), program)


def test_missing_plan(tmp_path: Path, program: Program) -> None:
    with pytest.raises(FileError, match="expected a plan, got none that can be read"):
        read_plan(tmp_path / "none.toml", program)


def test_a_word_for_a_tensor_is_refused_when_applied(tmp_path: Path, program: Program) -> None:
    (bound,) = read_plan(plan(tmp_path, "[[pass]]\nname = 'direction'\nat = '0'\nd = 'wait:0.weight[1]'"), program)
    with pytest.raises(PassError, match="expected a tensor, got str"):
        program.apply(bound)
