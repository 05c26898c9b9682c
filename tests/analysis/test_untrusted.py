"""`tautomer verify` of a folder that somebody else wrote: one clear line, exit code 2, nothing executed and nothing read elsewhere."""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import command
from analysis.command import run
from tests.golden_folder import FOLDER
from tests.rewrite.spoiling import BOMB, first, put_weights, record_of, write


class Payload:
    """Runs something when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def foreign_op(folder: Path, proof: Path) -> None:
    record = record_of(folder)
    first(record).update(op="os.system", args=[f"touch {proof}"], kwargs={})
    write(folder, record)


def code_as_a_name(folder: Path, proof: Path) -> None:
    record = record_of(folder)
    first(record)["name"] = BOMB.format(proof)
    write(folder, record)


def a_pickle(folder: Path, proof: Path) -> None:
    put_weights(folder, pickle.dumps(Payload(proof)))


def a_torch_file(folder: Path, proof: Path) -> None:
    saved = proof.parent / "saved.pt"
    torch.save({"up.weight": Payload(proof)}, saved)
    put_weights(folder, saved.read_bytes())


def a_pickle_for_program_json(folder: Path, proof: Path) -> None:
    (folder / "program.json").write_bytes(pickle.dumps(Payload(proof)))


def weights_elsewhere(folder: Path, proof: Path) -> None:
    """The right weights with the right hash, outside the folder."""
    record = record_of(folder)
    name = record["weights"]["file"]
    shutil.move(folder / name, proof.parent / name)
    assert hashlib.sha256((proof.parent / name).read_bytes()).hexdigest() == record["weights"]["sha256"]
    record["weights"]["file"] = f"../{name}"
    write(folder, record)


def weights_by_full_path(folder: Path, proof: Path) -> None:
    weights_elsewhere(folder, proof)
    record = record_of(folder)
    record["weights"]["file"] = str(proof.parent / record["weights"]["file"].removeprefix("../"))
    write(folder, record)


HOSTILE: dict[Callable[[Path, Path], None], str] = {
    foreign_op: "op 'os.system': expected an op of the allow-list",
    code_as_a_name: "expected a node name of its own",
    a_pickle: "expected a safetensors file, got something else",
    a_torch_file: "expected a safetensors file, got something else",
    a_pickle_for_program_json: "expected JSON, got something else",
    weights_elsewhere: "expected a weights file model-<hash>.safetensors in the same folder, got '../model-",
    weights_by_full_path: "expected a weights file model-<hash>.safetensors in the same folder",
}


@pytest.mark.parametrize("place", ["A", "B"])
@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_a_hostile_folder(
    spoil: Callable[[Path, Path], None], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PATIENCE", 3600.0)  # on a slow machine it would say what it is doing
    folder, proof = Path(shutil.copytree(FOLDER, tmp_path / "hostile")), tmp_path / "executed"
    spoil(folder, proof)
    assert run(["verify", *([str(folder)] if place == "A" else [str(FOLDER), str(folder)])]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("tautomer: ")
    assert HOSTILE[spoil] in captured.err and "Traceback" not in captured.err
    assert not proof.exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.exists()
