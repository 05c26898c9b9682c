"""An exported program runs in a process that knows torch alone, with our numbers, and is ablated there by setting a buffer."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from passes import direction, gates, heads
from rewrite import FileError, PassError, Program, load
from tests.models import WIDTH, token_ids
from tests.passes.checking import attention, draw, mlp, other_example, traced

# What somebody else does with our files: jobs are (file, inputs, {buffer: value}); values come back in order.
FOREIGN = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[2]))
results = []
for file, inputs, buffers in torch.load(sys.argv[1]):
    module = torch.export.load(file).module()
    held = dict(module.named_buffers())
    with torch.no_grad():
        for name, value in buffers.items():
            held[name].copy_(value)
        results.append(module(**inputs))
assert not {"rewrite", "passes", "verify", "transformers"} & set(sys.modules)
torch.save(results, sys.argv[1] + ".out")
"""

TERM, FAMILY, WHOLE = f"{mlp('gpt2', 0)}/direction", f"{attention('gpt2', 1)}/head", mlp("gpt2", 1)


def gated() -> Program:
    """GPT-2 with a direction, a family of heads, and gates on them."""
    _, _, program = traced("gpt2")
    return program.apply(direction.at(mlp("gpt2", 0), d=draw(WIDTH, seed=1)), heads.at(attention("gpt2", 1)), gates.at(TERM, FAMILY, WHOLE))


def plain(value: Any) -> Any:
    """An output with dicts for the classes of transformers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


def equal(a: Any, b: Any) -> bool:
    """Whether two nested outputs have one structure and the same numbers to the bit."""
    flat = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return tree_map(lambda _: 0, a) == tree_map(lambda _: 0, b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in flat
    )


@dataclass
class Abroad:
    """Calls of exported files, run together in one foreign process."""

    folder: Path
    jobs: dict[str, tuple[Any, ...]]
    found: dict[str, Any]
    files: dict[Any, Path]

    def file(self, program: Program, gates: str = "buffers") -> Path:
        key = (id(program), gates)
        if key not in self.files:
            self.files[key] = self.folder / f"{len(self.files)}.pt2"
            program.export(self.files[key], gates=gates)
        return self.files[key]

    def ask(
        self, what: str, program: Program, inputs: dict[str, Any], buffers: dict[str, Any] | None = None, gates: str = "buffers"
    ) -> None:
        self.jobs[what] = (str(self.file(program, gates)), inputs, buffers or {})

    def run(self) -> None:
        torch.save(list(self.jobs.values()), self.folder / "jobs")
        command = [sys.executable, "-c", FOREIGN, str(self.folder / "jobs"), str(torch.get_num_threads())]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        self.found = dict(zip(self.jobs, torch.load(self.folder / "jobs.out"), strict=True))


IDS = {"the example": {"input_ids": token_ids()}, "more rows": {"input_ids": token_ids(3, 5)}, "one row": {"input_ids": token_ids(1, 9)}}
REFERENCE = draw(WIDTH, seed=2)


@pytest.fixture(scope="module")
def program() -> Program:
    """The gated GPT-2."""
    return gated()


@pytest.fixture(scope="module")
def saved(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The same, saved and loaded."""
    folder = tmp_path_factory.mktemp("saved")
    program.save(folder)
    return load(folder)


@pytest.fixture(scope="module")
def patched() -> Program:
    """The gated GPT-2, exported while a gate is at (0, 1) with a reference."""
    found = gated()
    found.gates[WHOLE].g, found.gates[WHOLE].h, found.gates[WHOLE].r = 0.0, 1.0, REFERENCE
    return found


@pytest.fixture(scope="module")
def abroad(program: Program, saved: Program, patched: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a foreign process computes with our files."""
    asked = Abroad(tmp_path_factory.mktemp("abroad"), {}, {}, {})
    names = json.loads(extra(asked.file(program)))
    for what, inputs in IDS.items():
        asked.ask(what, program, inputs)
        asked.ask(f"{what}, saved before", saved, inputs)
        asked.ask(f"{what}, patched", patched, inputs)
    ids = IDS["more rows"]
    asked.ask("term closed", program, ids, {names[TERM]["g"]: torch.tensor(0.0)})
    asked.ask("member closed", program, ids, {names[FAMILY]["g"]: torch.tensor([1.0, 1.0, 0.0, 1.0])})
    asked.ask("steered", program, ids, {names[WHOLE]["r"]: torch.tensor(0.5)})
    opened = {name: torch.tensor(1.0) if name.startswith("gate") else torch.tensor(0.0) for name in names[TERM].values()}
    whole = {names[WHOLE]["g"]: torch.tensor(0.25), names[WHOLE]["r"]: torch.tensor(0.0)}
    family = {names[FAMILY]["g"]: torch.ones(4), names[FAMILY]["r"]: torch.zeros(4, 1)}
    asked.ask("gates as inputs", program, {**ids, **opened, **whole, **family}, gates="inputs")
    for name in ("pair", "bert"):
        _, example, other = traced(name)
        asked.ask(name, other, example)
    asked.run()
    return asked.found


def extra(file: Path, name: str = "gates.json") -> bytes:
    """An extra file of the archive."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(f"archive/extra/{name}")


def ours(program: Program, inputs: dict[str, Any]) -> Any:
    """Our own output, in plain containers."""
    with torch.no_grad():
        return plain(program(**inputs))


# ---------------------------------------------------------------------------------------------------------------- abroad


@pytest.mark.parametrize("what", IDS)
def test_outputs_are_ours_to_the_bit_at_every_shape(abroad: dict[str, Any], program: Program, what: str) -> None:
    assert type(abroad[what]) is dict
    assert equal(abroad[what], ours(program, IDS[what]))
    assert equal(abroad[f"{what}, saved before"], ours(program, IDS[what]))


@pytest.mark.parametrize("name", ["pair", "bert"])
def test_nested_outputs_are_dicts_and_tuples(abroad: dict[str, Any], name: str) -> None:
    _, example, program = traced(name)
    assert equal(abroad[name], ours(program, example))


def ablated(address: str, ids: dict[str, Any], **to: float) -> Any:
    """Our own output with a gate set."""
    program = gated()
    for which, value in to.items():
        setattr(program.gates[address], which, value)
    return ours(program, ids)


@pytest.mark.parametrize(
    ("what", "address", "to"),
    [
        ("term closed", TERM, {"g": 0.0}),
        ("member closed", f"{FAMILY}[2]", {"g": 0.0}),
        ("steered", WHOLE, {"h": 1.0, "r": 0.5}),
        ("gates as inputs", WHOLE, {"g": 0.25}),
    ],
)
def test_a_foreign_process_ablates_as_we_do(
    abroad: dict[str, Any], program: Program, what: str, address: str, to: dict[str, float]
) -> None:
    ids = IDS["more rows"]
    assert equal(abroad[what], ablated(address, ids, **to))
    assert not equal(abroad[what], ours(program, ids))


@pytest.mark.parametrize("what", IDS)
def test_gates_are_exported_as_they_are_set(abroad: dict[str, Any], program: Program, patched: Program, what: str) -> None:
    assert equal(abroad[f"{what}, patched"], ours(patched, IDS[what]))
    with torch.no_grad():
        by_hand = program.run(IDS[what], edit={WHOLE: REFERENCE})[0]
    assert torch.allclose(abroad[f"{what}, patched"]["logits"], by_hand.logits, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- the file


def test_the_file_lists_its_gates(program: Program, tmp_path: Path) -> None:
    program.export(tmp_path / "x.pt2")
    found = json.loads(extra(tmp_path / "x.pt2"))
    assert found[TERM] == {"g": "gate__transformer_h_0_mlp_direction", "r": "ref__transformer_h_0_mlp_direction"}
    assert list(found) == [TERM, FAMILY, WHOLE]
    loaded = torch.export.load(tmp_path / "x.pt2")
    buffers = dict(loaded.named_buffers())
    assert {name for pair in found.values() for name in pair.values()} == set(buffers)
    for pair in found.values():
        assert bool((buffers[pair["g"]] == 1).all()) and bool((buffers[pair["r"]] == 0).all())


def test_two_addresses_that_read_alike_get_numbers(tmp_path: Path) -> None:
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleDict({"b": nn.Linear(3, 3)})
            self.a_b = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a_b(self.a["b"](x))

    from rewrite import trace

    trace(Alike().eval(), draw(2, 3)).apply(gates.at("a.b", "a_b")).export(tmp_path / "x.pt2")
    assert json.loads(extra(tmp_path / "x.pt2")) == {
        "a.b": {"g": "gate__a_b", "r": "ref__a_b"},
        "a_b": {"g": "gate__a_b_1", "r": "ref__a_b_1"},
    }


def test_weights_are_stored_once_and_under_their_own_names(program: Program, tmp_path: Path) -> None:
    program.export(tmp_path / "x.pt2")
    loaded = torch.export.load(tmp_path / "x.pt2")
    state = loaded.state_dict
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    with zipfile.ZipFile(tmp_path / "x.pt2") as archive:
        sizes = [
            entry.file_size
            for entry in archive.infolist()
            if entry.filename.endswith("weights/weight_0") or "/weights/weight_" in entry.filename
        ]
    unique = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in state.values()}
    assert sum(sizes) == sum(unique.values())


def test_parameters_that_nothing_needs_are_left_out_and_inputs_stay(tmp_path: Path) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.spare(y)
            return self.up(x)

    from rewrite import trace

    trace(Spare().eval(), x=draw(2, 3), y=draw(2, 3)).export(tmp_path / "x.pt2")
    loaded = torch.export.load(tmp_path / "x.pt2")
    assert sorted(loaded.state_dict) == ["up.bias", "up.weight"]
    assert len(loaded.graph_signature.user_inputs) == 2


def test_exporting_leaves_the_program_as_it_is(program: Program, tmp_path: Path) -> None:
    before, metas = str(program), {name: id(node.meta["val"]) for name, node in program.nodes.items() if "val" in node.meta}
    for which in ("buffers", "inputs"):
        program.export(tmp_path / "x.pt2", gates=which)
    assert str(program) == before
    assert {name: id(node.meta["val"]) for name, node in program.nodes.items() if "val" in node.meta} == metas


# ---------------------------------------------------------------------------------------------------------------- errors


def test_names_and_places_that_will_not_do(program: Program, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected a name that ends in .pt2, got 'x.onnx'"):
        program.export(tmp_path / "x.onnx")
    with pytest.raises(PassError, match="expected gates='buffers' or 'inputs', got 'doors'"):
        program.export(tmp_path / "x.pt2", gates="doors")
    with pytest.raises(FileError, match="expected a place to write to, got: No such file or directory"):
        program.export(tmp_path / "nowhere" / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pt2").write_text("old")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device"):
        program.export(tmp_path / "x.pt2")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.pt2", "old")]


# ---------------------------------------------------------------------------------------------------------------- torch.fx


@pytest.mark.parametrize("name", ["gpt2", "pair", "repeated"])
def test_the_graph_module_computes_the_same_and_shares_weights(name: str) -> None:
    model, example, program = traced(name)
    module = program.graph_module
    with torch.no_grad():
        for one in (example, other_example(example)) if name == "gpt2" else (example,):
            assert equal(tuple(module(*one.values())), tuple(tree_leaves(plain(program(**one)))))
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in module.parameters()} == own


def test_gates_of_the_graph_module_are_buffers(program: Program) -> None:
    module, ids = program.graph_module, IDS["more rows"]
    gate = dict(module.named_buffers())["gate__transformer_h_0_mlp_direction"]
    with torch.no_grad():
        gate.fill_(0.0)
        assert equal(module(ids["input_ids"])[0], ablated(TERM, ids, g=0.0)["logits"])
        gate.fill_(1.0)
        assert equal(module(ids["input_ids"])[0], ours(program, ids)["logits"])


def test_a_gate_of_the_graph_module_is_not_the_programs() -> None:
    program = gated()
    with torch.no_grad():
        dict(program.graph_module.named_buffers())["gate__transformer_h_0_mlp_direction"].fill_(0.0)
    assert program.gates[TERM].open
