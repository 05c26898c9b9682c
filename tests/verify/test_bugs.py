"""Wrong rewrites are never proved: the classic ones, those that no float run shows, and those that hide behind one token id."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.verify.programs import normal, plain, toy, variant
from tests.verify.toy import BUGS
from verify import Verdict, equivalence

SITES = {
    "b_nobias": "blocks.1.attn",
    "b_slice": "blocks.1.attn",
    "b_ov_transposed": "blocks.0.attn",
    "b_mask": "blocks.0.attn",
    "b_svd_tail": "blocks.0.mlp",
    "b_bessel": "blocks.0.norm1",
    "b_dir": "blocks.1.mlp",
    "b_eps": "blocks.0.norm1",
    "b_tanh": "blocks.0.mlp.act",
    "b_1e-4": "blocks.0.mlp",
    "b_1e-6": "blocks.0.mlp",
    "b_1e-8": "blocks.0.mlp",
    "b_scale": "blocks.0.attn",
    "b_dead": "blocks.1.mlp",
}
STORED = {"b_stale": "blocks.1.mlp.up.weight", "b_half": "blocks.0.mlp.up.weight", "b_elem": "blocks.0.mlp.up.weight"}


def test_there_are_as_many_bugs_as_promised() -> None:
    assert len(BUGS) >= 17


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_not_proved(name: str) -> None:
    report = equivalence(toy(dead=name == "b_dead"), variant(name))
    assert report.verdict is (Verdict.DIFFERS if name == "b_dead" else Verdict.REFUTED), str(report)
    if name in SITES:
        assert report.site.startswith(SITES[name]), str(report)
    if name in STORED:
        assert f"other weights: {STORED[name]}" in report.reasons


def test_what_float32_cannot_show() -> None:
    report = equivalence(toy(), variant("b_1e-8"))
    assert report.verdict is Verdict.REFUTED
    assert report.drift.outputs.ulp < 4


def test_what_no_float_run_shows() -> None:
    report = equivalence(toy(dead=True), variant("b_dead"))
    assert report.drift.outputs.largest == 0.0
    assert report.drift.verdict == "rounding only"


# Edits that act at one token id only

ROWS = 11
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
TABLE = normal(ROWS, 4)
SWAPPED = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 10])
RARE = torch.arange(ROWS) == 9


def lookup(w: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.embedding(ids, w)


EDITS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "clamped": (lambda w, ids: lookup(w, ids.clamp(max=ROWS - 2)), ()),
    "two rows swapped": (lambda w, perm, ids: lookup(w, perm[ids]), (SWAPPED,)),
    "bool table": (lambda w, rare, ids: lookup(w, ids) + torch.where(rare[ids], 100.0, 0.0).unsqueeze(-1), (RARE,)),
    "row overwritten": (lambda w, ids: lookup(w.index_put((torch.tensor([9]),), torch.zeros(1, 4)), ids), ()),
    "one id": (lambda w, ids: lookup(w, ids) + (ids == 9).unsqueeze(-1) * 5.0, ()),
    "three ids in a row": (lambda w, ids: lookup(w, ids) + (ids == torch.tensor([7, 8, 9])).all(-1)[:, None, None] * 5.0, ()),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_at_one_token_is_caught(name: str) -> None:
    edited, tables = EDITS[name]
    report = equivalence(plain(lookup, IDS, TABLE), plain(edited, IDS, TABLE, tables=tables))
    if name == "three ids in a row":  # no search finds the row of ids; the exact tier needs none
        assert report.verdict in (Verdict.REFUTED, Verdict.DIFFERS), str(report)
    else:
        assert report.verdict is Verdict.REFUTED, str(report)
        assert report.witness is not None
        assert report.witness.reachable


def test_an_activation_trigger_is_found() -> None:
    report = equivalence(plain(lambda x: x * 2, normal(2, 3)), plain(lambda x: x * 2 + torch.where(x > 1e9, 1e9, 0.0), normal(2, 3)))
    assert report.verdict is Verdict.REFUTED
