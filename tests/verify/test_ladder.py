"""The precision ladder: rounding is told from another function, and accuracy from correctness."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rewrite import trace
from tests.verify.programs import normal, plain, tiny, toy, variant
from tests.verify.toy import BUGS, CORRECT
from verify import Verdict, equivalence
from verify.cases import given_cases, other_shapes
from verify.gap import Gap, gap
from verify.ladder import DIFFERENT, ROUNDING, Drift, Sides, ladder
from verify.match import match
from verify.shadow import CannotLift, sweep


def drift(a, b, gradients: bool = False) -> Drift:
    pairs = tuple((name or "y", x.name, y.name) for name, x, y in zip(a.calling.outputs, a.outputs, b.outputs, strict=True))
    return ladder(Sides(a, b, match(a, b), pairs), given_cases(a, None), gradients=gradients)


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_rewrite_only_rounds(name: str) -> None:
    assert drift(toy(), variant(name)).outputs.rho <= ROUNDING


@pytest.mark.parametrize("name", [name for name in BUGS if name != "b_dead"])
def test_a_bug_does_not(name: str) -> None:
    assert drift(toy(), variant(name)).outputs.rho > DIFFERENT


def test_a_float32_constant_is_not_only_rounding() -> None:
    w, g = normal(8, 8, seed=1), normal(8, seed=2)
    folded = w * g
    a = plain(lambda w, g, x: (x * g) @ w.T, normal(4, 8), w, g)
    derived = plain(lambda w, g, x: x @ (w * g).T, normal(4, 8), w, g)
    baked = plain(lambda w, g, x: x @ folded.T, normal(4, 8), w, g)
    assert drift(a, derived).verdict == "rounding only"
    assert drift(a, baked).verdict == "different"


def test_constants_are_counted_with_their_error() -> None:
    found = drift(toy(), variant("c_fold")).constants
    assert found is not None
    assert found[0] >= 2
    assert 0 < found[1] < 64


def test_cancellation_amplifies_rounding() -> None:
    assert drift(toy(), variant("c_res")).usable == "usable"
    assert drift(toy(), variant("c_resbig")).usable == "unusable in float32"


def test_gradients_are_compared() -> None:
    assert drift(toy(), variant("c_fold"), gradients=True).gradients.rho <= ROUNDING  # type: ignore[union-attr]
    w = normal(4, 4)
    a, b = plain(lambda w, x: (x @ w).tanh(), normal(3, 4), w), plain(lambda w, x: (x @ w.detach()).tanh(), normal(3, 4), w)
    found = drift(a, b, gradients=True)
    assert found.outputs.rho == 0.0
    assert found.gradients is not None
    assert found.gradients.rho > DIFFERENT
    assert found.gradients.at == "weight w.0"


def test_tied_weights_have_one_gradient() -> None:
    found = drift(tiny("gpt2"), tiny("gpt2"), gradients=True).gradients
    assert found is not None
    assert found.rho == 0.0


def test_logits_are_compared_as_predictions() -> None:
    same, other = drift(toy(), variant("c_heads")), drift(toy(), variant("b_ov_transposed"))
    assert same.kl is not None
    assert same.kl < 1e-9
    assert same.flips == (0, 12)
    assert other.kl is not None
    assert other.kl > 1e-3


def test_other_shapes_where_sizes_are_free() -> None:
    program = tiny("gpt2")
    shapes = [tuple(case["input_ids"].shape) for case in other_shapes(program, given_cases(program, None)[0])]
    assert shapes == [(3, 6), (4, 5)]
    assert len(equivalence(program).drift.shapes) == 3


def test_half_precision_is_reported_and_judged_in_floats() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).to(torch.bfloat16).eval()
    program = trace(model, normal(3, 8).bfloat16())
    report = equivalence(program)
    assert report.proved
    assert report.drift.half.startswith("as shipped in bfloat16: relative difference 0.0")


def test_a_run_is_in_the_precision_asked_for() -> None:
    program = plain(lambda x: torch.full((3,), 0.1) + x.float() * torch.arange(3, dtype=torch.float32), normal(3))
    case = given_cases(program, None)[0]
    name = program.outputs[0].name
    for dtype in (torch.float32, torch.float64):
        assert sweep(program, [case], [name], dtype)[0][name].dtype == dtype
    exact = 0.1 + case["x"].double() * torch.arange(3)
    assert torch.equal(sweep(program, [case], [name], torch.float64)[0][name], exact)


class Angles(nn.Module):
    """Numbers turned by angles whose speeds are held as a buffer, computed in the graph, or other ones; `hidden` hides that it is the same."""

    def __init__(self, how: str, hidden: bool = False) -> None:
        super().__init__()
        self.how, self.hidden, self.w = how, hidden, nn.Parameter(normal(4, seed=1))
        self.register_buffer("speeds", self.computed(), persistent=False)

    def computed(self) -> Tensor:
        return 1.0 / 10.0 ** (torch.arange(4).float() / 3)

    def forward(self, x: Tensor) -> Tensor:
        speeds = self.speeds if self.how == "held" else self.computed() if self.how == "computed" else self.computed() * (1 + 2.0**-20)
        y = (x * (torch.arange(x.shape[0]).float()[:, None] * speeds).cos() * self.w).relu()
        return y * (y.sin() ** 2 + y.cos() ** 2) if self.hidden else y


def test_a_buffer_and_what_it_was_computed_from_are_one_function() -> None:
    held, computed, other = (trace(Angles(how).eval(), normal(3, 4)) for how in ("held", "computed", "other"))
    assert drift(held, computed).outputs.rho <= ROUNDING
    assert drift(held, other).outputs.rho > DIFFERENT
    for pair in ((held, computed), (computed, held)):
        assert equivalence(*pair).proved
        assert equivalence(*pair, weights="any").proved
    assert drift(held, computed, gradients=True).verdict == "rounding only"


def test_nor_is_their_rounding_a_witness() -> None:
    held, same = trace(Angles("held").eval(), normal(3, 4)), trace(Angles("computed", hidden=True).eval(), normal(3, 4))
    other = trace(Angles("other", hidden=True).eval(), normal(3, 4))
    assert equivalence(held, same).verdict is Verdict.DIFFERS
    assert equivalence(held, other).verdict is Verdict.REFUTED


def test_only_numbers_of_the_graph_alone_can_be_rounded_as_traced() -> None:
    program = plain(lambda w, x: x + w / 3 + torch.full((4,), 0.1), normal(4), normal(4, seed=1))
    (w,) = program.tensors.values()
    case, name = given_cases(program, None)[0], program.outputs[0].name
    known = case["x"].double() + w.double() / 3
    assert torch.equal(sweep(program, [case], [name], torch.float64)[0][name], known + 0.1)
    assert torch.equal(sweep(program, [case], [name], torch.float64, rounded=True)[0][name], known + torch.tensor(0.1).double())


def test_bits_of_floats_cannot_be_lifted() -> None:
    program = plain(lambda x: x.view(torch.int32).float(), normal(3, 4))
    with pytest.raises(CannotLift):
        sweep(program, given_cases(program, None), [program.outputs[0].name], torch.float64)
    assert drift(program, program).reason == "view reads the bits of a number"


X = torch.tensor([1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    ("q32", "q64", "low", "high"),
    [
        (X, X.double(), 0.0, 0.0),
        (X, X.double() * (1 + 1e-16), 0.0, 1.0),
        (X, X.double() * (1 + 1e-8), 1e6, 1e9),
        (X * 2, X.double() * 2, 1e7, math.inf),
        (torch.full((3,), math.nan), torch.full((3,), math.nan, dtype=torch.float64), math.inf, math.inf),
        (X[:2], X[:2].double(), math.inf, math.inf),
    ],
)
def test_rho_of_known_differences(q32: Tensor, q64: Tensor, low: float, high: float) -> None:
    assert low <= gap(X, q32, X.double(), q64).rho <= high


def test_values_undefined_in_the_original_are_left_out() -> None:
    undefined = torch.tensor([1.0, math.nan])
    found = gap(undefined, torch.ones(2), undefined.double(), torch.ones(2).double())
    assert found.rho == 0.0
    assert found.undefined == 1


def test_integers_agree_or_do_not() -> None:
    assert gap(torch.arange(3), torch.arange(3), torch.arange(3), torch.arange(3)).rho == 0.0
    assert gap(torch.arange(3), torch.zeros(3).long(), torch.arange(3), torch.zeros(3).long()).rho == math.inf


def test_the_worst_of_two_gaps() -> None:
    one, other = Gap(rho=2.0, amplification=1.0, at="a"), Gap(rho=1.0, amplification=5.0, at="b")
    assert one.worst(other) == Gap(rho=2.0, amplification=5.0, at="a") == other.worst(one)
