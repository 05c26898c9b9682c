"""Direct paths: the factor that a term reaches its reader with, what stands in the way, and edits on one edge alone."""

import pytest
import torch
from torch import Tensor, nn

from passes import direction, gates, paths
from rewrite import PassError, Program, trace
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
