"""Witnesses in files: written and read again, run on both programs, and refused where a file or a program does not fit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rewrite import trace
from rewrite.errors import FileError, InputError
from tests.verify.programs import normal, plain, toy, variant
from tests.verify.test_witness import Bounded
from verify import Replay, Verdict, Witness, equivalence, replay
from verify.gap import Gap


@pytest.fixture(scope="module")
def found() -> Witness:
    """A witness at the inputs of the toy."""
    witness = equivalence(toy(), variant("b_mask"), seed=0).witness
    assert witness is not None
    return witness


@pytest.fixture(scope="module")
def inner() -> Witness:
    """One at the inputs of a region."""
    witness = equivalence(*(trace(Bounded(on).eval(), normal(2, 3)) for on in (False, True)), seed=0).witness
    assert witness is not None
    return witness


def same(one: Witness, other: Witness) -> bool:
    plain_fields = all(
        getattr(one, name) == getattr(other, name)
        for name in ("gap", "how", "reachable", "region", "left", "site", "key", "subject", "any_weights")
    )
    return plain_fields and all(
        {k: v.tolist() for k, v in mine.items()} == {k: v.tolist() for k, v in its.items()}
        and all(mine[k].dtype == its[k].dtype for k in mine)
        for mine, its in ((one.values, other.values), (one.inputs, other.inputs))
    )


def test_what_is_saved_is_loaded(found: Witness, inner: Witness, tmp_path: Path) -> None:
    for witness in (found, inner, replace(found, gap=Gap(rho=float("inf"), largest=1.0, at="y"))):
        witness.save(tmp_path / "w.safetensors")
        assert same(Witness.load(tmp_path / "w.safetensors"), witness)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_file_says_what_it_is_about(found: Witness) -> None:
    assert found.subject == "Toy against Toy"
    assert found.site == "blocks.0.attn.o"
    assert found.key
    assert not found.any_weights


def test_a_replay_tells_the_same_and_is_clear_of_a_repaired_program(found: Witness) -> None:
    again = replay(toy(), variant("b_mask"), found)
    assert again.separates
    assert again.exit_code() == 1
    assert again.gap == found.gap
    assert str(again).startswith("STILL DIFFERS: Toy against Toy")
    assert "all positions but the last (axis 1)" in str(again)
    repaired = replay(toy(), variant("c_heads"), found)
    assert not repaired.separates
    assert repaired.exit_code() == 0
    assert repaired.differences == ()
    assert str(repaired).startswith("AGREES")


def test_a_witness_of_other_models_says_nothing_by_agreeing(found: Witness) -> None:
    shown = replay(toy(), toy(), replace(found, subject="Other against Another"))
    assert shown.exit_code() == 3
    assert str(shown).startswith("AGREES: Toy against Toy, on a witness found for Other against Another")


def test_a_region_is_replayed_too(inner: Witness, tmp_path: Path) -> None:
    assert not inner.reachable
    assert set(inner.inputs) == {"x"}
    inner.save(tmp_path / "w")
    witness = Witness.load(tmp_path / "w")
    without, with_trigger = (trace(Bounded(on).eval(), normal(2, 3)) for on in (False, True))
    assert replay(without, with_trigger, witness).separates
    assert not replay(without, without, witness).separates


def test_a_witness_of_gradients_is_replayed_as_one() -> None:
    a, b = plain(lambda x: x * x, normal(2, 3)), plain(lambda x: x * x.detach(), normal(2, 3))
    witness = equivalence(a, b, gradients=True).witness
    assert witness is not None
    assert witness.of_gradients
    assert replay(a, b, witness).separates
    assert not replay(a, a, witness).separates


def test_json_of_a_replay(found: Witness) -> None:
    said = json.loads(replay(toy(), variant("b_mask"), found).to_json())
    assert said["separates"] is True
    assert {d["kind"] for d in said["differences"]} == {"site", "output"}
    assert said["found_for"] == "Toy against Toy"


def test_between_rounding_and_another_function_nothing_is_said() -> None:
    middle = Replay(Witness({}, Gap(), "by hand"), "b against a", Gap(rho=1e3))
    assert str(middle).startswith("INCONCLUSIVE")
    assert middle.exit_code() == 0


# Programs that do not fit


def changed(witness: Witness, **values: Tensor) -> Witness:
    return replace(witness, values=values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: changed(w, idz=w.values["ids"]), r"expected a witness for the inputs \['ids'\], got one for \['idz'\]"),
        (lambda w: changed(w, ids=w.values["ids"].float()), "expected torch.int64, got torch.float32"),
        (lambda w: changed(w, ids=w.values["ids"][:, :3]), "expected size 6 in dimension 1, got 3"),
        (lambda w: changed(w, ids=w.values["ids"] * 0 + 10**6), "expected values that both programs run on, got IndexError"),
        (lambda w: changed(w, ids=w.values["ids"] * 0 - 1), "expected values that both programs run on, got IndexError"),
    ],
)
def test_a_witness_for_other_programs(found: Witness, change: Callable[[Witness], Witness], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replay(toy(), variant("b_mask"), change(found))


def test_a_region_that_is_not_there(inner: Witness) -> None:
    program = trace(Bounded(True).eval(), normal(2, 3))
    (address,) = inner.values
    with pytest.raises(InputError, match="expected a site 'nowhere' in both programs"):
        replay(program, program, changed(inner, nowhere=inner.values[address]))
    with pytest.raises(InputError, match=rf"expected \[2, 3\] at '{address}', got \[7\]"):
        replay(program, program, replace(inner, values={address: torch.zeros(7)}))


def test_other_outputs(found: Witness) -> None:
    two = plain(lambda x: (x, x), normal(2, 3))
    one = plain(lambda x: x, normal(2, 3))
    with pytest.raises(InputError, match="expected programs with the same outputs, got other outputs: one value and a sequence of 2"):
        replay(one, two, Witness({"x": normal(2, 3)}, found.gap, "by hand"))


# Files that are none


def record(**change: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("how", "region", "site", "key", "subject"), "")
    figures = dict.fromkeys(("rho", "amplification", "ulp", "largest"), "1.0")
    whole = {"format": 1, **texts, "reachable": True, "any_weights": False, "left": [], "gap": {"at": "", **figures}, **change}
    return {key: value for key, value in whole.items() if value is not ...}


X = {"value/x": torch.zeros(2)}
CONTENTS: dict[str, tuple[dict[str, Tensor], Any, str]] = {
    "tensors alone": (X, None, "expected a witness, got tensors alone"),
    "no JSON": (X, "{", "expected JSON among the metadata"),
    "a list": (X, "[]", "expected JSON among the metadata"),
    "deep": (X, "[" * 100_000, "expected JSON among the metadata"),
    "NaN": (X, '{"format": NaN}', "expected int, got nan"),
    "another format": (X, record(format=2), "expected format 1, got 2"),
    "no format": (X, record(format=...), "expected a field 'format'"),
    "a truth value for a format": (X, record(format=True), "expected int, got True"),
    "no site": (X, record(site=...), "expected a field 'site'"),
    "a site that is a list": (X, record(site=["a"]), "site: expected str"),
    "reachable in words": (X, record(reachable="yes"), "reachable: expected bool"),
    "lines that are numbers": (X, record(left=[1]), "left: expected lines of text"),
    "no gap": (X, record(gap=3), "gap: expected dict"),
    "a gap in words": (X, record(gap={"at": "", "rho": "far", "amplification": "1", "ulp": "1", "largest": "1"}), "expected numbers"),
    "a gap that is none": (X, record(gap={"at": "", "rho": "nan", "amplification": "1", "ulp": "1", "largest": "1"}), "expected numbers"),
    "no values": ({"input/x": torch.zeros(2)}, record(reachable=False), "expected values, and inputs"),
    "inputs twice": ({**X, "input/x": torch.zeros(2)}, record(), "expected values, and inputs"),
    "another kind": ({"code/x": torch.zeros(2)}, record(), "expected tensors named value"),
    "no name": ({"value/": torch.zeros(2)}, record(), "expected tensors named value"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_with_other_contents(name: str, tmp_path: Path) -> None:
    tensors, said, message = CONTENTS[name]
    metadata = None if said is None else {"tautomer": said if isinstance(said, str) else json.dumps(said)}
    save_file(tensors, tmp_path / "w", metadata=metadata)
    with pytest.raises(FileError, match=message):
        Witness.load(tmp_path / "w")


def test_the_record_above_is_else_a_good_one(tmp_path: Path) -> None:
    save_file(X, tmp_path / "w", metadata={"tautomer": json.dumps(record())})
    assert Witness.load(tmp_path / "w").values["x"].tolist() == [0, 0]


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path("exploded").touch, ())


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff" * 64, (1 << 62).to_bytes(8, "little") + b"{}", pickle.dumps(Bomb()), b"\x10" + b"\0" * 7 + b"{" * 16],
    ids=["empty", "short", "bytes", "a header of no end", "a pickle", "a header of brackets"],
)
def test_a_file_of_another_kind_is_refused_and_not_run(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(FileError, match="expected a safetensors file, got something else"):
        Witness.load(tmp_path / "w")
    assert not (tmp_path / "exploded").exists()


def test_a_file_cut_short(found: Witness, tmp_path: Path) -> None:
    found.save(tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    for length in (4, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w").write_bytes(whole[:length])
        with pytest.raises(FileError, match="expected a safetensors file"):
            Witness.load(tmp_path / "w")


def test_no_file(found: Witness, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="got nothing there"):
        Witness.load(tmp_path / "none")
    with pytest.raises(FileError, match="got a folder"):
        Witness.load(tmp_path)
    with pytest.raises(FileError, match="expected a place for a file"):
        found.save(tmp_path / "no" / "such" / "folder")


def test_an_interrupted_save_leaves_the_old_file(found: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found.save(tmp_path / "w")
    before = (tmp_path / "w").read_bytes()

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("verify.witnesses.keep.save_file", half)
    with pytest.raises(FileError, match="disk full"):
        replace(found, how="other").save(tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_the_verdict_and_the_replay_agree_for_other_weights(tmp_path: Path) -> None:
    report = equivalence(toy(0), toy(1))
    assert report.verdict is Verdict.REFUTED
    assert report.witness is not None
    assert {d.kind for d in report.differences} == {"output", "weight"}
    assert replay(toy(0), toy(1), report.witness).separates
    assert not replay(toy(0), toy(0), report.witness).separates
