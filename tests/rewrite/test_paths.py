"""Direct paths: the factor that a term reaches its reader with, what stands in the way, and edits on one edge alone."""

import pytest
import torch
from torch import Tensor, nn

from analysis.demo import load_balancer, strings, tokens
from passes import direction, gates, heads, paths
from rewrite import PassError, Program, SiteError, load, trace
from verify import equivalence


class Scaled(nn.Module):
    """A residual stream with a multiplier, a learned scale per channel, a subtraction, and two ways for one value to come in."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.norm = nn.LayerNorm(6)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6))

    def stream(self, x: Tensor, f: Tensor, g: Tensor) -> Tensor:
        h = x + 0.25 * f
        return h - self.scale * g + 2 * f

    def forward(self, x: Tensor) -> Tensor:
        f = self.f(x)
        return self.out(self.norm(self.stream(x, f, self.g(x + f))))


@pytest.fixture(scope="module")
def scaled() -> tuple[Scaled, Program, Tensor]:
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(4, 6)
    return model, trace(model, x), x


@pytest.mark.parametrize("term", ["f", "g"])
def test_the_coefficient_is_right(scaled, term: str) -> None:
    model, program, x = scaled
    rewritten = program.apply(paths.at(f"{term} -> norm@in"), gates.at(f"{term} -> norm@in"))
    torch.testing.assert_close(rewritten(x), model(x))
    rewritten.gates[f"{term} -> norm@in"].g = 0
    f, g = model.f(x), model.g(x + model.f(x))
    stream = model.stream(x, 0 * f if term == "f" else f, 0 * g if term == "g" else g)
    torch.testing.assert_close(rewritten(x), model.out(model.norm(stream)))


def test_the_path_and_its_coefficient_are_proved(scaled) -> None:
    _, program, _ = scaled
    report = equivalence(program.apply(direction.at("f", d=torch.ones(6), name="t"), paths.at("f/t -> norm@in", "g -> norm@in")), seed=0)
    assert report.proved
    assert len(report.claims) == 4


def test_a_wrong_coefficient_fails_its_claim(scaled, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewrite import paths as room
    from rewrite import rewiring

    _, program, _ = scaled
    monkeypatch.setattr(rewiring, "factor_nodes", lambda *args: 2.0 * 1.25 if isinstance(room.factor_nodes(*args), float) else 1.0)
    report = equivalence(program.apply(paths.at("f -> norm@in")), seed=0)
    assert not report.proved
    assert [claim.status for claim in report.claims] == ["fails"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("f -> out@in", r"f: expected a path of adds and scalings to .*, got layer_norm .* on the way\. The pass norm opens it\."),
        ("norm -> f@in", r"got a reader that does not depend on it\. Choose a reader downstream\."),
        ("f ~> norm@in", r"expected 'term -> reader', got 'f ~> norm@in'\. The pass inputs takes ~>.*\n    f ~> norm@in\n      \^"),
        ("f", r"expected 'term -> reader', got one site"),
        ("f -> g -> norm@in", r"expected 'term -> reader', got 3 stops.*\n    f -> g -> norm@in\n              \^"),
    ],
)
def test_what_is_no_direct_path(scaled, path: str, message: str) -> None:
    _, program, _ = scaled
    with pytest.raises(PassError, match=message):
        program.apply(paths.at(path))


HEAD = "blocks.1.attn/head"


@pytest.fixture(scope="module")
def balancer() -> tuple[Program, Tensor]:
    ids = tokens(strings(5, seed=0))
    return trace(load_balancer(), ids).apply(heads.at("blocks.1.attn")), ids


@pytest.mark.parametrize("member", ["0", "1", ":"])
def test_a_path_of_a_family_is_a_family(balancer, member: str) -> None:
    program, ids = balancer
    way = f"{HEAD}[{member}] -> ln_f@in"
    split = program.apply(paths.at(way), gates.at(way))
    says = program.values(f"{HEAD}[{member}]", input_ids=ids)[f"{HEAD}[{member}]"]
    expected, _ = program.run({"input_ids": ids}, edit={"ln_f@in": lambda x: x - says})
    closed, _ = split.run({"input_ids": ids}, gates={way: 0.0})
    edited, read = split.run({"input_ids": ids}, edit={way.replace("]", "]@act"): 0.0}, read=[way])
    torch.testing.assert_close(closed, expected)
    torch.testing.assert_close(edited, expected)
    assert list(read) == [way]
    torch.testing.assert_close(split(ids), program(ids))


def test_a_path_of_a_family_is_proved_and_saved(balancer, tmp_path) -> None:
    program, ids = balancer
    way = f"{HEAD} -> ln_f@in"
    split = program.apply(paths.at(way), gates.at(way))
    assert equivalence(split, seed=0).proved
    split.save(tmp_path / "split")
    again = load(tmp_path / "split")
    again.gates[f"{HEAD}[1] -> ln_f@in"].g = 0
    assert again.gates[way].g.tolist() == [1, 0]
    assert not torch.allclose(again(ids), split(ids))


def test_what_is_done_to_the_family_is_done_on_its_path(balancer) -> None:
    program, ids = balancer
    way = f"{HEAD} -> ln_f@in"
    expected, _ = program.run({"input_ids": ids}, edit={f"{HEAD}[0]@act": 0.0})
    for steps in ([gates.at(HEAD), paths.at(way), gates.at(way)], [paths.at(way), gates.at(way), gates.at(HEAD)]):
        split = program.apply(*steps)
        assert equivalence(split, seed=0).proved
        for edit, closed in (({}, {f"{HEAD}[0]": 0.0}), ({f"{HEAD}[0]@act": 0.0}, {}), ({f"{HEAD}[0]": 0.0}, {})):
            torch.testing.assert_close(split.run({"input_ids": ids}, edit=edit, gates=closed)[0], expected)
        twice, _ = split.run({"input_ids": ids}, gates={f"{HEAD}[0]": 0.0, f"{HEAD}[0] -> ln_f@in": 0.0})
        torch.testing.assert_close(twice, expected)  # what is gone is not taken off once more
        both, _ = split.run({"input_ids": ids}, gates={f"{HEAD}[0]": 0.0, f"{HEAD}[1] -> ln_f@in": 0.0})
        zero = program.run({"input_ids": ids}, edit={f"{HEAD}[0]@act": 0.0}, read=[f"{HEAD}[1]"])[1][f"{HEAD}[1]"]
        on_path, _ = program.run({"input_ids": ids}, edit={f"{HEAD}[0]@act": 0.0, "ln_f@in": lambda x, gone=zero: x - gone})
        torch.testing.assert_close(both, on_path)


def test_a_wrong_copy_of_a_family_is_not_proved(balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewrite import family

    program, _ = balancer
    true = family.total
    monkeypatch.setattr(family, "total", lambda equation, operands: true(equation, [operands[0].flip(-2), *operands[1:]]))
    assert not equivalence(program.apply(paths.at(f"{HEAD} -> ln_f@in")), seed=0).proved


def test_what_is_no_family_has_no_members_on_a_path(balancer) -> None:
    program, _ = balancer
    split = program.apply(paths.at("blocks.0.mlp -> ln_f@in"))
    with pytest.raises(SiteError, match=r"expected a family, got 'blocks\.0\.mlp -> ln_f@in'"):
        split.values("blocks.0.mlp[0] -> ln_f@in", input_ids=tokens(strings(5, seed=0)))
