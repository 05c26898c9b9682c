"""Token ids and data-dependent positions: edits that concrete ids would hide, and rewrites that must still agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.verify.graphs import KEY, checked, compare, graph_of, values_of
from verify.interpret import Refused, evaluate
from verify.world import World

VOCABULARY = 11
E = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 5, 3, 1], [2, 2, 0, 4]])
X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
SWAPPED = torch.arange(VOCABULARY)
SWAPPED[[7, 9]] = torch.tensor([9, 7])


def embedded(e: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, e)


EDITS = {
    "a clamped id": lambda e, ids: F.embedding(ids.clamp(max=VOCABULARY - 2), e),
    "two ids swapped by a table": lambda e, ids: F.embedding(SWAPPED[ids], e),
    "a bool table true at one id": lambda e, ids: (
        F.embedding(ids, e) + torch.where((torch.arange(VOCABULARY) == 10)[ids], 1e3, 0.0)[..., None]
    ),
    "a row edited": lambda e, ids: F.embedding(ids, e.index_put([torch.tensor(10)], e[10] + 1)),
    "a row edited by a scatter": lambda e, ids: F.embedding(ids, e.select_scatter(e[8] * 2, 0, 8)),
    "one-hot vectors times a part of the table": lambda e, ids: F.one_hot(ids, VOCABULARY).float()[..., :9] @ e[:9],
    "one id": lambda e, ids: F.embedding(ids, e) + 1.0 * (ids == 9)[..., None],
    "sixty ids at once": lambda e, ids: F.embedding(ids, e) + (ids.repeat(1, 15) == torch.arange(60) % 7).float().prod(-1)[:, None, None],
    "an order": lambda e, ids: torch.where((ids > 8)[..., None], 0.0, F.embedding(ids, e)),
    "a masked fill": lambda e, ids: F.embedding(ids, e).masked_fill((ids == 9)[..., None], 0.0),
    "the ids as numbers": lambda e, ids: F.embedding(ids, e) + (ids // 9).float()[..., None],
    "another position": lambda e, ids: F.embedding(ids.roll(1, 1), e),
    "a literal id": lambda e, ids: F.embedding(torch.cat([torch.tensor([[1], [2]]), ids[:, 1:]], 1), e),
}

REWRITES = {
    "indexing": lambda e, ids: e[ids],
    "flattened": lambda e, ids: e.index_select(0, ids.flatten()).view(2, 4, 4),
    "one-hot times the table": lambda e, ids: F.embedding(ids.T.contiguous(), e).transpose(0, 1),
    "one-hot vectors times the table": lambda e, ids: F.one_hot(ids, VOCABULARY).float() @ e,
    "pieces": lambda e, ids: torch.cat([F.embedding(ids[:, :1], e), F.embedding(ids[:, 1:], e)], 1),
    "a table split in two": lambda e, ids: F.embedding(ids, e * 0.25) + F.embedding(ids, e * 0.75),
    "one row's shift for all": lambda e, ids: F.embedding(ids, e - e[3]) + e[3],
    "a mask and its complement": lambda e, ids: F.embedding(ids, e) * ((ids == 9).float() + (ids != 9).float())[..., None],
    "an order and its complement": lambda e, ids: F.embedding(ids, e) * ((ids > 9).float() + (ids <= 9).float())[..., None],
}


NARROW = torch.zeros(1, dtype=torch.int32)
NAMES = {  # of one op on ids
    "a narrower type": (lambda ids: ids.cumsum(1).type_as(NARROW), lambda ids: ids.cumsum(1).to(torch.int32)),
    "a choice with a number": (lambda ids: torch.where(ids != 9, ids, 0), lambda ids: torch.where(ids != 9, ids, torch.tensor(0))),
    "the smaller": (lambda ids: torch.min(ids.cumsum(1), ids), lambda ids: torch.minimum(ids.cumsum(1), ids)),
    "a border": (lambda ids: F.pad(ids, (1, 0), value=2), lambda ids: torch.ops.aten.constant_pad_nd(ids, [1, 0], 2)),
    "a quotient": (lambda ids: ids // 2, lambda ids: torch.div(ids, 2, rounding_mode="floor")),
    "a fill": (lambda ids: ids.masked_fill(ids == 9, 7), lambda ids: torch.where(ids == 9, 7, ids)),
}
OTHERS = {
    "another type": (lambda ids: ids.cumsum(1).to(torch.int32), lambda ids: ids.cumsum(1)),
    "another number": (lambda ids: torch.where(ids != 9, ids, 0), lambda ids: torch.where(ids != 9, ids, 1)),
    "another id": (lambda ids: torch.where(ids != 9, ids, 0), lambda ids: torch.where(ids != 8, ids, 0)),
    "the larger": (lambda ids: torch.min(ids.cumsum(1), ids), lambda ids: torch.max(ids.cumsum(1), ids)),
    "another border": (lambda ids: F.pad(ids, (1, 0), value=2), lambda ids: F.pad(ids, (1, 0), value=3)),
    "a type that does not hold what is written": (
        lambda ids: torch.slice_scatter(torch.zeros(2, 4, dtype=torch.uint8), ids).long(),
        lambda ids: torch.slice_scatter(torch.zeros(2, 4, dtype=torch.int64), ids),
    ),
    "a diagonal of such a type": (
        lambda ids: torch.diagonal_scatter(torch.zeros(2, 4, dtype=torch.int8), ids[0, :2]).long(),
        lambda ids: torch.diagonal_scatter(torch.zeros(2, 4, dtype=torch.int64), ids[0, :2]),
    ),
    "a quotient towards zero": (
        lambda ids: torch.div(ids - 4, 2, rounding_mode="floor"),
        lambda ids: torch.div(ids - 4, 2, rounding_mode="trunc"),
    ),
    "another fill": (lambda ids: ids.masked_fill(ids == 9, 7), lambda ids: torch.where(ids == 9, ids, 7)),
    "another side": (lambda ids: F.pad(ids, (1, 0), value=2), lambda ids: F.pad(ids, (0, 1), value=2)),
}


def read_at(place: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda e, ids: F.embedding(place(ids) % VOCABULARY, e)


@pytest.mark.parametrize("name", NAMES)
def test_one_op_on_ids_by_two_names_is_one(name: str) -> None:
    assert compare(*map(read_at, NAMES[name]), E, IDS, ids=[1]).equal


@pytest.mark.parametrize("name", OTHERS)
def test_another_op_on_ids_is_another(name: str) -> None:
    assert compare(*map(read_at, OTHERS[name]), E, IDS, ids=[1]).unequal > 0


def test_an_expression_of_ids_is_equal_to_itself_and_not_above_itself() -> None:
    assert compare(lambda e, ids: F.embedding(ids, e) * (ids == ids).float()[..., None], embedded, E, IDS, ids=[1]).equal
    assert compare(lambda e, ids: F.embedding(ids, e) * (1 - (ids > ids).float())[..., None], embedded, E, IDS, ids=[1]).equal
    nan = lambda ids: (ids - ids).float() / (ids - ids).float()  # noqa: E731
    assert compare(lambda e, ids: F.embedding(ids, e) * (nan(ids) == nan(ids)).float()[..., None], embedded, E, IDS, ids=[1]).unequal > 0
    assert compare(lambda e, ids: F.embedding(ids, e) * (ids == ids.roll(1, 1)).float()[..., None], embedded, E, IDS, ids=[1]).unequal > 0


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_at_ids_that_do_not_occur_is_seen(name: str) -> None:
    assert compare(embedded, EDITS[name], E, IDS, ids=[1]).unequal > 0


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_of_a_table_agrees_for_every_id(name: str) -> None:
    result = compare(embedded, REWRITES[name], E, IDS, ids=[1])
    assert result.equal
    assert result.elements == 32


@pytest.mark.parametrize("name", [*EDITS, *REWRITES])
def test_the_rules_over_floats_are_torchs(name: str) -> None:
    result = checked((EDITS | REWRITES)[name], E, IDS, ids=[1])
    assert result.error < 1e-5, result


def test_without_a_role_the_first_four_edits_are_invisible() -> None:
    """Why roles exist: at the ids of the example these programs compute the same numbers."""
    for name in list(EDITS)[:4]:
        assert compare(embedded, EDITS[name], E, IDS).equal


def test_a_comparison_of_ids_that_steers_a_mask_is_named() -> None:
    world = World(KEY)
    steered = lambda e, ids: torch.where((ids == 2)[:, None, :], -torch.inf, F.embedding(ids, e) @ e[:4].T).softmax(-1)  # noqa: E731
    assert compare(steered, steered, E, IDS, ids=[1], world=world).equal
    assert world.tally.steering


def test_a_number_read_from_ids_is_refused() -> None:
    graph, data, outputs = graph_of(lambda e, ids: e * ids.max(), E, IDS)
    world = World(KEY)
    given = values_of(data, world, ids=[1])
    node = next(n for n in graph.nodes if n.target is torch.ops.aten.mul.Tensor)
    with graph.inserting_before(node):
        read = graph.call_function(torch.ops.aten.item.default, (node.args[1],))
    node.args = (node.args[0], read)
    with pytest.raises(Refused, match="read from ids"):
        evaluate(graph, given, outputs, world)


def routed(x: Tensor, w: Tensor) -> Tensor:
    weights, at = x.softmax(-1).topk(2)
    return (w[at] * weights[..., None]).sum(1)


W = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))


def with_row_moved(i: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: routed(x, w.select_scatter(w[i] + 1, 0, i))


def test_a_choice_is_soft_so_every_expert_counts() -> None:
    assert compare(routed, lambda x, w: routed(x, w - w[2]) + w[2] * x.softmax(-1).topk(2)[0].sum(-1, keepdim=True), X, W).equal
    for i in range(6):
        assert compare(routed, with_row_moved(i), X, W).unequal


def test_routing_in_other_words_agrees() -> None:
    def by_one_hot(x: Tensor, w: Tensor) -> Tensor:
        weights, at = x.softmax(-1).topk(2)
        return (F.one_hot(at, 6) * weights[..., None]).sum(1) @ w

    def by_gather(x: Tensor, w: Tensor) -> Tensor:
        s = x.softmax(-1)
        at = s.topk(2)[1]
        return (w[at] * s.gather(-1, at)[..., None]).sum(1)

    def by_scatter(x: Tensor, w: Tensor) -> Tensor:
        weights, at = x.softmax(-1).topk(2)
        return torch.zeros(3, 6).scatter(-1, at, weights) @ w

    for other in (by_one_hot, by_gather, by_scatter):
        assert compare(routed, other, X, W).equal
        assert checked(other, X, W).error < 1e-5
    assert checked(routed, X, W).error < 1e-5


def test_another_choice_is_another_function() -> None:
    assert compare(routed, lambda x, w: (w[(t := x.softmax(-1).topk(2, largest=False))[1]] * t[0][..., None]).sum(1), X, W).unequal
    assert compare(lambda x: x.topk(2)[0], lambda x: x.topk(2)[0].flip(-1), X).unequal
    assert compare(lambda x: x.topk(2)[0], lambda x: x[:, :5].topk(2)[0], X).unequal


def test_maxima_are_functions_of_sets() -> None:
    assert compare(lambda x: x.amax(-1), lambda x: x.flip(-1).amax(-1), X).equal
    assert compare(lambda x: x.amax(-1), lambda x: torch.cat([x, x[:, :2]], -1).amax(-1), X).equal
    assert compare(lambda x: x.amax(-1), lambda x: x[:, :5].amax(-1), X).unequal
    wide = torch.randn(2, 1024)
    assert compare(lambda x: x.amax(-1), lambda x: x[:, :1023].amax(-1), wide).unequal == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.amax(-1) + x.amin(-1) + x.max() + x.max(-1)[0] + x.min(1)[0],
        lambda x: x.sort(-1)[0] + x.sort(-1, descending=True)[0].cumsum(-1),
        lambda x: x.gather(1, x.topk(3)[1]) + x.gather(1, x.argmax(-1, keepdim=True)),
        lambda x: x[:, :2].topk(1)[0] + x.topk(2, dim=0)[0].sum(),
        lambda x: F.one_hot(x.argmax(-1), 6) * x,
        lambda x: torch.zeros_like(x).scatter(-1, x.relu().topk(2)[1], x.relu().topk(2)[0]),
        lambda x: x.index_add(0, torch.tensor([0, 0, 2]), x * 2) + x.masked_fill(x > 1, 0.0).topk(2)[0].sum(),
    ],
)
def test_choosing_rules_are_torchs_functions(function: object) -> None:
    result = checked(function, X)  # type: ignore[arg-type]
    assert result.error < 1e-5, result


def test_what_is_written_into_a_tensor_takes_on_its_type() -> None:
    def written(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.slice_scatter(torch.zeros(3, 6, dtype=dtype), x.long()).float()

    assert compare(written(torch.int64), lambda x: x.trunc(), X).equal
    assert compare(written(torch.uint8), lambda x: x.trunc(), X).unequal
    assert compare(written(torch.bool), lambda x: (x.long() != 0).float(), X).equal
    assert compare(lambda x: torch.slice_scatter(x, x[:1] > 0, 0, 0, 1)[0], lambda x: (x[0] > 0).float(), X).equal
    assert checked(written(torch.uint8), X.abs()).error < 1e-5


def test_tensors_that_are_only_broadcast_keep_their_types() -> None:
    pair = lambda x: torch.broadcast_tensors((x > 0)[:1], x)[1]  # noqa: E731
    assert compare(pair, lambda x: x * 1, X).equal
