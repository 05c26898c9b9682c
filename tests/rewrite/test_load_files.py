"""Files that are not what their names say, and folders with a change anywhere."""

import copy
import json
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewrite import FileError, load
from tests.rewrite.spoiling import BOMB, put_weights, record_of, refused, write


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"9" * 10_000 + b"}", b"12"])
def test_other_files_as_program_json(folder: Path, content: bytes) -> None:
    (folder / "program.json").write_bytes(content)
    refused(folder, "program.json.*: expected")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_files(folder: Path, part: float) -> None:
    (weights,) = folder.glob("model-*")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * part)])
    refused(folder, "expected the content that program.json names")
    put_weights(folder, whole[: int(len(whole) * part)])
    refused(folder, "expected a safetensors file, got something else")
    put_weights(folder, whole)
    assert load(folder).claims
    text = (folder / "program.json").read_text()
    (folder / "program.json").write_text(text[: int(len(text) * part)])
    refused(folder, "expected JSON")


def test_missing_files(folder: Path) -> None:
    (weights,) = folder.glob("model-*")
    weights.unlink()
    refused(folder, "expected the weights file that program.json names, got none")
    (folder / "program.json").unlink()
    refused(folder, "expected a folder with program.json, got none")
    refused(folder / "nowhere", "expected a folder with program.json, got none")


class Payload:
    """Runs something when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_under_a_safetensors_name_is_not_opened(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    for content in (pickle.dumps(Payload(proof)), b"\x80\x02" + b"x" * 100):
        put_weights(folder, content)
        refused(folder, "expected a safetensors file, got something else")
    saved = folder / "saved.pt"
    torch.save({"up.weight": Payload(proof)}, saved)
    put_weights(folder, saved.read_bytes())
    refused(folder, "expected a safetensors file, got something else")
    assert not proof.exists()


def test_a_header_that_promises_more_than_there_is(folder: Path) -> None:
    header = json.dumps({"up.weight": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}).encode()
    for content in (struct.pack("<Q", len(header)) + header, struct.pack("<Q", 2**63) + header, struct.pack("<Q", 0)):
        put_weights(folder, content)
        refused(folder, "expected a safetensors file|the tensors that program.json lists")


def test_code_in_any_text_is_not_executed(good: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    text = (good / "program.json").read_text()
    code = BOMB.format(proof)
    for file in good.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for field in ("model", "dynamic", "torch"):
        record = json.loads(text)
        record["header"][field] = code
        write(tmp_path, record)
        load(tmp_path)
    assert not proof.exists()


# ---------------------------------------------------------------------------------------------------------------- anything at all

VALUES = [
    None,
    True,
    -1,
    0,
    2**31,
    2**70,
    1.5,
    "",
    "x",
    "aten.add.Tensor",
    [],
    {},
    [[]],
    {"node": "x"},
    {"tuple": [1]},
    "../x",
    [None, 1, "x", 2],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_change_anywhere_is_an_error_or_another_program(good: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    record = record_of(good)
    for file in good.glob("model-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for _ in range(chance.choice([1, 1, 2])):
        *before, last = chance.choice(places(record)[1:])
        holder = record
        for key in before:
            holder = holder[key]
        change = chance.randrange(3)
        if change == 0:
            del holder[last]
        elif change == 1:
            holder[last] = copy.deepcopy(chance.choice(VALUES))
        else:
            place = record
            for key in chance.choice(places(record)):
                place = place[key]
            holder[last] = copy.deepcopy(place)
        if not places(record)[1:]:
            break
    write(tmp_path, record)
    try:
        load(tmp_path)
    except FileError as error:
        assert len(str(error)) < 1500
