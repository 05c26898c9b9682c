"""The bundled balancer, the script that trained it, and the story of `tautomer demo`."""

from importlib.resources import files
from itertools import islice

import pytest
import torch

from analysis.demo import ParenBalancer, labels, load_balancer, story, strings, tokens
from analysis.demo.data import PAD
from analysis.demo.model import WEIGHTS
from examples import train_paren_balancer as training
from rewrite import trace
from verify import equivalence

TEXTS = strings(400, seed=9)


@pytest.fixture(scope="module")
def model() -> ParenBalancer:
    return load_balancer()


def test_balancer_is_right_on_999_of_1000_held_out_strings(model: ParenBalancer) -> None:
    held_out = strings(training.HELD_OUT, training.HELD_OUT_SEED)
    assert training.accuracy(model, tokens(held_out), labels(held_out)) >= 0.999


def test_balancer_comes_in_eval_mode_and_small(model: ParenBalancer) -> None:
    assert not model.training
    assert len(files("analysis.demo").joinpath(WEIGHTS).read_bytes()) < 1_000_000


def test_padding_is_not_seen(model: ParenBalancer) -> None:
    texts = [text for text in TEXTS if len(text) <= 20]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens(texts, 22)), model(tokens(texts)), atol=1e-4, rtol=1e-4)


def test_training_repeats_with_its_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(training, "HELD_OUT", 1000)
    monkeypatch.setattr(training, "BATCH", 8)
    first, again, other = (training.train(2, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["unembed.weight"], other["unembed.weight"])
    assert capsys.readouterr().out.count("held-out accuracy") == 3


def test_no_long_string_that_is_held_out_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH", 64)

    def drawn(without: set[str]) -> set[tuple[int, ...]]:
        return {tuple(row[row != PAD].tolist()) for ids, _ in islice(training.batches(3, without), 4) for row in ids}

    held_out = {text for text in strings(64, 3) if len(text) > training.SHORT}  # what that seed draws first
    forbidden = {tuple(tokens([text], len(text) + 2)[0].tolist()) for text in held_out}
    assert forbidden < drawn(set())
    assert not forbidden & drawn(held_out)


@pytest.mark.slow
def test_every_switch_of_the_story_opens_again(model: ParenBalancer) -> None:
    ids, answers = tokens(TEXTS), labels(TEXTS)
    program = story.decompose(trace(model, ids[:8]), ids)
    whole = story.accuracy(program, ids, answers)
    left = {address: story.without(program, address, ids, answers) for address in story.switches(program)}
    assert all(gate.open for gate in program.gates.values())
    assert story.accuracy(program, ids, answers) == whole
    assert left[story.TERM] < 0.8  # one direction carries the head,
    assert left[f"{story.TERM}.rest"] > 0.98  # and the rest of it hardly matters
    assert equivalence(program).proved


def test_a_head_switched_off_is_the_model_without_its_output(model: ParenBalancer) -> None:
    ids, answers = tokens(TEXTS), labels(TEXTS)
    program = story.decompose(trace(model, ids[:8]), ids)
    cut = load_balancer()
    with torch.no_grad():
        cut.blocks[2].attn.o.weight[:, : story.HEAD_SIZE] = 0.0
    assert story.without(program, "blocks.2.attn/head[0]", ids, answers) == pytest.approx(story.accuracy(cut, ids, answers), abs=1e-6)


@pytest.mark.slow  # the README's commands and the wheel tell it too
def test_the_story_ends_well() -> None:
    said: list[str] = []
    assert story.tell(said.append) == 0
    text = "\n".join(said)
    assert "PROVED" in text
    assert "bit-identical" in text
    assert all(f"blocks.{layer}.attn/head[{head}]" in text for layer in range(3) for head in range(2))


@pytest.mark.slow
def test_the_story_ends_badly_when_another_process_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "foreign_accuracy", lambda *_: 0.5)
    assert story.tell(lambda _: None) == 1
