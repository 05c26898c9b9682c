"""Strings of parentheses: seeded generation of balanced ones and of near-misses, and their tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

START, PAD, END, OPEN, CLOSE = range(5)
VOCABULARY, POSITIONS, LONGEST = 5, 42, 40
TOKENS = {"(": OPEN, ")": CLOSE}


def is_balanced(text: str) -> bool:
    """True if every parenthesis of `text` has its partner."""
    depth = 0
    for letter in text:
        depth += 1 if letter == "(" else -1
        if depth < 0:
            return False
    return depth == 0


def balanced(pairs: int, rng: random.Random) -> str:
    """A uniformly random balanced string of that many pairs (the cycle lemma: one rotation of a fair shuffle is balanced)."""
    steps = [1] * (pairs + 1) + [-1] * pairs
    rng.shuffle(steps)
    depth, lowest, start = 0, 0, 0
    for i, step in enumerate(steps):
        depth += step
        if depth <= lowest:
            lowest, start = depth, i + 1
    turned = steps[start:] + steps[:start]
    return "".join("(" if step == 1 else ")" for step in turned[1:])


def near_miss(pairs: int, rng: random.Random) -> str:
    """A string that is balanced but for a small change: one flip, some swaps, a rotation, or a shuffle of equal counts."""
    text = list(balanced(pairs, rng))
    kind = rng.randrange(5)
    if kind == 0:
        i = rng.randrange(len(text))
        text[i] = ")" if text[i] == "(" else "("
    elif kind == 1:
        for _ in range(rng.randint(1, 3)):
            i, j = rng.randrange(len(text)), rng.randrange(len(text))
            text[i], text[j] = text[j], text[i]
    elif kind == 2:
        i = rng.randrange(len(text))
        text = text[i:] + text[:i]
    elif kind == 3:
        rng.shuffle(text)
    else:
        i, j = sorted((rng.randrange(len(text)), rng.randrange(len(text))))
        text[i], text[j] = ")", "("
    return "".join(text)


def sample(rng: random.Random) -> str:
    """One string of even length 2 to 40: balanced, a near-miss, or random."""
    pairs = rng.randint(1, LONGEST // 2)
    kind = rng.random()
    if kind < 0.45:
        return balanced(pairs, rng)
    if kind < 0.9:
        return near_miss(pairs, rng)
    return "".join(rng.choice("()") for _ in range(2 * pairs))


def strings(count: int, seed: int) -> list[str]:
    """`count` strings, the same for the same seed."""
    rng = random.Random(seed)
    return [sample(rng) for _ in range(count)]


def tokens(texts: Sequence[str], positions: int = POSITIONS) -> Tensor:
    """Token ids: start, parentheses, end, padding. Shapes: [text, position]."""
    ids = torch.full((len(texts), positions), PAD)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text) + 2] = torch.tensor([START, *(TOKENS[letter] for letter in text), END])
    return ids


def labels(texts: Sequence[str]) -> Tensor:
    """1 where the text is balanced, else 0. Shapes: [text]."""
    return torch.tensor([int(is_balanced(text)) for text in texts])
