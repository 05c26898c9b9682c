"""Masks and positions that ids build are worth what the ids are: those of other ids, put elsewhere or hidden here, are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from rewrite import Program, trace
from verify import Report, Verdict, equivalence

ROWS, LENGTH, ENDLESS, LOWEST = 400, 7, -torch.inf, torch.finfo(torch.float32).min
IDS = torch.arange(2 * LENGTH).view(2, LENGTH)
PADDED = torch.tensor([[0, 0, 5, 6, 8, 9, 10], [0, 0, 15, 16, 18, 19, 110]])
ROW = torch.arange(2)
Made = Callable[["Reader", Tensor], Tensor]


class Reader(nn.Module):
    """What `made` makes of embedded ids."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.linear, self.places = nn.Embedding(ROWS, 8), nn.Linear(8, 8), nn.Parameter(torch.randn(16, 8))
        self.made = made

    def forward(self, ids: Tensor) -> Tensor:
        return self.made(self, ids)

    def scores(self, ids: Tensor) -> Tensor:
        return self.embed(ids) @ self.embed(ids).transpose(-1, -2)

    def attend(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores.softmax(-1) @ self.embed(ids)


def looked(mask: Callable[[Tensor], Tensor], lowest: float = ENDLESS) -> Made:
    """Attention that does not look where the mask is true."""
    return lambda m, ids: m.attend(ids, m.scores(ids).masked_fill(mask(ids), lowest))


def added(mask: Callable[[Tensor], Tensor]) -> Made:
    """The same by a float mask."""
    return lambda m, ids: m.attend(ids, m.scores(ids) + torch.where(mask(ids), LOWEST, 0.0))


def heads(*tokens: int) -> Made:
    """Two heads of attention, each blind to a token of its own."""

    def made(m: Reader, ids: Tensor) -> Tensor:
        x = m.linear(m.embed(ids)).view(2, LENGTH, 2, 4).transpose(1, 2)
        mask = torch.stack([ids != token for token in tokens], 1)[:, :, None, :].expand(2, 2, LENGTH, LENGTH)
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask).transpose(1, 2).reshape(2, LENGTH, 8)

    return made


def read_at(*positions: Callable[[Tensor], Tensor]) -> Made:
    """One position of each row by an index, and one more."""

    def made(m: Reader, ids: Tensor) -> Tensor:
        x = m.embed(ids)
        first, *more = [x[ROW, at(ids)] for at in positions]
        return first @ m.linear.weight + sum(more)

    return made


def blank(mask: Callable[[Tensor], Tensor]) -> Made:
    return lambda m, ids: m.embed(ids).index_put((mask(ids),), torch.zeros((), dtype=m.places.dtype))


def piled(at: Callable[[Tensor], Tensor]) -> Made:
    return lambda m, ids: m.places.index_add(0, at(ids)[0], m.embed(ids)[0])


def key(token: int) -> Callable[[Tensor], Tensor]:
    return lambda ids: (ids == token)[:, None]


def found(token: int) -> Callable[[Tensor], Tensor]:
    return lambda ids: (ids == token).int().argmax(-1)


def twice(a: int, b: int) -> Made:
    return lambda m, ids: looked(key(a))(m, ids) @ m.linear.weight + looked(key(b))(m, ids)


def swapped(mask: Tensor) -> Tensor:
    return mask[..., [1, 0, *range(2, LENGTH)]]


def nowhere(m: Reader, ids: Tensor) -> Tensor:
    scores = m.scores(ids)
    return m.attend(ids, torch.where(key(299)(ids), scores, scores.masked_fill(key(299)(ids), ENDLESS)))


def left(scores: Callable[[Tensor], Tensor]) -> Made:
    return lambda m, ids: m.attend(ids, scores(m.scores(ids)).masked_fill(key(0)(ids), ENDLESS))


def low(ids: Tensor) -> Tensor:
    return (1 - (ids != 299).float())[:, None] * LOWEST


OTHERS: dict[str, tuple[Tensor, Made, Made]] = {
    "of queries": (IDS, looked(key(299)), looked(lambda ids: (ids == 299)[:, :, None], LOWEST)),
    "one further": (IDS, looked(key(299)), looked(lambda ids: key(299)(ids).roll(1, -1))),
    "of the other row": (IDS, looked(key(299)), looked(lambda ids: key(299)(ids).flip(0))),
    "a float one further": (IDS, added(key(299)), added(lambda ids: key(299)(ids).roll(1, -1))),
    "exchanged": (IDS, twice(299, 300), twice(300, 299)),
    "of the other head": (IDS, heads(299, 300), heads(300, 299)),
    "not used": (IDS, looked(key(299)), nowhere),
    "positions exchanged": (IDS, read_at(found(299), found(300)), read_at(found(300), found(299))),
    "positions of the other row": (IDS, read_at(found(299)), read_at(lambda ids: found(299)(ids).flip(0))),
    "written one further": (IDS, blank(lambda ids: ids == 299), blank(lambda ids: (ids == 299).roll(1, 1))),
    "added elsewhere": (IDS, piled(lambda ids: (ids == 299).long()), piled(lambda ids: (ids == 299).long().flip(1))),
    "exchanged where ids hide it": (PADDED, looked(key(0)), looked(lambda ids: swapped(key(0)(ids)))),
    "a float exchanged where ids hide it": (PADDED, added(key(0)), added(lambda ids: swapped(key(0)(ids)))),
    "other scores where ids hide them": (PADDED, left(lambda s: s), left(lambda s: s + 5 * (torch.arange(LENGTH) < 2))),
    "always masked where ids mask": (PADDED, left(lambda s: s), left(lambda s: s.masked_fill(torch.arange(LENGTH) < 2, ENDLESS))),
}
ALIKE: dict[str, tuple[Tensor, Made, Made]] = {
    "as a float": (IDS, looked(key(299)), added(key(299))),
    "as a float, with some masked": (PADDED, looked(key(0), LOWEST), added(key(0))),
    "one after the other": (
        IDS,
        lambda m, ids: m.attend(ids, m.scores(ids).masked_fill(key(299)(ids), ENDLESS).masked_fill(key(300)(ids), ENDLESS)),
        lambda m, ids: m.attend(ids, m.scores(ids).masked_fill(key(300)(ids), ENDLESS).masked_fill(key(299)(ids), ENDLESS)),
    ),
    "by gather": (
        IDS,
        lambda m, ids: m.embed(ids)[ROW, found(299)(ids)],
        lambda m, ids: m.embed(ids).gather(1, found(299)(ids)[:, None, None].expand(2, 1, 8))[:, 0],
    ),
    "what is linear first": (
        IDS,
        lambda m, ids: (2 * m.linear(m.embed(ids)))[ROW, found(299)(ids)],
        lambda m, ids: 2 * m.linear(m.embed(ids)[ROW, found(299)(ids)]),
    ),
    "several positions": (IDS, lambda m, ids: 2 * m.places[ids % 16, ids % 8], lambda m, ids: (m.places + m.places)[ids % 16, ids % 8]),
    "written by where": (IDS, blank(lambda ids: ids == 299), lambda m, ids: torch.where((ids == 299)[..., None], 0.0, m.embed(ids))),
    "added in another order": (
        IDS,
        piled(lambda ids: ids % 16),
        lambda m, ids: m.places.index_add(0, (ids % 16)[0].flip(0), m.embed(ids)[0].flip(0)),
    ),
}


ABSORBING: dict[str, Callable[[Tensor], Tensor]] = {
    "a product": low,
    "a largest number": lambda ids: -(key(299)(ids) * -LOWEST),
    "turned twice": lambda ids: low(ids).neg().neg(),
    "a row of a table": lambda ids: torch.where(torch.arange(ROWS) == 299, LOWEST, 0.0)[ids][:, None],
    "sorted": lambda ids: low(ids).sort(-1)[0],
    "of a logarithm": lambda ids: (ids != 299).float().log().nan_to_num()[:, None],
    "cut in two": lambda ids: torch.cat(torch.where(key(299)(ids), LOWEST, 0.0).chunk(2, -1), -1),
    "cut out of a border": lambda ids: nn.functional.pad(torch.where(key(299)(ids), LOWEST, 0.0), (1, 1))[..., 1:-1],
}


def drawn() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        rare = torch.tensor([299, 300, 0, 1])[torch.randint(4, IDS.shape, generator=generator)]
        yield torch.where(torch.rand(IDS.shape, generator=generator) < 0.4, rare, torch.randint(ROWS, IDS.shape, generator=generator))


def apart(one: Made, other: Made) -> float:
    """The largest difference of float64 runs on ids of which many are rare, wherever both are defined."""
    a, b = Reader(one).double(), Reader(other).double()
    return max(float((a(ids) - b(ids)).detach().nan_to_num(0, 0, 0).abs().max()) for ids in drawn())


def compared(ids: Tensor, one: Made, other: Made, gradients: bool = False) -> Report:
    a, b = (trace(Reader(made).eval(), ids) for made in (one, other))
    same: Program = trace(Reader(one).eval(), ids)
    assert equivalence(a, same, seed=0, gradients=gradients).proved
    return equivalence(a, b, seed=0, gradients=gradients)


@pytest.mark.parametrize("name", OTHERS)
def test_what_ids_decide_otherwise_is_not_proved(name: str) -> None:
    ids, one, other = OTHERS[name]
    assert apart(one, other) > 0.1
    report = compared(ids, one, other)
    assert report.verdict in (Verdict.REFUTED, Verdict.DIFFERS)
    assert not any("equal for ids" in reason for reason in report.reasons)  # by luck, then


def test_what_no_search_meets_is_not_proved() -> None:
    """A pair of ids that the graph does not write down masks what comes after it, or what comes after that."""
    hidden = lambda ids: ((ids * 7919 % 104729 == 31476) & (ids.roll(1, 1) * 6151 % 104729 == 67337))[:, None]  # noqa: E731
    one, other = looked(hidden), looked(lambda ids: hidden(ids).roll(1, -1))
    met = torch.tensor([[3, 45, 123, 7, 8, 9, 10]] * 2)
    a, b = Reader(one).double(), Reader(other).double()
    assert float((a(met) - b(met)).detach().abs().max()) > 0.1
    assert compared(IDS, one, other).verdict in (Verdict.REFUTED, Verdict.DIFFERS)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_what_ids_decide_alike_is_proved(name: str, gradients: bool) -> None:
    ids, one, other = ALIKE[name]
    assert apart(one, other) < 1e-9
    report = compared(ids, one, other, gradients)
    assert report.proved, str(report)


def test_ids_that_choose_where_to_write_are_refused() -> None:
    written: Made = lambda m, ids: m.embed(ids).index_put((ROW, found(299)(ids)), torch.zeros((), dtype=m.places.dtype))  # noqa: E731
    report = equivalence(*(trace(Reader(made).eval(), IDS) for made in (written, lambda m, ids: written(m, ids) + 0 * m.places[:7])))
    assert report.verdict is Verdict.CONSISTENT
    assert "positions that depend on ids or on values" in report.reasons[0]


def test_a_smallest_number_that_ids_may_set_is_not_calculated_with() -> None:
    """It absorbs what it is added to: less itself it leaves nothing of that."""
    low = lambda ids: torch.where(key(299)(ids), LOWEST, 0.0)  # noqa: E731
    one: Made = lambda m, ids: torch.where(key(299)(ids), LOWEST, m.scores(ids)) - low(ids)  # noqa: E731
    other: Made = lambda m, ids: m.scores(ids) + (low(ids) - low(ids))  # noqa: E731
    report = equivalence(*(trace(Reader(made).eval(), IDS) for made in (one, other)), seed=0)
    assert report.verdict is Verdict.REFUTED
    assert "it reads -inf or a smallest finite number as a number" in report.reasons[0]


@pytest.mark.parametrize("name", ABSORBING)
def test_scores_that_a_mask_of_other_ids_absorbs_are_lost(name: str) -> None:
    low = ABSORBING[name]
    one: Made = lambda m, ids: (m.scores(ids) + low(ids)) - low(ids)  # noqa: E731
    other: Made = lambda m, ids: m.scores(ids) + 0 * low(ids)  # noqa: E731
    assert apart(one, other) > 0.1
    report = equivalence(*(trace(Reader(made).eval(), IDS) for made in (one, other)), seed=0)
    assert report.verdict is Verdict.REFUTED
    assert "it reads -inf or a smallest finite number as a number" in report.reasons[0]


def test_the_largest_of_rows_that_ids_may_mask_whole_is_for_the_ids_given() -> None:
    """Where all ids are hidden it is a smallest number, which absorbs; elsewhere an ordinary one."""
    hidden = lambda ids: (ids * 7919 % 104729 == 31476)[:, None]  # noqa: E731
    top = lambda m, ids: m.scores(ids).masked_fill(hidden(ids), LOWEST).amax(-1, keepdim=True)  # noqa: E731
    one: Made = lambda m, ids: (m.scores(ids) + top(m, ids)) - top(m, ids)  # noqa: E731
    other: Made = lambda m, ids: m.scores(ids) + 0 * top(m, ids)  # noqa: E731
    met = torch.full((2, LENGTH), next(i for i in range(ROWS) if i * 7919 % 104729 == 31476))
    a, b = Reader(one).double(), Reader(other).double()
    assert float((a(met) - b(met)).detach().abs().max()) > 0.1
    report = compared(IDS, one, other)
    assert not report.proved or "steering" in report.scope


@pytest.mark.parametrize(
    "choose", [lambda s: s.argmin(-1), lambda s: s.topk(1, -1, False)[1][..., 0], lambda s: s.sort(-1, True)[1][..., -1]]
)
def test_a_choice_that_falls_on_what_ids_mask_is_refused(choose: Callable[[Tensor], Tensor]) -> None:
    """Which of two masked elements is the smaller depends on whether it is -inf or a smallest finite number."""
    code = lambda ids: ids * 7919 % 104729  # noqa: E731
    first, second = (lambda ids, i=i: (code(ids) == i * 7919 % 104729)[:, None] for i in (123, 130))

    def chosen(one: float, other: float) -> Made:
        at = lambda m, ids: choose(m.scores(ids).masked_fill(first(ids), one).masked_fill(second(ids), other))  # noqa: E731
        return lambda m, ids: m.embed(ids).gather(1, at(m, ids)[..., None].expand(2, LENGTH, 8))

    pair, met = (chosen(ENDLESS, LOWEST), chosen(LOWEST, ENDLESS)), torch.tensor([[123, 2, 3, 130, 123, 6, 7]] * 2)
    a, b = (Reader(made).double()(met).detach() for made in pair)
    assert float((a - b).abs().max()) > 0.1
    assert not equivalence(*(trace(Reader(made).eval(), IDS) for made in pair), seed=0).proved
