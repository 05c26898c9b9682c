"""Trains the sentence model that ships beside it, reproducibly, and prints how near it comes to the grammar it learns from.

    pip install -e ".[hf]"
    python examples/train_sentence_model.py

Some four minutes on one CPU core; the weights that ship are those of the default settings. What is printed is measured on sentences of
another seed: the loss over all words against that of one who knows the grammar, and how often the announced word is guessed, likewise.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.sentence_model import PAD, WEIGHTS, Sentence, new_model, next_word, padded, sentences, surprise, vocabulary

BATCH, RATE, HELD_OUT, HELD_OUT_SEED, IGNORED = 64, 3e-3, 2000, 1, vocabulary().index(PAD)


def loss(model: Any, ids: Tensor) -> Tensor:
    """The mean loss over all words. Units: nats."""
    return cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=IGNORED)


def guessed(model: Any, texts: list[Sentence]) -> float:
    """The fraction of sentences whose announced word is the model's first guess."""
    places = torch.tensor([text.place for text in texts])
    with torch.no_grad():
        logits = model(input_ids=padded(texts)).logits[torch.arange(len(texts)), places]
    return sum(vocabulary()[i] == text.thing for i, text in zip(logits.argmax(-1).tolist(), texts, strict=True)) / len(texts)


def guessed_knowing(texts: list[Sentence]) -> float:
    """The same for one who knows the grammar."""
    return sum(vocabulary()[next_word(text.before).argmax()] == text.thing for text in texts) / len(texts)


def summary(model: Any, texts: list[Sentence]) -> str:
    """Loss and guesses, each against what knowing the grammar gives."""
    with torch.no_grad():
        found = float(loss(model, padded(texts)))
    known = sum(surprise(text).sum() for text in texts) / sum(len(text.words) for text in texts)
    guesses = f"announced word {guessed(model, texts):.2%} (grammar {guessed_knowing(texts):.2%})"
    return f"loss {found:.4f} nats a word (grammar {known:.4f}); {guesses}"


def train(steps: int, seed: int) -> Any:
    """The trained model, in eval mode; prints progress."""
    torch.manual_seed(seed)
    model, held_out = new_model().train(), sentences(HELD_OUT, HELD_OUT_SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    for step in range(1, steps + 1):
        value = loss(model, padded(sentences(BATCH, seed=(seed + 1) * 10**6 + step)))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 0 or step == steps:
            print(f"step {step:>5}  {summary(model.eval(), held_out)}", flush=True)
            model.train()
    return model.eval()


def main() -> None:
    """Trains, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}, {options.steps} steps of {BATCH} sentences; held out: {HELD_OUT} sentences of seed {HELD_OUT_SEED}")
    model = train(options.steps, options.seed)
    partial = options.out.with_suffix(".partial")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, partial)  # the output weights are the embedding: saved once
    os.replace(partial, options.out)
    print(f"saved {options.out} ({options.out.stat().st_size:,} bytes, {sum(p.numel() for p in model.parameters()):,} weights)")


if __name__ == "__main__":
    main()
