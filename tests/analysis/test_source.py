"""Models named on a command line: what is found, and one clear line for what is not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from analysis.source import model_of, names_a_model, program_of, read_tensors
from rewrite import FileError, InputError, trace

FACTORY = """
import torch
from neighbour import WIDTH

def linear():
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 3), torch.nn.Dropout()), {"input": torch.ones(2, WIDTH)}

def alone():
    return torch.nn.Linear(4, 3)

RUNS = []

def runs():
    RUNS.append(1)
    return torch.nn.Linear(WIDTH, len(RUNS)), {"input": torch.ones(2, WIDTH)}

def broken():
    raise RuntimeError("no disk")
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    path = tmp_path / "models_here.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_factory_gives_its_model_in_eval_mode_and_its_example(factory: Path) -> None:
    model, example = model_of(f"{factory}:linear")
    assert not model.training
    assert not any(child.training for child in model.children())
    assert example["input"].shape == (2, 4)


def test_example_file_replaces_the_example(factory: Path, tmp_path: Path) -> None:
    save_file({"input": torch.zeros(5, 4)}, tmp_path / "example.safetensors")
    _, example = model_of(f"{factory}:linear", tmp_path / "example.safetensors")
    assert example["input"].shape == (5, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "expected a function 'nothing' in .*models_here.py, got none. It has: linear, alone, runs, broken."),
        ("alone", r"expected \(module, dict of example inputs\), got Linear. Return these two."),
        ("broken", "expected it to run, got RuntimeError: no disk. Try it in Python."),
    ],
)
def test_wrong_factory(factory: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of(f"{factory}:{name}")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"expected a Python file at .*none.py, got nothing there"):
        model_of(f"{tmp_path}/none.py:linear")


def test_neither_kind_of_name() -> None:
    with pytest.raises(InputError, match=r"gpt2: expected hf:NAME_OR_DIR or file.py:factory, got neither"):
        model_of("gpt2")


@pytest.mark.parametrize(("text", "model"), [("hf:gpt2", True), ("here/models.py:tiny", True), ("saved", False), ("models.py", False)])
def test_what_names_a_model(text: str, model: bool) -> None:
    assert names_a_model(text) is model


def test_hub_folder_gives_the_architecture_of_its_config_and_random_ids(hub_folder: Path) -> None:
    model, example = model_of(f"hf:{hub_folder}")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert example["input_ids"].shape == (2, 8)
    assert int(example["input_ids"].max()) < 61
    assert torch.equal(example["input_ids"], model_of(f"hf:{hub_folder}")[1]["input_ids"])


def test_checkpoint_without_a_weight_is_refused(hub_folder: Path) -> None:
    weights = read_tensors(hub_folder / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, hub_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"got one without transformer.h.0.mlp.c_fc.weight. They would be random numbers."):
        model_of(f"hf:{hub_folder}")


def test_hub_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a model's name or folder, got none"):
        model_of(f"hf:{tmp_path}")


def test_a_model_is_traced_on_the_example_of_the_program_that_it_is_compared_with(factory: Path) -> None:
    like = trace(nn.Linear(4, 3).eval(), torch.ones(7, 4))
    (example,) = program_of(f"{factory}:linear", like=like).example[0]
    assert example.shape == (7, 4)


def test_tensors_of_a_file_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(FileError, match="expected a safetensors file, got another kind of file"):
        read_tensors(tmp_path / "x.safetensors")
    with pytest.raises(FileError, match="expected a safetensors file, got a folder"):
        read_tensors(tmp_path)


def test_two_models_of_one_file_share_what_it_registers(factory: Path) -> None:
    assert [model_of(f"{factory}:runs")[0].out_features for _ in range(2)] == [1, 2]


def test_a_file_without_a_function_is_asked_for_one(factory: Path) -> None:
    with pytest.raises(InputError, match=r"got neither\. Write .*models_here\.py:FUNCTION"):
        model_of(str(factory))
