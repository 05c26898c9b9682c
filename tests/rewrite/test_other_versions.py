"""Folders that other versions wrote: one format number, one meaning."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rewrite import FileError, load
from tests.golden_folder import FOLDER, model, program
from tests.rewrite.spoiling import record_of, write
from verify import equivalence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder of format 1."""
    return Path(shutil.copytree(FOLDER, tmp_path / "saved"))


def test_the_first_format_still_loads_and_is_proved_to_be_what_its_model_traces_to_today() -> None:
    old = load(FOLDER)
    new = program()
    x = torch.linspace(-2, 2, 18).reshape(2, 3, 3)
    assert torch.equal(old(x=x), new(x=x)) and torch.allclose(old(x=x), model()(x))
    for pair in ((old,), (new, old), (new.origin, old)):
        report = equivalence(*pair, seed=0)
        assert report.proved, str(report)
    assert [claim.sentence for claim in old.claims] == [claim.sentence for claim in new.claims]
    old.gates["down/neuron[2]"].g = 0
    new.gates["down/neuron[2]"].g = 0
    assert torch.equal(old(x=x), new(x=x)) and not torch.equal(old(x=x), old.origin(x=x))


def test_a_model_that_changed_since_is_not_proved() -> None:
    changed = program()
    with torch.no_grad():
        changed.tensors["up.bias"][0] += 0.125
    assert not equivalence(changed, load(FOLDER), seed=0).proved


@pytest.mark.parametrize("version", ["0.0.1", "0.1.7.dev3", "12.0.0"])
def test_another_version_with_the_same_format_is_read(folder: Path, version: str) -> None:
    write(folder, record_of(folder) | {"tautomer": version, "torch": "2.99.0"})
    assert equivalence(load(folder), load(FOLDER), seed=0).proved


def test_a_newer_format_names_the_version_that_reads_it(folder: Path) -> None:
    write(folder, record_of(folder) | {"format": 2, "tautomer": "0.9.0"})
    with pytest.raises(FileError, match=r"expected format 1, got 2. Load it with the tautomer that wrote it: 0.9.0."):
        load(folder)


def test_unknown_fields_are_left_unread_but_not_in_the_tables(folder: Path) -> None:
    record = record_of(folder)
    write(folder, json.loads(json.dumps(record)) | {"licence": "MIT", "program": record["program"] | {"colours": [1, 2]}})
    assert equivalence(load(folder), load(FOLDER), seed=0).proved
    record["program"]["families"][0]["weighted"] = True
    write(folder, record)
    with pytest.raises(FileError, match="expected the fields address, equation"):
        load(folder)
