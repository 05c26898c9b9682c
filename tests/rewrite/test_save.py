"""A saved and loaded program is the program: same numbers to the bit, same names, same claims; and a folder is never half written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves

from passes import direction, gates, heads
from rewrite import FileError, Program, load, trace
from rewrite.schema import decode, encode
from tests.models import TRANSFORMERS, WIDTH, residual, token_ids
from tests.passes.checking import PASSES, attention, draw, mlp, other_example
from verify import equivalence

Traced = Callable[[str], tuple[nn.Module, dict[str, Any], Program]]
PLANS = {
    "gpt2": ("norm", "dictionary", "heads"),
    "llama": ("neurons", "direction"),
    "mixtral": ("heads", "paths"),
    "bert": ("heads", "surrogate"),
}
TABLES = ("leaves", "sites_by_address", "families", "splits", "gate_records", "steps", "header", "calling")


def same(a: Any, b: Any) -> bool:
    """Whether two outputs are of one type and equal to the bit."""
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return type(a) is type(b) and all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def ran(program: Callable[..., Any], example: dict[str, Any]) -> Any:
    """The output, without gradients."""
    with torch.no_grad():
        return program(**example)


def rewritten(traced: Traced, name: str) -> tuple[dict[str, Any], Program]:
    """An example and a program with some passes and closed gates."""
    _, example, program = traced(name)
    program = program.apply(*(PASSES[one](name) for one in PLANS[name]), gates.at(mlp(name, 1)))
    program.gates[mlp(name, 1)].g = 0.5
    return example, program


# ---------------------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_round_trip_keeps_everything(traced: Traced, tmp_path: Path, name: str) -> None:
    example, program = rewritten(traced, name)
    program.save(tmp_path)
    loaded = load(tmp_path)
    for one in (example, other_example(example)):
        assert same(ran(loaded, one), ran(program, one))
        assert same(ran(loaded.origin, one), ran(program.origin, one))
    for table in TABLES:
        assert getattr(loaded, table) == getattr(program, table), table
    assert str(loaded) == str(program)
    assert [replace(claim, graph=None) for claim in loaded.claims] == [replace(claim, graph=None) for claim in program.claims]  # type: ignore[arg-type]
    for found, claim in zip(loaded.claims, program.claims, strict=True):
        assert [str(node.format_node()) for node in found.graph.nodes][:-1] == [str(node.format_node()) for node in claim.graph.nodes][:-1]
        assert str(found.graph.output_node().args[0][1]) == str(claim.graph.output_node().args[0][1])  # type: ignore[index]
    assert len(program.claims) > 1


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_a_loaded_program_saves_to_the_same_bytes(traced: Traced, tmp_path: Path, name: str) -> None:
    _, program = rewritten(traced, name)
    program.save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    assert {f.name: f.read_bytes() for f in (tmp_path / "a").iterdir()} == {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()}


def test_a_loaded_program_is_proved_claims_and_all(traced: Traced, tmp_path: Path) -> None:
    _, _, program = traced("gpt2")
    program.apply(direction.at(mlp("gpt2", "*"), d=draw(WIDTH, seed=1)), heads.at(attention("gpt2", 0))).save(tmp_path)
    report = equivalence(load(tmp_path))
    report.raise_unless_proved()
    assert len(report.claims) == 5


def test_a_loaded_program_is_rewritten_like_the_one_that_was_saved(traced: Traced, tmp_path: Path) -> None:
    example, program = rewritten(traced, "gpt2")
    program.save(tmp_path)
    step = direction.at(mlp("gpt2", 0), d=draw(WIDTH, seed=2), name="d")
    here, there = program.apply(step), load(tmp_path).apply(step)
    assert same(ran(there, other_example(example)), ran(here, other_example(example)))
    edit = {f"{mlp('gpt2', 0)}/d": 0.0}
    assert same(there.run(example, edit=edit)[0], here.run(example, edit=edit)[0])
    assert not same(there.run(example, edit=edit)[0], ran(here, example))
    there.save(tmp_path)
    assert same(ran(load(tmp_path), example), ran(here, example))


def test_sizes_stay_free_after_an_example_of_batch_one(traced: Traced, tmp_path: Path) -> None:
    model, example, _ = traced("gpt2")
    trace(model, **{key: value[:1] for key, value in example.items()}).save(tmp_path)
    for ids in (token_ids(3, 5), token_ids(1, 9), token_ids(2, 7)):
        assert torch.equal(ran(load(tmp_path), {"input_ids": ids}).logits, ran(model, {"input_ids": ids}).logits)


def test_ranges_of_sizes_stay(traced: Traced, tmp_path: Path) -> None:
    _, _, program = traced("bert")  # its position table gives the sequence a largest size
    program.save(tmp_path)
    rows = json.loads((tmp_path / "program.json").read_text())["sizes"]
    assert sorted(map(tuple, rows.values()), key=str) == [(2, 2, None), (2, 2, None), (7, 2, 64)]
    load(tmp_path).save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "program.json").read_text())["sizes"] == rows


class Overlapping(nn.Module):
    """Takes `y` whose length is tied to that of `x`."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, x, y[:, 1:]], 1) * y[:, -1:]


def test_sizes_that_are_sums_and_products(tmp_path: Path) -> None:
    size = Dim("size", min=2, max=40)
    program = trace(Overlapping().eval(), x=draw(2, 5), y=draw(2, 11), dynamic={"x": {1: size}, "y": {1: 2 * size + 1}})
    program.save(tmp_path)
    loaded = load(tmp_path)
    assert str(loaded) == str(program)
    assert "*s" in str(loaded.nodes["y"].meta["val"].shape)
    other = {"x": draw(2, 7), "y": draw(2, 15)}
    assert same(loaded(**other), program(**other))


def test_gradients_flow(traced: Traced, tmp_path: Path) -> None:
    example, program = rewritten(traced, "gpt2")
    program.save(tmp_path)
    loaded = load(tmp_path)
    for one in (program, loaded):
        for tensor in one.tensors.values():
            tensor.grad = None  # programs of one session share their model
        one(**example).logits.square().sum().backward()
    name = "transformer.h.0.mlp.c_fc.weight"
    assert loaded.tensors[name].grad is not None
    assert torch.equal(loaded.tensors[name].grad, program.tensors[name].grad)  # type: ignore[arg-type]
    for tensor in program.tensors.values():
        tensor.grad = None


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    model, example = residual()
    model.head.requires_grad_(False)
    trace(model, **example).save(tmp_path)
    tensors = load(tmp_path).tensors
    assert {name for name, tensor in tensors.items() if not tensor.requires_grad} == {"head.weight", "head.bias"}
    assert all(isinstance(tensor, nn.Parameter) for tensor in tensors.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    model, example = residual()
    program = trace(model.to(dtype), x=example["x"].to(dtype)).apply(gates.at("blocks.0.mlp"))
    program.save(tmp_path)
    loaded = load(tmp_path)
    assert {tensor.dtype for tensor in loaded.tensors.values()} == {dtype}
    assert same(ran(loaded, {"x": program.example[1]["x"]}), ran(program, {"x": program.example[1]["x"]}))


def test_the_layout_of_a_weight_stays(tmp_path: Path) -> None:
    model = nn.Linear(300, 200).eval()
    model.weight = nn.Parameter(model.weight.detach().t().contiguous().t())
    x = draw(5, 300, seed=1)
    program = trace(model, x)
    program.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.tensors["weight"].stride() == program.tensors["weight"].stride() == (1, 200)
    with torch.no_grad():
        assert torch.equal(loaded(x), program(x))


@pytest.mark.parametrize("name", ["pair", "repeated", "passing"])
def test_plain_models_with_nested_outputs_and_buffers(traced: Traced, tmp_path: Path, name: str) -> None:
    _, example, program = traced(name)
    program.save(tmp_path)
    assert same(ran(load(tmp_path), example), ran(program, example))


def test_gates_keep_what_they_are_set_to(traced: Traced, tmp_path: Path) -> None:
    _, example, program = traced("gpt2")
    term, family = mlp("gpt2", 0), f"{attention('gpt2', 1)}/head"
    program = program.apply(heads.at(attention("gpt2", 1)), gates.at(term, family))
    program.gates[term].g, program.gates[term].h, program.gates[term].r = 0.25, 1.5, draw(WIDTH, seed=3)
    program.gates[f"{family}[2]"].g = 0.0
    program.save(tmp_path)
    loaded = load(tmp_path)
    assert same(ran(loaded, example), ran(program, example))
    assert [float(g) for g in loaded.gates[family].g] == [1, 1, 0, 1]
    loaded.gates[family].reset()
    program.gates[family].reset()
    assert same(ran(loaded, example), ran(program, example))


# ---------------------------------------------------------------------------------------------------------------- literals

LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.text()
    | st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.strided, torch.preserve_format, torch.device("cpu"), 2**63 - 1])
    | st.builds(slice, st.none() | st.integers(-5, 5), st.none() | st.integers(-5, 5), st.none() | st.integers(1, 5)),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@given(value=LITERALS)
def test_literals_survive_json(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)), {}, "here")
    assert repr(back) == repr(value)  # tells nan from inf, 1 from 1.0 and True, lists from tuples


def test_nodes_are_written_by_name() -> None:
    node = fx.Graph().placeholder("x")
    assert decode(encode([node, (node, 1)]), {"x": node}, "here") == [node, (node, 1)]


def test_other_objects_are_refused() -> None:
    with pytest.raises(FileError, match=r"expected plain literals in the graph, got object"):
        encode([object()])
