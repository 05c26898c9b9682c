"""The folder of a saved program: small, plain, and never half written, whatever happens on the way."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from passes import direction, gates
from rewrite import FileError, Program, load, trace
from tests.models import WIDTH
from tests.passes.checking import draw

Traced = Callable[[str], tuple[nn.Module, dict[str, Any], Program]]


def output(program: Program) -> torch.Tensor:
    """What the program makes of its example."""
    with torch.no_grad():
        return program(*program.example[0], **program.example[1])


def test_a_folder_holds_one_json_file_and_each_weight_once_under_its_own_name(traced: Traced, tmp_path: Path) -> None:
    model, _, program = traced("gpt2")
    program.save(tmp_path)
    first, second = sorted(tmp_path.iterdir())
    assert (first.name[:6], first.suffix, second.name) == ("model-", ".safetensors", "program.json")
    stored = load_file(first)
    own = dict(model.named_parameters())
    assert set(own) <= set(stored) and all(torch.equal(stored[name], own[name]) for name in own)
    assert "lm_head.weight" not in stored
    loaded = load(tmp_path)
    assert loaded.tensors["lm_head.weight"] is loaded.tensors["transformer.wte.weight"]
    assert loaded.tensors["lm_head.weight"] is loaded.origin.tensors["transformer.wte.weight"]


def test_saving_again_removes_the_old_weights_and_nothing_else(traced: Traced, tmp_path: Path) -> None:
    _, _, program = traced("mlp")
    program.save(tmp_path)
    (old,) = tmp_path.glob("model-*")
    for name in ("README.md", "model-00000000.safetensors"):
        (tmp_path / name).write_text("mine")
    program.apply(direction.at("down", d=draw(WIDTH, seed=1))).save(tmp_path)
    assert not old.exists()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_target_that_cannot_be_written(traced: Traced, tmp_path: Path) -> None:
    _, _, program = traced("mlp")
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match=r"save to .*: expected a folder that can be written, got: .*exist|.*directory"):
            program.save(target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_full_disk_leaves_the_old_program(traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    _, _, program = traced("mlp")
    program.save(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    calls: list[int] = []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    if fails_at == 2:  # of the folder: nothing is lost by it
        program.apply(direction.at("down", d=draw(WIDTH, seed=1))).save(tmp_path)
    else:
        with pytest.raises(FileError, match="No space left"):
            program.apply(direction.at("down", d=draw(WIDTH, seed=1))).save(tmp_path)
        assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    assert torch.equal(output(load(tmp_path)), output(program)) or fails_at == 2


def test_a_model_without_numbers_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model, x = nn.Linear(3, 3).eval(), torch.empty(2, 3)
    with pytest.raises(FileError, match="expected plain tensors, got one without numbers for 'weight'"):
        trace(model, x).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# A process that saves over a folder and is killed before or after one of its system calls, for every such call.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from rewrite import load

folder, new = Path(sys.argv[1]), load(sys.argv[2])
old = load(folder)
x = old.example[1]["x"]
wanted = [old(x=x).sum().item(), new(x=x).sum().item()]


def child(point, after):
    count = 0
    def stopping(call):
        def called(*args, **kwargs):
            nonlocal count
            count += 1
            if count == point and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **kwargs)
            finally:
                if count == point:
                    os.kill(os.getpid(), signal.SIGKILL)
        return called
    for name in ("open", "replace", "fsync", "unlink", "chmod"):
        setattr(os, name, stopping(getattr(os, name)))
    new.save(folder)
    os._exit(0)


point, killed = 0, 0
while True:
    point += 1
    ended = []
    for after in (False, True):
        old.save(folder)
        number = os.fork()
        if number == 0:
            child(point, after)
        ended.append(os.waitpid(number, 0)[1])
        killed += os.WIFSIGNALED(ended[-1])
        print(point, after, wanted.index(load(folder)(x=x).sum().item()))
    if ended == [0, 0]:
        break
print("killed", killed)
"""


def test_a_process_killed_while_saving_leaves_the_old_program_or_the_new(traced: Traced, tmp_path: Path) -> None:
    _, _, program = traced("mlp")
    program.save(tmp_path / "a")
    changed = program.apply(gates.at("down"))
    changed.gates["down"].g = 0.5
    changed.save(tmp_path / "b")
    run = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a", tmp_path / "b"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *lines, last = run.stdout.splitlines()
    found = [line.split()[2] for line in lines]
    assert int(last.split()[1]) >= 12
    assert found == sorted(found) and set(found) == {"0", "1"}  # the old one up to some call, the new one from there on
