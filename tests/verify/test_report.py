"""Reports: what they say, in how many lines, and what they refuse to be."""

from __future__ import annotations

import json

import pytest
import torch

from passes import direction
from rewrite.errors import TautomerError
from tests.verify.programs import normal, plain, tiny, toy, variant
from verify import Report, Verdict, equivalence
from verify.ladder import Drift
from verify.report import ClaimLine


@pytest.fixture(scope="module")
def proved() -> Report:
    return equivalence(tiny("gpt2").apply(direction.at("transformer.h.*.mlp", d=normal(32), name="fire")), seed=0)


def test_a_proof_says_what_it_rests_on(proved: Report) -> None:
    text = str(proved)
    rests = ["PROVED: GPT2LMHeadModel after 1 step, against its origin", "at most 2^-", "input_ids [2, 7] (any ids)", "29 the same tensor"]
    rests += ["the rest has no component along d", "not covered", "rounding only", proved.key, "from the seed given"]
    for words in rests:
        assert words in text


def test_it_fits_a_screen(proved: Report) -> None:
    for report in (proved, equivalence(toy(), variant("b_eps"))):
        assert len(str(report).splitlines()) <= 30


def test_claims_at_many_sites_share_a_line(proved: Report) -> None:
    assert len(proved.claims) == 4
    assert str(proved).count("the rest has no component along d") <= 2


def test_a_refutation_shows_site_and_witness() -> None:
    text = str(equivalence(toy(), variant("b_eps")))
    for words in ("REFUTED: Toy against Toy", "first diverging blocks.0.norm1", "witness", "ids = ["):
        assert words in text


def test_a_report_is_no_truth_value(proved: Report) -> None:
    with pytest.raises(TautomerError, match=r"expected report\.proved or report\.verdict"):
        bool(proved)


def test_raise_unless_proved(proved: Report) -> None:
    assert proved.raise_unless_proved() is proved
    with pytest.raises(TautomerError, match="expected PROVED with every claim, got DIFFERS"):
        Report(Verdict.DIFFERS, "a against b").raise_unless_proved()


@pytest.mark.parametrize(
    ("verdict", "claims", "proved_code", "consistent_code"),
    [
        (Verdict.PROVED, "proved", 0, 0),
        (Verdict.PROVED, "undecided", 3, 0),
        (Verdict.PROVED, "fails", 3, 3),
        (Verdict.CONSISTENT, "proved", 3, 0),
        (Verdict.DIFFERS, "proved", 3, 3),
        (Verdict.REFUTED, "proved", 1, 1),
        (Verdict.EDITED, "proved", 3, 3),
        (Verdict.UNKNOWN, "proved", 3, 3),
    ],
)
def test_exit_codes(verdict: Verdict, claims, proved_code: int, consistent_code: int) -> None:
    report = Report(verdict, "", claims=(ClaimLine("s", "c", "a = b", claims),))
    assert (report.exit_code(), report.exit_code("consistent")) == (proved_code, consistent_code)


def test_json_holds_the_same_facts(proved: Report) -> None:
    found = json.loads(proved.to_json())
    assert found["verdict"] == "PROVED"
    assert found["proved"]
    assert found["key"] == proved.key
    assert [c["status"] for c in found["claims"]] == ["proved"] * 4
    assert found["drift"]["verdict"] == "rounding only"
    refuted = json.loads(equivalence(toy(), variant("b_1e-8")).to_json())
    assert refuted["verdict"] == "REFUTED"
    assert refuted["witness"]["reachable"]
    assert "ids" in refuted["witness"]["values"]


def test_a_ladder_that_did_not_run_says_why() -> None:
    assert "ladder not run: no reason at all" in str(Report(Verdict.UNKNOWN, "", drift=Drift(reason="no reason at all")))


def test_a_difference_is_told_by_its_pattern() -> None:
    report = equivalence(toy(), variant("b_mask"))
    text = str(report)
    assert "first diverging blocks.0.attn.o: 160 of 192 elements differ: all positions but the last (axis 1)" in text
    assert "output          logits: " in text
    said = {d["kind"]: d for d in json.loads(report.to_json())["differences"]}
    assert said["site"]["where"] == "all positions but the last (axis 1)"
    assert said["site"]["wrong"] == 160
    assert said["output"]["place"] == "logits"


def test_without_a_witness_exact_arithmetic_tells_the_pattern() -> None:
    one = plain(lambda x: torch.cat([x[:, :1] * 0 + 1, x[:, 1:]], 1), normal(3, 4))
    other = plain(lambda x: torch.cat([x[:, :1].sin().square() + x[:, :1].cos().square(), x[:, 1:]], 1), normal(3, 4))
    report = equivalence(one, other)
    assert report.verdict is Verdict.DIFFERS
    assert report.witness is None
    assert "3 of 12 elements differ: one column (axis 1, index 0 of 4) (in exact arithmetic)" in str(report)


def test_weights_that_differ_are_told_by_their_pattern() -> None:
    text = str(equivalence(toy(), variant("b_elem")))
    assert "weight          blocks.0.mlp.up.weight: 1 of 384 elements differ: one row (axis 0, index 3 of 24), one column" in text
