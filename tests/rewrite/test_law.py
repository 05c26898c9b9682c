"""Laws: plain functions with guards and claims; what they may return, and what is said when they return something else."""

import pytest
import torch
from torch import Tensor, nn

from rewrite import Family, PassError, Program, SiteError, Skip, Terms, fresh, part, reform, split, trace


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return trace(Model().eval(), torch.randn(5, 4))


@split
def halves(y: Tensor) -> Terms:
    """Half of `y`, and the other half."""
    return Terms(y / 2, other=y / 2)


def test_a_law_is_the_function_that_it_decorates() -> None:
    terms = halves(torch.ones(2))
    assert torch.equal(terms[0], terms.other)
    assert halves.__doc__ == "Half of `y`, and the other half."


def test_names_of_terms(program: Program) -> None:
    assert program.apply(halves.at("a")).select("a/*") == ("a/halves",)
    assert set(program.apply(halves.at("a", name="h")).select("a/**")) == {"a/h", "a/h.other"}


def test_a_guard_skips_with_its_reason(program: Program) -> None:
    @split
    def picky(y: Tensor) -> Terms:
        return Terms(y, rest=0 * y)

    @picky.guard
    def _(y: Tensor) -> Skip | None:
        return None if y.shape[-1] == 6 else Skip(f"the last axis is {y.shape[-1]}")

    rewritten = program.apply(picky.at("a", "b"))
    assert rewritten.steps[0].sites == ("a",)
    assert rewritten.steps[0].skipped == {"b": "the last axis is 3"}
    with pytest.raises(PassError, match=r"picky: expected at least one site that it applies to, got 1 skipped \(b: the last axis is 3\)"):
        program.apply(picky.at("b"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: y, r"expected a split to return Terms, got \w*Tensor"),
        (lambda y: Terms(y[..., :2], rest=y), r"a/wrong: expected the site's shape .*, got .*\. Return full terms\."),
        (lambda y: Terms(y.double(), rest=y), r"a/wrong: expected the site's dtype torch\.float32, got torch\.float64"),
        (lambda y: Terms(), r"Terms: expected at least one term, got none"),
        (lambda y: Terms(torch.rand_like(y), rest=y), r"expected a deterministic function, got aten\.rand_like"),
        (lambda y: Terms(y.item(), rest=y), r"expected a function of its tensors' values that torch can capture"),
        (lambda y: Terms(Family("...k,mk->...m", y, y, axis="z", act=y)), r"expected an axis letter that is summed over, got 'z'"),
        (lambda y: Terms(Family("...k->...", y, axis="k", act=torch.ones(3))), r"expected act to be one of the operands"),
    ],
)
def test_what_a_split_may_not_do(program: Program, function, message: str) -> None:
    wrong = split(name="wrong")(function)
    with pytest.raises(PassError, match=message):
        program.apply(wrong.at("a"))


def test_arguments_are_checked_at_the_door() -> None:
    @split
    def scaled(y: Tensor, *, by: float, slope: float = 1.0) -> Terms:
        return Terms(by * slope * y, rest=y - by * slope * y)

    with pytest.raises(PassError, match=r"scaled\.at: expected by=, got no value for it"):
        scaled.at("a")
    with pytest.raises(PassError, match=r"expected arguments among \['by', 'slope'\], got 'slop'\. Nearest: 'slope'"):
        scaled.at("a", by=1.0, slop=2.0)
    with pytest.raises(PassError, match=r"expected at least one address, got none"):
        scaled.at(by=1.0)
    with pytest.raises(PassError, match=r"expected of= one of linear, norm, attention, embedding, sum, got 'linaer'\. Nearest: 'linear'"):
        split(of="linaer")(lambda x: x)


def test_an_address_that_matches_nothing_names_the_nearest(program: Program) -> None:
    with pytest.raises(SiteError, match=r"no site matches 'aa' among \d+\."):
        program.apply(halves.at("aa"))


def test_code_that_writes_in_place_is_captured(program: Program) -> None:
    @split
    def first(y: Tensor) -> Terms:
        mine = torch.zeros_like(y)
        mine[..., 0] = y[..., 0]
        return Terms(mine, rest=y - mine)

    x = program.example[0][0]
    rewritten = program.apply(first.at("a"))
    torch.testing.assert_close(rewritten(x), program(x))
    assert torch.count_nonzero(rewritten.values("a/first", x)["a/first"][:, 1:]) == 0


def test_tensors_that_a_function_closes_over_become_constants(program: Program) -> None:
    offset = torch.arange(6.0)
    shifted = split(name="shifted")(lambda y: Terms(y - offset, rest=offset))
    rewritten = program.apply(shifted.at("a"))
    x = program.example[0][0]
    torch.testing.assert_close(rewritten(x), program(x))
    torch.testing.assert_close(rewritten.values("a/shifted.rest", x)["a/shifted.rest"], offset.expand(5, 6))


def test_an_argument_may_be_a_function_of_the_site(program: Program) -> None:
    @split
    def scaled(y: Tensor, *, by: float) -> Terms:
        return Terms(by * y, rest=y - by * y)

    rewritten = program.apply(scaled.at("a", "b", by=lambda site: float(site.shape[-1]) if site.shape[-1] > 3 else Skip("narrow")))
    assert rewritten.steps[0].skipped == {"b": "narrow"}


def test_a_reform_names_parts(program: Program) -> None:
    @reform
    def twice_half(y: Tensor) -> Tensor:
        return 2 * part("half", y / 2)

    rewritten, x = program.apply(twice_half.at("a")), program.example[0][0]
    torch.testing.assert_close(rewritten(x), program(x))
    torch.testing.assert_close(rewritten.values("a/half", x)["a/half"], program.values("a", x)["a"] / 2)


def test_a_claim_that_reads_no_term_is_an_error(program: Program) -> None:
    empty = split(name="empty")(lambda y: Terms(y / 2, other=y / 2))
    empty.claim("y is y")(lambda t, y: (y, y))
    with pytest.raises(PassError, match=r"expected a claim that reads a term, got one that reads none"):
        program.apply(empty.at("a"))


def test_a_claim_returns_two_sides(program: Program) -> None:
    odd = split(name="odd")(lambda y: Terms(y / 2, other=y / 2))
    odd.claim("something")(lambda t, y: t[0])
    with pytest.raises(PassError, match=r"expected two sides \(left, right\), got \w*Tensor"):
        program.apply(odd.at("a"))


def test_fresh_is_for_arguments(program: Program) -> None:
    odd = split(name="odd")(lambda y: Terms(y / 2, other=y / 2))
    odd.claim("something")(lambda t, y: (t[0], fresh(y * 2)))
    with pytest.raises(PassError, match=r"expected fresh\(\) of one of the claim's arguments"):
        program.apply(odd.at("a"))


def test_unbound_laws_and_training_modules_are_refused(program: Program) -> None:
    with pytest.raises(PassError, match=r"apply: expected passes such as direction\.at\(address, d=d\), got Law"):
        program.apply(halves)  # type: ignore[arg-type]
    module = split(name="module")(lambda y, *, f: Terms(f(y), rest=y - f(y)))

    @split
    def through(y: Tensor, *, f: nn.Module) -> Terms:
        return Terms(f(y), rest=y - f(y))

    assert module is not through
    with pytest.raises(PassError, match=r"a/through\.f: expected a module in eval mode, got training mode"):
        program.apply(through.at("a", f=nn.Linear(6, 6)))
