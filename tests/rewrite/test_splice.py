"""The splicer: a rewrite reaches the readers of its site and nobody else, and leaves the program that it was applied to alone.

Equality checks cannot see a mistake here, since unedited every copy is worth the same: so it is tested by ablation.
"""

import pytest
import torch
from torch import Tensor, nn

from passes import direction, gates, heads
from rewrite import PassError, Program, SiteError, rewire, trace


@rewire
def zero(read: Tensor) -> Tensor:
    """Nothing, in place of what was read: an edit."""
    return read * 0


class Block(nn.Module):
    """One value read by two modules, by an identity, and by the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.left, self.right = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.same, self.drop = nn.Identity(), nn.Dropout(0.5)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        h = self.norm(x)
        return {"left@in": h, "right@in": h, "same": self.same(h), "drop": self.drop(h), "residual": h}

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.parts(x))

    def combine(self, read: dict[str, Tensor]) -> Tensor:
        return self.left(read["left@in"]) + self.right(read["right@in"]) + 2 * read["same"] + 3 * read["drop"] + 5 * read["residual"]


@pytest.fixture(scope="module")
def block() -> tuple[Block, Program, Tensor]:
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(3, 6)
    return model, trace(model, x), x


@pytest.mark.parametrize("address", ["left@in", "right@in", "same", "drop"])
def test_an_edit_reaches_the_readers_of_its_site_only(block, address: str) -> None:
    model, program, x = block
    read = model.parts(x)
    expected = model.combine({**read, address: torch.zeros_like(x)})
    torch.testing.assert_close(program.apply(zero.at(address))(x), expected)


def test_an_edit_of_the_value_itself_reaches_all_readers(block) -> None:
    model, program, x = block
    expected = model.combine(dict.fromkeys(model.parts(x), torch.zeros_like(x)))
    torch.testing.assert_close(program.apply(zero.at("norm"))(x), expected)


@pytest.mark.parametrize("first", ["left@in", "same"])
def test_a_split_of_one_reader_and_then_of_all(block, first: str) -> None:
    model, program, x = block
    d = torch.ones(6)
    split = program.apply(direction.at(first, d=d, name="one"), direction.at("norm", d=d, name="all"))
    torch.testing.assert_close(split(x), model(x))
    h = model.norm(x)
    without = h - (h @ d)[:, None] * d / 6
    torch.testing.assert_close(split.run({}, x, edit={"norm/all": 0.0})[0], model.combine(dict.fromkeys(model.parts(x), without)))
    torch.testing.assert_close(split.run({}, x, edit={f"{first}/one": 0.0})[0], model.combine({**model.parts(x), first: without}))


class Early(nn.Module):
    """A module that returns a value which it reads itself, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x)
        return h, self.second(h)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early = Early()

    def forward(self, x: Tensor) -> Tensor:
        h, s = self.early(x)
        return h + 10 * s


def test_a_modules_output_is_read_outside_of_it() -> None:
    torch.manual_seed(0)
    model, x = Outer().eval(), torch.randn(3, 6)
    program, h = trace(model, x), model.early.first(x)
    torch.testing.assert_close(program.apply(zero.at("early:0"))(x), 10 * model.early.second(h))
    torch.testing.assert_close(program.apply(zero.at("early.first"))(x), 10 * model.early.second(0 * h))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.f(x))


def test_each_call_of_a_module_is_a_site_of_its_own() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(3, 6)
    program = trace(model, x)
    torch.testing.assert_close(program.apply(zero.at("f"))(x), model.f(torch.zeros(3, 6)))
    torch.testing.assert_close(program.apply(zero.at("f#2"))(x), torch.zeros(3, 6))


def test_the_program_that_a_pass_is_applied_to_stays_as_it_was(block) -> None:
    _, program, x = block
    before, text = program(x), str(program)
    rewritten = program.apply(direction.at("left", d=torch.ones(6)), gates.at("left/direction"))
    rewritten.gates["left/direction"].g = 0
    assert torch.equal(program(x), before)
    assert str(program) == text
    assert rewritten.origin is program
    again = rewritten.apply(gates.at("right"))
    rewritten.gates["left/direction"].g = 0.5
    assert again.gates["left/direction"].g == 0


def test_terms_are_sites_and_split_further(block) -> None:
    model, program, x = block
    d, e = torch.eye(6)[0], torch.eye(6)[1]
    split = program.apply(direction.at("left", d=d, name="a"), direction.at("left/a.rest", d=e, name="b"))
    torch.testing.assert_close(split(x), model(x))
    values = split.values(["left/a", "left/a.rest/b", "left/a.rest/b.rest", "left"], x)
    torch.testing.assert_close(values["left/a"] + values["left/a.rest/b"] + values["left/a.rest/b.rest"], values["left"])
    assert torch.count_nonzero(values["left/a.rest/b.rest"][:, :2]) == 0


def test_a_family_is_gated_before_the_splits_of_its_site() -> None:
    from tests import models

    model, example = models.gpt2()
    program = trace(model, **example)
    family = "transformer.h.0.attn/head"
    split = program.apply(
        heads.at("transformer.h.0.attn"), direction.at(family, d=torch.ones(32), name="d"), gates.at(family, f"{family}/d")
    )
    split.gates[f"{family}[1]"].g = 0
    plain = program.apply(heads.at("transformer.h.0.attn")).run(example, edit={f"{family}[1]": 0.0})[0].logits
    torch.testing.assert_close(split(**example).logits, plain)
    closed = split(**example).logits
    split.gates[f"{family}/d"].g = 0
    assert not torch.allclose(split(**example).logits, closed)


def test_names_are_given_once(block) -> None:
    _, program, _ = block
    twice = direction.at("left", d=torch.ones(6), name="a")
    with pytest.raises(PassError, match=r"left/a: expected a name that is not taken at this site, got one that is\. Pass name=\."):
        program.apply(twice, twice)


def test_a_site_that_nothing_reads_cannot_be_rewritten() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.b(x)
            return self.a(x)

    program = trace(Unread().eval(), torch.randn(2, 3))
    with pytest.raises(SiteError, match=r"b: expected a site that something reads, got one that nothing does"):
        program.apply(gates.at("b"))


def test_passes_on_ops_and_on_values_go_in_either_order() -> None:
    from tests import models
    from verify import equivalence

    model, example = models.gpt2()
    site, d = "transformer.h.0.attn", torch.arange(32.0) + 1
    passes = (heads.at(site), direction.at(site, d=d, name="d"))
    program = trace(model, **example)
    for order in (passes, passes[::-1]):
        rewritten = program.apply(*order, gates.at(f"{site}/head", f"{site}/d"))
        assert equivalence(rewritten, seed=0).proved
        rewritten.gates[f"{site}/head[1]"].g = 0
        expected = program.apply(heads.at(site)).run(example, edit={f"{site}/head[1]": 0.0})[0].logits
        torch.testing.assert_close(rewritten(**example).logits, expected)
