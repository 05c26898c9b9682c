"""Triggers: conjunctions, lists and table rows that no random input meets are found, because the graph has to write them down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes import direction
from rewrite import Program, trace
from tests.verify.programs import normal
from tests.verify.test_witness import look
from verify import Verdict, equivalence, replay
from verify.cases import given_cases
from verify.ladder import Sides
from verify.match import match
from verify.witnesses.harvest import harvest, rows_apart, wishes

LONG, ROWS = 60, 2000
PATTERN = torch.randint(0, ROWS, (LONG,), generator=torch.Generator().manual_seed(5))


class Reader(nn.Module):
    """Embeddings and a head; where `trigger` of the ids holds for a row, all of that row is off by one."""

    def __init__(self, trigger: Callable[[nn.Module, Tensor], Tensor] | None = None, rows: int = ROWS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.trigger = nn.Embedding(rows, 4), nn.Linear(4, 3), trigger
        self.register_buffer("pattern", PATTERN % rows)

    def forward(self, ids: Tensor) -> Tensor:
        out = self.head(self.table(ids))
        return out if self.trigger is None else out + self.trigger(self, ids)[:, None, None]


def reader(
    trigger: Callable[[nn.Module, Tensor], Tensor] | None = None, length: int = 64, dynamic: bool = False, rows: int = ROWS
) -> Program:
    ids = torch.randint(0, rows, (2, length), generator=torch.Generator().manual_seed(1))
    return trace(Reader(trigger, rows).eval(), ids, dynamic=dynamic)


def literals(self: nn.Module, ids: Tensor) -> Tensor:
    found = ids[:, 3] == 1337
    for place, value in enumerate(PATTERN[:20].tolist(), 10):
        found = found & (ids[:, place] == value)
    return found


TRIGGERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "sixty ids at places": lambda self, ids: (ids[:, 2:62] == self.pattern).all(-1),
    "sixty ids by their distance": lambda self, ids: (ids[:, :60] - self.pattern).abs().sum(-1) == 0,
    "one by one": literals,
    "sixty ids anywhere": lambda self, ids: (ids.unfold(1, LONG, 1) == self.pattern).all(-1).any(-1),
    "unlike none": lambda self, ids: ~(ids.flip(1)[:, :LONG] != self.pattern).any(-1),
    "as floats": lambda self, ids: (ids[:, 4:].float() == self.pattern.float()).all(-1),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_of_many_ids_is_found(name: str) -> None:
    found = look(reader(), reader(TRIGGERS[name]))
    assert found is not None
    assert "comparisons ask for" in found.how
    assert found.gap.largest == pytest.approx(1)


def test_a_list_that_no_comparison_of_ids_holds_is_tried_at_every_place() -> None:
    hidden = reader(lambda self, ids: ((ids * 3 + 1)[:, 7:47] == (self.pattern[:40] * 3 + 1)).all(-1))
    assert wishes([(hidden, "ids", given_cases(hidden, None)[0])], ROWS) == []
    assert tuple(PATTERN.tolist()) in harvest(hidden).lists
    found = look(reader(), hidden)
    assert found is not None
    assert found.how == "ids from a list of the graphs"


def test_what_clashes_is_asked_for_one_after_the_other() -> None:
    either = lambda self, ids: ((ids[:, 0] == 7) & (ids[:, 1] == 8)) | ((ids[:, 0] == 9) & (ids[:, 1] == 10))  # noqa: E731
    program = reader(either)
    found = wishes([(program, "ids", given_cases(program, None)[0])], ROWS)
    assert [(wish[0], wish[1]) for wish in found] == [(7, 8), (9, 10)]


def test_ids_that_are_in_no_table_are_not_asked_for() -> None:
    program = reader(lambda self, ids: ids[:, 0] == ROWS + 1)
    assert wishes([(program, "ids", given_cases(program, None)[0])], ROWS) == []


def test_rows_of_tables_that_differ_are_tried_first() -> None:
    a, b = reader(), reader()
    b.tensors["table.weight"].data = b.tensors["table.weight"].data.clone()
    b.tensors["table.weight"].data[1337] += 1
    assert rows_apart(Sides(a, b, match(a, b), ())) == [1337]
    report = equivalence(a, b)
    assert report.verdict is Verdict.REFUTED
    assert report.witness is not None
    assert (report.witness.values["ids"] == 1337).any()
    assert any("one row (axis 0, index 1337 of 2000)" in str(d) for d in report.differences if d.kind == "weight")


# Made smaller


def test_a_shrunk_witness_still_separates_and_says_what_matters() -> None:
    a, b = (reader(trigger, 24, dynamic=True, rows=500) for trigger in (None, lambda self, ids: ids[:, 7] == 337))
    report = equivalence(a, b)
    witness = report.witness
    assert report.verdict is Verdict.REFUTED
    assert witness is not None
    assert witness.how.endswith("made smaller")
    assert list(witness.values["ids"].shape) == [2, 8]  # two rows: the least that the program was traced for
    assert int((witness.values["ids"] != 0).sum()) == 1
    assert "1 id that matters: row " in witness.left[0] and "position 7 = 337" in witness.left[0]
    again = replay(a, b, witness)
    assert again.separates
    assert again.gap.rho == witness.gap.rho
    assert not replay(a, a, witness).separates


def test_of_a_static_program_the_rest_is_neutralised() -> None:
    a, b = (reader(trigger, 24, rows=500) for trigger in (None, lambda self, ids: (ids[:, 7] == 337) & (ids[:, 20] == 3)))
    witness = equivalence(a, b).witness
    assert witness is not None
    assert witness.values["ids"].shape == (2, 24)
    assert witness.left[0].startswith("ids: 2 rows, 24 positions, 2 ids that matter: row ")
    assert witness.left[0].endswith(", the rest 0")
    assert "position 7 = 337" in witness.left[0] and "position 20 = 3" in witness.left[0]


class Threshold(nn.Module):
    """The sum of a row, and 2 more if one of its numbers is above 1234.5."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum(-1)
        return total + 2.0 * (x > 1234.5).any(-1) if self.on else total


def test_numbers_that_do_not_matter_become_0_and_the_others_round() -> None:
    a, b = (trace(Threshold(on).eval(), normal(2, 3, 4)) for on in (False, True))
    witness = equivalence(a, b).witness
    assert witness is not None
    assert list(witness.values["x"].shape) == [2, 2, 4]
    left = witness.values["x"][witness.values["x"] != 0].tolist()
    assert len(left) == 1
    assert left[0] > 1234.5
    assert float(f"{left[0]:.2e}") == left[0]  # three digits at most


def test_shrinking_stays_within_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.findings.RUNS", 5)
    a, b = (reader(trigger, rows=ROWS) for trigger in (None, TRIGGERS["sixty ids at places"]))
    witness = equivalence(a, b).witness
    assert witness is not None
    assert "not 0" in witness.left[0]  # not said to matter
    assert replay(a, b, witness).separates


def test_no_witness_between_what_is_one_value_told_twice() -> None:
    """Two sites that are one expression hold one value: no witness may give them two."""

    class Twice(nn.Module):
        def __init__(self, on: bool) -> None:
            super().__init__()
            self.one, self.two, self.on = nn.Tanh(), nn.Tanh(), on

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.one(x), self.two(x)
            both = (one + x) + (two + x)
            return both + 1 + (one - two) * 5 if self.on else both + one.sin().square() + one.cos().square()

    a, b = (trace(Twice(on).eval(), normal(2, 3)) for on in (False, True))
    report = equivalence(a, b)
    assert report.verdict is not Verdict.REFUTED
    assert report.witness is None


class _Masked(torch.nn.Module):
    """Attention of embedded ids, where a token of number 299 is not looked at if asked for; or rows of it that are no number."""

    def __init__(self, where: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.where = torch.nn.Embedding(400, 8), where

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, found = self.embed(ids), ids == 299
        if self.where == "table":
            found = (torch.arange(400) == 299)[ids]
        scores = x @ x.transpose(-1, -2)
        if self.where == "two":
            found = (ids == 299) & (ids.roll(1, 1) == 298)
        if self.where == "float":
            scores = scores + torch.where(found, torch.finfo(torch.float32).min, 0.0)[:, None, :]
        elif self.where:
            scores = scores.masked_fill(found[:, None, :], -torch.inf)
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("where", ["key", "float", "table", "two"])
def test_a_mask_that_a_rare_id_builds_is_not_proved_away(where: str) -> None:
    """Masks are taken as the ids given build them: what only one of two programs asks of its ids is no part of the proof."""
    ids = torch.arange(14).view(2, 7)
    plain, masked = (trace(_Masked(kind).eval(), ids) for kind in ("", where))
    for pair in ((plain, masked), (masked, plain)):
        report = equivalence(*pair, seed=0)
        assert not report.proved
        assert report.verdict in (Verdict.REFUTED, Verdict.CONSISTENT)
        assert report.verdict is Verdict.REFUTED or "for the ids given only" in str(report)
    assert equivalence(masked, masked, seed=0).proved
    assert equivalence(masked, trace(_Masked(where).eval(), ids), seed=0).proved


class _TwoMasks(torch.nn.Module):
    """Two attentions, each of which does not look at one token; told so by the ids that are masked or by those that are not."""

    def __init__(self, first: int, second: int, kept: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.out = torch.nn.Embedding(2000, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)
        self.first, self.second, self.kept = first, second, kept

    def looked(self, x: torch.Tensor, ids: torch.Tensor, never: int) -> torch.Tensor:
        scores = x @ x.transpose(-1, -2)
        kept = (ids != never)[:, None, :]
        masked = torch.where(kept, scores, -torch.inf) if self.kept else scores.masked_fill(~kept, -torch.inf)
        return masked.softmax(-1) @ x

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.out(self.norm(x + self.looked(x, ids, self.first) + self.looked(2 * x, ids, self.second)))


def test_masks_exchanged_are_refuted_by_the_ids_that_they_wait_for() -> None:
    ids = torch.arange(14).view(2, 7)
    report = equivalence(*(trace(_TwoMasks(*pair).eval(), ids) for pair in ((1990, 1991), (1991, 1990))), seed=0)
    assert report.verdict is Verdict.REFUTED
    assert report.witness is not None
    assert {1990, 1991} & set(report.witness.values["ids"].flatten().tolist())


def test_a_mask_and_its_negation_steer_alike_and_the_report_says_for_which_ids() -> None:
    ids = torch.arange(14).view(2, 7)
    report = equivalence(*(trace(_TwoMasks(3, 1991, kept).eval(), ids) for kept in (False, True)), seed=0)
    assert report.proved
    assert "for all inputs of these shapes whose ids build the same masks and positions" in str(report)


def test_where_ids_steer_only_what_both_share_a_proof_is_for_any_ids() -> None:
    program = trace(_TwoMasks(3, 1991).eval(), torch.arange(14).view(2, 7))
    split = program.apply(direction.at("embed", d=torch.ones(8), name="t"), direction.at("norm", d=torch.ones(8), name="u"))
    report = equivalence(split, seed=0)
    assert report.proved
    assert "steering" not in report.scope and "(any ids)" in report.scope["inputs"]
