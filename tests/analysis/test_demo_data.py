"""The demo's strings: what is balanced, how they are drawn, how they become tokens."""

import random
from collections import Counter
from itertools import product

import torch

from analysis.demo.data import CLOSE, END, LONGEST, OPEN, PAD, POSITIONS, START, balanced, is_balanced, labels, near_miss, strings, tokens


def reduces_to_nothing(text: str) -> bool:
    """The definition of balanced: removing "()" again and again leaves nothing."""
    while "()" in text:
        text = text.replace("()", "")
    return not text


def test_balanced_is_what_reduces_to_nothing() -> None:
    texts = ["".join(letters) for n in range(9) for letters in product("()", repeat=n)]
    assert [is_balanced(text) for text in texts] == [reduces_to_nothing(text) for text in texts]


def test_balanced_strings_are_drawn_uniformly() -> None:
    rng = random.Random(0)
    counts = Counter(balanced(3, rng) for _ in range(5000))
    assert len(counts) == 5  # the third Catalan number
    assert all(is_balanced(text) and len(text) == 6 for text in counts)
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_near_misses_are_hard() -> None:
    rng = random.Random(0)
    missed = [text for text in (near_miss(10, rng) for _ in range(2000)) if not is_balanced(text)]
    equal_counts = sum(text.count("(") == text.count(")") for text in missed)
    assert len(missed) > 1000
    assert 0.3 < equal_counts / len(missed) < 0.95  # counting alone settles neither all nor none


def test_strings_repeat_with_their_seed_and_differ_with_another() -> None:
    assert strings(50, 7) == strings(50, 7) != strings(50, 8)
    assert all(2 <= len(text) <= LONGEST and len(text) % 2 == 0 for text in strings(500, 7))


def test_both_answers_are_frequent() -> None:
    assert 0.4 < labels(strings(2000, 3)).double().mean() < 0.7


def test_tokens() -> None:
    ids = tokens(["()", "(())"])
    assert ids.shape == (2, POSITIONS)
    assert ids[0, :5].tolist() == [START, OPEN, CLOSE, END, PAD]
    assert ids[1, :7].tolist() == [START, OPEN, OPEN, CLOSE, CLOSE, END, PAD]
    assert torch.equal(tokens(["()"], 4), torch.tensor([[START, OPEN, CLOSE, END]]))
