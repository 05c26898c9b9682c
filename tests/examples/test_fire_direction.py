"""The fire direction at small size: what it writes and prints, its edits against hooks, and that it refuses a wrong split."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from examples import fire_direction
from examples.fire import language, study
from examples.fire.figure import drawn
from examples.fire.results import Results, share
from examples.panels import STYLE
from examples.sentence_model import load_sentence_model, new_model, next_word, sentences, surprise, vocabulary
from examples.train_sentence_model import guessed, guessed_knowing
from rewrite import TautomerError, Terms, split
from tests.examples.legible import assert_legible

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer GPT-2 (its MLP reads what its attention writes) with random weights and a tokenizer of whole words, as `save_pretrained` leaves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = sorted({word for line in language.NATURAL for word in line.replace(" | ", " ").split()} | {"<s>", "<unk>"})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    made = tmp_path_factory.mktemp("gpt2")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(made)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=32, use_cache=False, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> tuple[Results, study.Study, Path]:
    """One run of the experiment, and where it wrote."""
    out = folder / "out"
    results, of_fire = fire_direction.main(["--model", str(folder), "--out", str(out), "--draws", "1", "--others", "0"])
    return results, of_fire, out


def test_files_are_written_under_the_verdict(told) -> None:
    results, of_fire, out = told
    assert of_fire.standing.report.proved
    head, *_ = (out / "fire_direction.csv").read_text().partition("writers,")
    assert "fire: rewrite PROVED" in head
    assert (out / "fire_direction.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "fire_direction.svg").read_text()[:1000]
    assert {row["writers"] for row in results.rows} > {"everything", "all MLPs", "MLP 0", "attention 0"}


def picture(results: Results) -> Any:
    """The figure of those results."""
    with pytest.importorskip("matplotlib").rc_context(STYLE):
        made = drawn(results)
        assert_legible(made)
    return made


def test_the_figure_is_legible(told) -> None:
    made = picture(told[0])
    assert [text.get_text() for text in made.axes[2].get_yticklabels()] == ["nothing", "fire"]  # no rows of words that were not tried
    left, middle, _ = made.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["next word is fire", "next word is another"]
    assert [text.get_text() for text in middle.get_legend().get_texts()] == [
        "lost when only the direction is replaced",
        "kept when only the direction is left",
    ]
    assert "replaced by its mean" in middle.get_xlabel()


def test_the_figure_says_why_a_writer_has_no_share(told) -> None:
    results = Results(replace(told[0].subject, name="a model in " + "/folder" * 20), 0)
    results.rows = [row for row in told[0].rows if row["edit"] == "none" and row["measure"] == "accuracy"]
    for writers, edit, filled, value in (
        ("", "none", "", -0.31),
        ("MLP 0", "whole", "mean", -0.26),
        ("attention 0", "whole", "mean", -0.34),
    ):
        results.add("log-probability", (value, value, value), "fire", 9, writers=writers, edit=edit, direction="fire", filled=filled)
    notes = [text.get_text() for text in picture(results).axes[1].texts]
    assert notes == ["no share: about 0.05 nats\ngained without it", "no share: about 0.03 nats\nlost without it"]


@contextmanager
def hooks(model: Any, sites: tuple[str, ...], change: Any, at_reader: bool) -> Iterator[None]:
    """Plain torch hooks: what `sites` write is changed by `change(site, y)`, for all readers or (summed up) for the final norm alone."""
    seen: dict[str, Tensor] = {}

    def after(site: str, y: Any) -> Any:
        own = y[0] if isinstance(y, tuple) else y
        seen[site] = own
        if at_reader:
            return y
        return (change(site, own), *y[1:]) if isinstance(y, tuple) else change(site, own)

    def before(_: Any, args: Any) -> Any:
        return (args[0] + sum(change(site, y) - y for site, y in seen.items()),) if at_reader else args

    handles = [model.get_submodule(site).register_forward_hook(lambda m, a, y, s=site: after(s, y)) for site in sites]
    handles.append(model.transformer.ln_f.register_forward_pre_hook(before))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("edit", ["direct path", "all paths", "rest", "whole"])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("group", ["embeddings", "attention 0", "MLP 0"])
def test_edits_are_what_hooks_do(told, edit: str, mean: bool, group: str) -> None:
    _, of_fire, _ = told
    model, batch, sites = of_fire.subject.model, of_fire.batches[-1], of_fire.writers[group]
    rows, gain = model.lm_head.weight.detach(), model.transformer.ln_f.weight.detach()
    d = ((rows[of_fire.subject.forms["fire"]] - rows.mean(0)) * gain).squeeze(0)
    d = d - d.mean()

    def change(site: str, y: Tensor) -> Tensor:
        along = (y @ d / (d @ d))[..., None] * d
        fills = [of_fire.filler(f"{site}/fire{rest}", batch, mean) for rest in ("", ".rest")]
        kept = {"direct path": y - along, "all paths": y - along, "rest": along, "whole": 0 * y}[edit]
        return kept + (fills[edit == "rest"] if edit != "whole" else sum(fills))

    with torch.no_grad():
        found = of_fire.program.run({"input_ids": batch.ids}, gates=of_fire.edits[edit](sites, batch, mean))[0].logits
        intact = model(input_ids=batch.ids).logits
        with hooks(model, sites, change, edit in ("direct path", "rest")):
            wanted = model(input_ids=batch.ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert float((found - intact).abs().max()) > 1e-3


def test_the_direct_path_kept_alone_is_what_hooks_do(told) -> None:
    _, of_fire, _ = told
    batch, sites = of_fire.batches[-1], of_fire.writers["MLP 0"]
    kept = of_fire.all_but_direct(sites, batch, False)
    own = sum(batch.terms[f"{site}/fire"] for site in sites)
    model = of_fire.subject.model
    with torch.no_grad():
        found = of_fire.program.run({"input_ids": batch.ids}, gates=kept)[0].logits
        handles = [model.get_submodule(site).register_forward_hook(lambda m, a, y: 0 * y) for site in sites]
        handles.append(model.transformer.ln_f.register_forward_pre_hook(lambda m, a: (a[0] + own,)))
        wanted = model(input_ids=batch.ids).logits
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_random_directions_are_as_long_as_what_they_stand_for(told) -> None:
    _, of_fire, _ = told
    batch, sites = of_fire.batches[0], of_fire.writers["everything"]
    for site, put in zip(sites, of_fire.random(3, True)(sites, batch, False).values(), strict=True):
        torch.testing.assert_close(put["r"].norm(dim=-1), batch.terms[f"{site}/fire"].norm(dim=-1), rtol=1e-4, atol=1e-5)


@split(name="subspace")
def half(y: Tensor, *, basis: Tensor) -> Terms:
    """A split that says too little: half of what is along the basis is in neither term."""
    along = ((y @ basis.mT) / (basis * basis).sum(-1)) @ basis
    return Terms(along, rest=y - 1.5 * along)


def test_a_split_that_changes_the_model_is_refused(told, monkeypatch: pytest.MonkeyPatch) -> None:
    _, of_fire, _ = told
    monkeypatch.setattr(study, "subspace", half)
    with pytest.raises(TautomerError, match="expected a rewrite that is the same function, got rewrite (REFUTED|DIFFERS)"):
        study.Study(of_fire.program.origin, "fire", of_fire.subject)


def test_a_share_is_given_only_where_something_is_lost() -> None:
    lost, rng = np.ones(50), np.random.default_rng(0)
    found = share(lost / 2, lost + 0.1 * rng.normal(size=50), seed=0)
    assert found is not None
    assert found[1] < found[0] < found[2]
    assert abs(found[0] - 0.5) < 0.05
    assert share(lost, rng.normal(size=50), seed=0) is None
    assert share(lost, 0 * lost, seed=0) is None


def test_the_grammar_knows_its_own_odds() -> None:
    word = vocabulary().index
    assert next_word(("the", "king", "forgets", "the"))[word("fire")] == pytest.approx(1 / 6)
    assert next_word(("in", "the", "cave", "they", "kindle", "some"))[word("fire")] == pytest.approx(1)
    for sentence in sentences(5, seed=3):
        by_word = [-np.log(next_word(sentence.words[:i])[word(w)]) for i, w in enumerate(sentence.words)]
        np.testing.assert_allclose(surprise(sentence), by_word)


def test_the_model_that_ships_has_learned_the_grammar_and_an_untrained_one_has_not() -> None:
    texts = sentences(300, seed=5)
    assert guessed(load_sentence_model(), texts) > guessed_knowing(texts) - 0.03
    assert guessed(new_model().eval(), texts) < 0.1
    assert language.WORDS[0] == "fire"
    assert sum(" | fire" in line for line in language.NATURAL) >= 12


@pytest.mark.slow
def test_the_story_of_the_sentence_model(tmp_path: Path) -> None:
    results, of_fire = fire_direction.main(["--sentences", "30", "--out", str(tmp_path), "--draws", "2", "--others", "1"])
    assert of_fire.standing.report.proved

    def accuracy(**what: str) -> float:
        row = results.get("accuracy", "fire", **what)
        assert row is not None
        return row["value"]

    everything = {"writers": "everything", "filled": "zero"}
    assert accuracy(edit="none") > 0.7
    assert accuracy(edit="direct path", direction="fire", **everything) == 0
    assert accuracy(edit="direct path", direction="random", **everything) > 0.6
