"""What is taken on a user's word: named in the headline, tried on floats first, and of no help to what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passes import direction
from rewrite.errors import FileError, InputError
from rewrite.trace import trace
from tests.verify.programs import Plain, normal, plain
from verify import Report, Verdict, equivalence
from verify.radicals import radical

Function = Callable[..., Any]
OPS: dict[str, Function] = {
    "cube": lambda x: x.tanh() ** 3 + 1,  # elementwise
    "ranks": lambda x: x.softmax(-1) + x,  # row-wise
    "fold": lambda x: x.flip(0).cumsum(0)[..., ::2] * 3,  # linear
}


@pytest.fixture(scope="module", autouse=True)
def ops() -> Iterator[None]:
    with torch.library._scoped_library("tautomer_test", "FRAGMENT") as library:
        for name, function in OPS.items():
            library.define(f"{name}(Tensor x) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
            library.impl(name, function, "CompositeExplicitAutograd")
        library.define("mix(Tensor x, Tensor y, float by) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
        library.impl("mix", lambda x, y, by: (x * by).sin() * y.cos(), "CompositeExplicitAutograd")
        yield


def call(name: str) -> Function:
    return lambda *args: getattr(torch.ops.tautomer_test, name)(*args)


def asked(one: Function, other: Function, *assuming: str) -> Report:
    return equivalence(plain(one, normal(3, 4)), plain(other, normal(3, 4)), seed=0, assuming=assuming)


SAME: dict[str, tuple[str, Function, Function]] = {
    "elementwise": ("cube is elementwise", lambda x: call("cube")(x.T).T, call("cube")),
    "of two and a number": (
        "mix is elementwise",
        lambda x: call("mix")(x, x[:1], 2.0).flip(0),
        lambda x: call("mix")(x.flip(0), x[:1].expand(3, -1), 2.0),
    ),
    "row-wise": ("ranks is row-wise", lambda x: call("ranks")(x.flip(0)), lambda x: call("ranks")(x).flip(0)),
    "linear": ("fold is linear", lambda x: call("fold")(2 * x + 1), lambda x: 2 * call("fold")(x) + call("fold")(torch.ones(3, 4))),
}
OTHER: dict[str, tuple[str, Function, Function]] = {
    "elementwise": ("cube is elementwise", call("cube"), lambda x: call("cube")(x * (1 + 1e-7))),
    "not odd": ("cube is elementwise", call("cube"), lambda x: -call("cube")(-x)),
    "another number": ("mix is elementwise", lambda x: call("mix")(x, x, 2.0), lambda x: call("mix")(x, x, 2.5)),
    "the other order": ("mix is elementwise", lambda x: call("mix")(x, x + 1, 1.0), lambda x: call("mix")(x + 1, x, 1.0)),
    "the order of a row": ("ranks is row-wise", lambda x: call("ranks")(x) * torch.arange(4), lambda x: call("ranks")(x.flip(1)) * torch.arange(4)),
    "a shift of a row": ("ranks is row-wise", call("ranks"), lambda x: call("ranks")(x + 1)),
    "another argument": ("fold is linear", call("fold"), lambda x: call("fold")(x.flip(1))),
    "a constant": ("fold is linear", lambda x: call("fold")(x + 1), lambda x: call("fold")(x) + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_declared_op_is_proved_under_its_name(name: str) -> None:
    sentence, *functions = SAME[name]
    assuming = f"tautomer_test::{sentence}"
    report = asked(*functions, assuming)
    assert report.verdict is Verdict.ASSUMING, str(report)
    assert str(report).startswith(f"PROVED ASSUMING {assuming}: ")
    assert report.assumptions == (assuming,)
    assert not report.proved
    assert [report.exit_code(r) for r in ("proved", "assuming", "consistent")] == [3, 0, 0]


@pytest.mark.parametrize("name", OTHER)
def test_a_declaration_does_not_prove_what_is_wrong(name: str) -> None:
    sentence, *functions = OTHER[name]
    report = asked(*functions, f"tautomer_test::{sentence}")
    assert report.verdict is Verdict.REFUTED, str(report)


@pytest.mark.parametrize(
    ("sentence", "counterexample"),
    [
        ("ranks is elementwise", "for one element of it before and after only others changed"),
        ("fold is row-wise", "for one row of it before and after only others changed"),
        ("cube is linear", r"for op\(2x - 3y\) and 2 op\(x\) - 3 op\(y\)"),
        ("fold is elementwise", "a result of shape"),
    ],
)
def test_a_false_declaration_is_refused_with_its_counterexample(sentence: str, counterexample: str) -> None:
    function = call(sentence.split()[0])
    with pytest.raises(InputError, match=f"assuming tautomer_test::{sentence}: .*{counterexample}"):
        asked(function, function, f"tautomer_test::{sentence}")


@pytest.mark.parametrize(
    "sentence",
    ["cube is elementwise", "tautomer_test::cube is nice", "tautomer_test::none is linear", "aten::softmax.int is elementwise", "hope"],
)
def test_other_sentences_are_refused(sentence: str) -> None:
    with pytest.raises(InputError, match="assuming: expected"):
        asked(torch.tanh, torch.tanh, sentence)


def test_without_an_assumption_nothing_is_proved() -> None:
    unknown, unequal = asked(*SAME["row-wise"][1:]), asked(EIGHTH, EQUAL_ROOTS["the inverse"])
    assert unknown.verdict is Verdict.CONSISTENT
    assert 'say so: assuming "tautomer_test::' in str(unknown)
    assert unequal.verdict is Verdict.DIFFERS
    assert 'try assuming "literals are roots", with which it is proved' in str(unequal)


def test_no_assumption_is_advised_that_does_not_help() -> None:
    assert "assuming" not in str(asked(EIGHTH, OTHER_ROOTS["a little more"]))


def test_what_was_not_needed_is_not_named() -> None:
    report = asked(F.relu, lambda x: x.clamp(min=0), "tautomer_test::cube is elementwise", "literals are roots")
    assert report.verdict is Verdict.PROVED
    assert not report.assumptions


def test_a_rewrite_around_a_custom_op_and_its_claims() -> None:
    program = trace(nn.Sequential(nn.Linear(4, 5), Plain(call("cube")), nn.Linear(5, 4)).eval(), normal(3, 4))
    rewritten = program.apply(direction.at("1", d=normal(5)))
    report = equivalence(rewritten, seed=0, assuming=["tautomer_test::cube is elementwise"])
    assert report.verdict is Verdict.ASSUMING, str(report)
    assert all(claim.status == "proved" for claim in report.claims)


def test_gradients_of_a_declared_op_follow_the_chain_rule() -> None:
    sides = [
        plain(f, normal(3, 4)) for f in (lambda x: torch.special.erfinv(x.tanh() * x / 9), lambda x: torch.special.erfinv(x * x.tanh() / 9))
    ]
    report = equivalence(*sides, seed=0, gradients=True, assuming=["aten::special_erfinv is elementwise"])
    assert report.verdict is Verdict.ASSUMING, str(report)


def test_a_program_with_a_custom_op_runs_and_is_not_saved(tmp_path: Any) -> None:
    program = plain(call("cube"), normal(3, 4))
    torch.testing.assert_close(program(normal(3, 4)), OPS["cube"](normal(3, 4)))
    with pytest.raises(FileError, match="tautomer_test"):
        program.save(tmp_path / "p")


# Literals as roots


def by_roots(scale: Callable[[Tensor], Tensor]) -> Function:
    return lambda x: scale(x @ x.T).softmax(-1)


ROOT = math.sqrt(8)
EIGHTH = by_roots(lambda s: s / ROOT)
EQUAL_ROOTS: dict[str, Function] = {
    "the inverse": by_roots(lambda s: s * (1 / ROOT)),
    "the root of the inverse": by_roots(lambda s: s * math.sqrt(1 / 8)),
    "twice the fourth root": lambda x: ((x * 8**-0.25) @ (x * 8**-0.25).T).softmax(-1),
    "a product of roots": by_roots(lambda s: s * math.sqrt(3) / math.sqrt(24)),
    "one ulp": by_roots(lambda s: s / math.nextafter(ROOT, 0)),
}
OTHER_ROOTS: dict[str, Function] = {
    "of seven": by_roots(lambda s: s / math.sqrt(7)),
    "a little more": by_roots(lambda s: s * (1 / ROOT * (1 + 2.0**-30))),
    "three ulp": by_roots(lambda s: s / (ROOT + 3 * math.ulp(ROOT))),
    "the other sign": by_roots(lambda s: s / -ROOT),
    "of float32": by_roots(lambda s: s / float(torch.tensor(8.0).sqrt())),
    "of the root": by_roots(lambda s: s / 8**0.25),
}


SLOW = ("of seven", "of float32", "of the root", "the other sign")


@pytest.mark.parametrize("name", EQUAL_ROOTS)
def test_roots_of_small_fractions_are_roots_if_that_is_assumed(name: str) -> None:
    report = asked(EIGHTH, EQUAL_ROOTS[name], "literals are roots")
    assert report.verdict is Verdict.ASSUMING, str(report)
    assert str(report).startswith("PROVED ASSUMING literals are roots")
    assert "2.8284271247461903 as (8)^(1/2)" in report.scope["literals"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in OTHER_ROOTS])
def test_other_numbers_than_roots_are_not_proved(name: str) -> None:
    report = asked(EIGHTH, OTHER_ROOTS[name], "literals are roots")
    assert report.verdict in (Verdict.DIFFERS, Verdict.REFUTED), str(report)


def test_what_is_read_as_a_root() -> None:
    assert [radical(x) for x in (0.0, 1.0, 0.1, 1.5, -2.0, math.inf, math.pi, math.sqrt(2) + 1e-15, 1e-300)] == [None] * 9
    assert radical(math.sqrt(4095)) == (4095, 2)
    assert radical(0.5**0.25) == (Fraction(1, 2), 4)
