"""The operators of `benchmarks.mutants` on small programs: what they make runs, differs where it should, and is not proved."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.architectures import prepared
from benchmarks.mutants import OPERATORS, Draft, Mutant, mutant, table
from benchmarks.mutants.__main__ import main
from benchmarks.mutants.claims import CLAIMS, claim_mutant
from benchmarks.mutants.judges import JUDGES, exact, judged
from benchmarks.mutants.models import MODELS
from benchmarks.mutants.pipelines import pipeline
from benchmarks.mutants.results import Store
from benchmarks.mutants.witnesses import runs, witness
from rewrite import Program, trace
from tests.models import TRANSFORMERS
from tests.passes.checking import layer
from tests.verify.programs import tiny
from verify import Verdict, equivalence

ROUNDING = {"cast_to_half"}  # in the arithmetic of a proof no other function
RARE = {"cast_to_bytes"}  # another function, and no search need find where
SEED = 0


@cache
def base(name: str) -> Program:
    """A tiny transformer in fixed shapes."""
    model, inputs = TRANSFORMERS[name]()
    return trace(model, **inputs, dynamic=False)


@cache
def small(name: str) -> Program:
    """A small model that chooses."""
    model, inputs = prepared(MODELS[name], "sdpa")
    return trace(model, **inputs, dynamic=False)


def found(name: str) -> Mutant:
    """A mutant by this operator, of the first small model that has a place for it."""
    plain = layer()[2]
    bases = [lambda: plain, lambda: pipeline(plain, "0", "paths"), lambda: small("maxout"), lambda: small("routed"), lambda: base("gpt2"),
             lambda: base("bert"), lambda: base("llama"), lambda: base("mixtral")]  # fmt: skip
    for make in bases:
        for seed in range(4):  # a place that is drawn may be one where the edit does not run
            made = mutant(name, make(), seed) if name in OPERATORS else claim_mutant(name, make(), seed)
            if made is not None and runs(made):
                return made
    raise AssertionError(f"{name} finds no place")


def test_there_are_as_many_operators_as_promised() -> None:
    assert len(OPERATORS) + len(CLAIMS) >= 50


@pytest.mark.parametrize("name", ["detach", "another_path_coefficient", "fewer_candidates", "claim_not_divided"])
def test_a_mutant_differs_and_is_not_proved(name: str) -> None:
    made = found(name)
    assert witness(made, SEED)
    passed = judged(made, SEED)
    assert list(passed) == list(JUDGES)
    assert not passed["exact"], f"{name} is proved"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPERATORS, *CLAIMS])
def test_every_operator_makes_a_mutant_that_differs_and_is_not_proved(name: str) -> None:
    made = found(name)
    shown = witness(made, SEED)
    assert name in RARE or bool(shown) == (name not in ROUNDING), f"{name}: {shown or 'nothing'} shows it"
    assert exact(made, SEED) == (name in ROUNDING), name


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_mutants_of_transformers_with_free_sizes_are_not_proved(name: str) -> None:
    program = tiny(name)
    for operator in OPERATORS:
        made = mutant(operator, program, SEED)
        if made is not None and runs(made):
            assert not (exact(made, SEED) and witness(made, SEED)), f"{operator} of {name} is proved, and differs"


def test_what_the_exact_tier_does_not_find_equal_has_no_better_verdict() -> None:
    made = found("no_bias")
    report = equivalence(made.original, made.program, seed=SEED)
    assert report.verdict is Verdict.REFUTED
    assert not exact(made, SEED)


def test_an_unspoiled_program_passes_every_judge_and_has_no_witness() -> None:
    program = layer()[2]
    same = Mutant("none", program, program, program)
    assert judged(same, SEED) == dict.fromkeys(JUDGES, True)
    assert not witness(same, SEED)


def test_an_edit_that_changes_the_shape_of_an_output_is_no_mutant() -> None:
    draft = Draft(layer()[2], random.Random(0))
    output = draft.graph.output_node().all_input_nodes[0]
    draft.after(output, torch.ops.aten.slice.Tensor, -1, 0, 1)
    assert draft.finish() is None


def test_a_mutant_leaves_the_program_as_it_is() -> None:
    program = layer()[2]
    before = str(program)
    found("drop_a_term")
    assert str(program) == before


@pytest.mark.parametrize("name", ["surrogate", "paths", "gates"])
def test_a_pipeline_of_real_passes_is_proved(name: str) -> None:
    report = equivalence(pipeline(layer()[2], "1", name, longest=1), seed=SEED)
    assert report.proved, str(report)


def line(**changes: Any) -> dict[str, Any]:
    """A line of results on a mutant that nothing is wrong with."""
    passed = dict.fromkeys(JUDGES, False)
    return {"key": "mutant/mlp/sdpa/drop_a_term", "passes": [], "witness": "inputs", "passed": passed, "seconds": 0.1, **changes}


def planted(tmp_path: Any, one: dict[str, Any]) -> int:
    """How the command ends on these results."""
    store = Store(tmp_path / "results.jsonl")
    store.begin(SEED, resume=False)
    store.add(one)
    return main(["--table", "--results", str(store.path), "--output", str(tmp_path / "table.md")])


def test_a_mutant_that_is_proved_and_witnessed_stops_the_build(tmp_path: Any, capsys: Any) -> None:
    assert planted(tmp_path, line()) == 0
    assert planted(tmp_path, line(passed=dict.fromkeys(JUDGES, True))) == 1
    assert "PROVED, and a float64 run differs (inputs): mutant/mlp/sdpa/drop_a_term" in capsys.readouterr().out
    assert planted(tmp_path, line(passed=dict.fromkeys(JUDGES, True), witness="")) == 0
    assert "| drop a term | 0/0 | 0/0 | 0/0 | 0/0 | 0/0 | 0/0 | 1 |" in (tmp_path / "table.md").read_text()


def test_a_correct_rewrite_that_is_refuted_stops_the_build(tmp_path: Any) -> None:
    rewrite = {"key": "rewrite/mlp/sdpa/0", "passes": ["gates"], "verdict": "REFUTED", "claims": [], "cause": "at x", "seconds": 1.0}
    assert planted(tmp_path, rewrite) == 1
    assert planted(tmp_path, {**rewrite, "verdict": "DIFFERS"}) == 0


def test_results_are_taken_up_where_they_were_interrupted(tmp_path: Any) -> None:
    store = Store(tmp_path / "results.jsonl")
    store.begin(SEED, resume=False)
    store.add(line())
    with store.path.open("a") as file:
        file.write('{"key": "mutant/mlp/sd')
    store.begin(SEED, resume=True)
    assert set(store.lines()) == {"stamp", line()["key"]}
    store.add(line(key="mutant/next"))
    assert set(store.lines()) == {"stamp", line()["key"], "mutant/next"}
    with pytest.raises(SystemExit, match="expected results of seed 1"):
        store.begin(1, resume=True)


def test_the_operators_draw_from_their_seed() -> None:
    program = layer()[2]
    graphs = {str(made.program.graph) for seed in (0, 0, 0) if (made := mutant("scale_a_little", program, seed))}
    assert len(graphs) == 1


def test_table_counts_what_is_missing() -> None:
    assert "**Not a whole run:** 1 of 5" in table.document({line()["key"]: line()}, 5)
