"""The story of the parentheses balancer, at small size: roles, rows of the table, files, and what its formulas say."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from analysis.demo import is_balanced, labels, load_balancer, strings, tokens
from analysis.demo.data import OPEN
from examples.panels import STYLE
from examples.paren.features import balanced, count, horizon, length, prefix, rest_at, share
from examples.paren.figure import drawn
from examples.paren.hypotheses import Roles, Row, hypotheses, phi
from examples.paren_balancer import run
from passes import heads
from rewrite import TautomerError, trace
from tests.examples.legible import assert_legible

TEXTS = strings(200, seed=3)
DATA: dict[str, Tensor] = {"input_ids": tokens(TEXTS), "labels": labels(TEXTS)}


def test_features_say_what_they_are_called() -> None:
    for i, text in enumerate(TEXTS):
        depths = [text[:n].count("(") - text[:n].count(")") for n in range(len(text) + 1)]
        rests = [text[n:].count("(") - text[n:].count(")") for n in range(len(text) + 1)]
        assert bool(balanced(DATA)[i]) == is_balanced(text)
        assert bool(prefix(DATA)[i]) == (min(depths) >= 0)
        assert bool(horizon(DATA)[i]) == (max(rests) <= 0)
        assert bool(count(DATA)[i]) == (depths[-1] == 0 and text[0] == "(")
        assert length(DATA)[i] == len(text)
        assert share(DATA)[i] == pytest.approx(text.count("(") / len(text) if text[0] == "(" else -1)
        if len(text) > 2:
            assert rest_at(3)(DATA)[i] == (rests[2] > 0) - (rests[2] < 0)
        assert rest_at(41)(DATA)[i] == (-2 if len(text) == 40 else -3)


def test_what_is_weighed_moves_the_majority() -> None:
    data = {"input_ids": tokens(["((()))"])}
    assert rest_at(4)(data).item() == -1
    assert rest_at(4, before=1.0, after=0.0)(data).item() == 1


def test_phi_is_a_direction_times_how_many_more_are_open() -> None:
    v, y = torch.randn(5), torch.randn(2, 42, 5)
    t = phi(y, tokens(["(())))", "(("]), v=v)
    torch.testing.assert_close(t[0][:, 7], torch.stack([(2 * 2 / 6 - 1) * v, v]))
    torch.testing.assert_close(t[0] + t.rest, y)
    assert OPEN == 3  # "(" and ")" are the last two tokens


def found() -> tuple[Roles, list[Row]]:
    traced = trace(load_balancer(), DATA["input_ids"][:2])
    roles = Roles.of(traced.apply(heads.at("blocks.*.attn")), DATA)
    return roles, list(hypotheses(traced, load_balancer(), roles, DATA))


def test_roles_and_rows() -> None:
    roles, rows = found()
    assert [writer.name for writer in roles.counting] == ["head 2.0"] and {writer.name for writer in roles.horizon} == {
        "head 1.0",
        "head 1.1",
    }
    assert roles.mlp.name == "MLP 2" and roles.mlp.role == "balanced"
    assert [row.name for row in rows] == "0a 0b 1a 1b 1c 1d 1e 2.1 2a 2p 2b 3a 3b 4 Mc Ml Mu Md".split()
    copies = {row.name: len(row.hypothesis.copies) for row in rows}
    assert copies["1a"] == 3 and copies["1e"] == 7 and copies["3a"] == 7 + 1 + 42


def test_the_figure_says_what_its_rows_and_lines_are() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    made_up = {"strings": 1000, "seeds": "0 1 2", "constant recovers": 0.88, "constant loss": 0.68}
    rows = [
        {"row": row.name, "claim": row.claim, **made_up}
        | {f"{name}{end}": value * i / 17 for name, value in (("loss", 5.5), ("recovered", 1)) for end in ("", " low", " high")}
        for i, row in enumerate(found()[1])
    ]
    with matplotlib.rc_context(STYLE):
        figure = drawn(rows)
        assert_legible(figure)
    written = [" ".join(text.get_text().split()) for text in figure.axes[0].texts]
    assert written == [row["claim"] for row in rows]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [row["row"] for row in rows]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "better than the constant model",
        "worse than it",
        "constant model: the best single answer to all strings (88 %, 0.68 nats)",
    ]
    for panel, at in zip(figure.axes, (0.88, 0.68), strict=True):
        assert [at, at] in [list(line.get_xdata()) for line in panel.lines]


def test_a_model_without_these_roles_is_refused() -> None:
    model = load_balancer()
    with torch.no_grad():
        model.blocks[2].attn.o.weight.zero_()
    traced = trace(model, DATA["input_ids"][:2])
    with pytest.raises(TautomerError, match="expected heads that count and heads that see the horizon"):
        Roles.of(traced.apply(heads.at("blocks.*.attn")), DATA)


def test_the_story_at_small_size(tmp_path: Path) -> None:
    rows = {row["row"]: row for row in run(tmp_path, 300, (0, 1), ("0a", "0b", "1b", "Ml"))}
    assert {row["rewrite"] for row in rows.values()} == {"PROVED"}
    assert rows["0a"]["recovered"] == pytest.approx(1) and rows["0b"]["recovered"] == pytest.approx(0)
    assert 0 < rows["1b"]["recovered"] < 1 and rows["Ml"]["loss"] > rows["0a"]["loss"]
    with (tmp_path / "paren_balancer.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["row"] for row in read] == ["0a", "0b", "1b", "Ml"]
    assert 0.6 < float(read[0]["constant loss"]) < 0.7  # nats: the entropy of the labels
    assert (tmp_path / "paren_balancer.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "paren_balancer.svg").read_text()


@pytest.mark.slow
def test_the_whole_story(tmp_path: Path) -> None:
    rows = {row["row"]: row for row in run(tmp_path)}
    assert {row["rewrite"] for row in rows.values()} == {"PROVED"}
    assert rows["1b"]["loss"] < rows["1a"]["loss"] < rows["0b"]["loss"]
