"""Golden text: a small plain layer before and after each pass. A change of machinery changes none of these files."""

import pytest

from passes import dictionary, direction, distribute, freeze, gates, heads, inputs, neurons, norm, paths, subspace, surrogate
from tests.passes.checking import check_golden, draw, layer, sae, transcoder

AFTER = {
    "direction": lambda: direction.at("mlp", d=draw(8), name="fire"),
    "subspace": lambda: subspace.at("mlp", basis=draw(2, 8)),
    "surrogate": lambda: surrogate.at("mlp", f=transcoder(8)),
    "dictionary": lambda: dictionary.at("mlp", sae=sae(8, 5)),
    "heads": lambda: heads.at("attn"),
    "neurons": lambda: neurons.at("mlp"),
    "norm": lambda: norm.at("ln_f"),
    "paths": lambda: paths.at("attn -> ln_f@in"),
    "gates": lambda: gates.at("mlp"),
    "freeze": lambda: freeze.at("attn"),
    "distribute": lambda: distribute.at("ln_f@in"),
    "inputs": lambda: inputs.at({"c": "attn@in@[:, 1] ~> attn -> ln_f@in"}),
}


def test_before() -> None:
    check_golden("before", layer()[2])


@pytest.mark.parametrize("name", AFTER)
def test_after(name: str) -> None:
    program = layer()[2]
    check_golden(name, program.apply(AFTER[name]()))
    assert str(program.apply(AFTER[name]())) == str(program.apply(AFTER[name]()))


def test_applying_leaves_the_program_as_it_was() -> None:
    program = layer()[2]
    before = str(program)
    # once split, the MLP is no linear op any more; what a path starts from can no longer be frozen
    program.apply(*(make() for name, make in AFTER.items() if name not in ("neurons", "freeze")))
    assert str(program) == before
