"""Claims that say different things are proved one by one, however much alike they look."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from rewrite import PassError, Program, Terms, split, trace
from rewrite.records import Claim
from verify import equivalence

aten = torch.ops.aten
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
ONE, OTHER = torch.tensor([[1.0, 1, 0], [1, 0, 1]]), torch.tensor([[0.0, 1, 1], [1, 1, 1]])


@split
def halves(y: Tensor) -> Terms:
    """Half of y, and the other."""
    return Terms(y / 2, other=y - y / 2)


@halves.claim("both are equal")
def _equal(t: Terms, y: Tensor) -> tuple[Tensor, Tensor]:
    return t[0], t.other


class Masks(nn.Module):
    """A linear map of masked numbers, masked again."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor, other_mask: Tensor) -> Tensor:
        return self.l(x * mask[..., None]) * other_mask[..., None]


class Differences(nn.Module):
    """u - v + z, v - u + z, and u - v."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.l(x)
        u, v, z = y.tanh(), y.sin(), y.cos()
        return (u - v) + z, (v - u) + z, u - v


def written(program: Program, bindings: dict[str, tuple[str, str]], swaps: dict[str, dict[str, str]], right: tuple[str, ...]) -> Claim:
    """The claim that `y` is the sum of the values named in `right`."""
    graph = fx.Graph()
    found = {name: graph.placeholder(name) for name in bindings}
    for name, (_, what) in bindings.items():
        found[name].meta["val"] = program.nodes[what].meta["val"]
    total, *more = (found[name] for name in right)
    for node in more:
        total = graph.call_function(aten.add.Tensor, (total, node))
        total.meta["val"] = found["y"].meta["val"]
    graph.output((found["y"], total))
    first = program.claims[0]
    return Claim("written", first.site, first.step, graph, bindings, first.reads, swaps)


def statuses(program: Program, *claims: Claim, inputs: list[dict[str, Tensor]] | None = None) -> list[str]:
    return [line.status for line in equivalence(replace(program, claims=claims), inputs=inputs, seed=0).claims]


def test_other_numbers_in_the_place_of_a_mask_are_of_the_mask_given() -> None:
    """Computed again with the rows of either mask exchanged: the same only where both masks are."""
    program = trace(Masks().eval(), X, torch.ones(2, 3), torch.ones(2, 3)).apply(halves.at("l"))
    term = program.sites_by_address["l/halves"].node
    mask, other = (next(node for node, leaf in program.leaves.items() if leaf.name == name) for name in ("mask", "other_mask"))
    bindings = {"y": ("node", term), "again": ("node", term), "mask": ("node", mask), "other": ("node", other)}
    bindings |= {"its": ("fresh", mask), "others": ("fresh", other)}
    claim = written(program, bindings, {"y": {mask: "its"}, "again": {mask: "others"}}, ("again",))
    alike, apart = ({"x": X, "mask": ONE, "other_mask": second} for second in (ONE, OTHER))
    assert statuses(program, claim, inputs=[alike]) == ["proved"]
    assert statuses(program, claim, inputs=[apart]) == ["fails"]
    assert statuses(program, claim, inputs=[alike, apart]) == ["fails"]
    assert statuses(program, claim, inputs=[apart, alike]) == ["fails"]


def test_values_held_in_each_others_places_make_another_claim() -> None:
    program = trace(Differences().eval(), X).apply(halves.at("l"))
    u, v, z = (
        next(n.name for n in program.graph.nodes if n.target is op) for op in (aten.tanh.default, aten.sin.default, aten.cos.default)
    )
    first, second, gap = (node.name for node in program.outputs)
    term = program.sites_by_address["l/halves"].node
    rest = {"gap": ("node", gap), "u": ("node", u), "v": ("node", v), "z": ("node", z), "t": ("node", term), "other": ("fresh", z)}
    true, false = (written(program, {"y": ("node", y), **rest}, {"y": {z: "other"}}, ("gap", "other")) for y in (first, second))
    assert statuses(program, true) == ["proved"]
    assert statuses(program, false) == ["fails"]
    assert statuses(program, true, false) == ["proved", "fails"]
    assert statuses(program, false, true) == ["fails", "proved"]


def test_a_claim_of_two_arbitrary_members_is_refused() -> None:
    """All are tried, but not all pairs of them."""
    program = trace(Differences().eval(), X).apply(halves.at("l"))
    claim = replace(program.claims[0], bindings={**program.claims[0].bindings, "i": ("member", "a"), "j": ("member", "b")})
    with pytest.raises(PassError, match="expected one member at most, got several"):
        equivalence(replace(program, claims=(claim,)))
