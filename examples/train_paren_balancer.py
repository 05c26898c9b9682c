"""Trains the parentheses balancer that ships with the package, reproducibly, and prints its accuracy on held-out strings.

    python examples/train_paren_balancer.py

About twenty minutes on one CPU core; the weights that ship are those of the default settings. The held-out strings come from another
seed, and none of them that is longer than 8 is ever trained on (there are too few shorter ones to hold any back).
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from analysis.demo.data import labels, sample, strings, tokens
from analysis.demo.model import ParenBalancer

BATCH, RATE, HELD_OUT, HELD_OUT_SEED, SHORT = 256, 1e-3, 10_000, 1, 8


def accuracy(model: ParenBalancer, ids: Tensor, answers: Tensor) -> float:
    """The fraction of strings judged rightly."""
    with torch.no_grad():
        right = sum(int((model(i).argmax(-1) == a).sum()) for i, a in zip(ids.split(1000), answers.split(1000), strict=True))
    return right / len(answers)


def batches(seed: int, without: set[str]):
    """Endless batches of (token ids, answers); no string of `without` occurs but the shortest."""
    rng = random.Random(seed)
    while True:
        texts: list[str] = []
        while len(texts) < BATCH:
            text = sample(rng)
            if len(text) <= SHORT or text not in without:
                texts.append(text)
        longest = max(map(len, texts)) + 2
        yield tokens(texts, longest), labels(texts)


def train(steps: int, seed: int) -> ParenBalancer:
    """The trained model, in eval mode; prints progress."""
    torch.manual_seed(seed)
    model = ParenBalancer().train()
    held_out = strings(HELD_OUT, HELD_OUT_SEED)
    ids, answers = tokens(held_out), labels(held_out)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step, (batch, target) in zip(range(1, steps + 1), batches(seed + 1000, set(held_out)), strict=False):
        loss = cross_entropy(model(batch), target)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 0 or step == steps:
            print(f"step {step:>6}  loss {loss.item():.5f}  held-out accuracy {accuracy(model, ids, answers):.4%}", flush=True)
    return model.eval()


def main() -> None:
    """Trains, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("analysis/demo/paren_balancer.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}, {options.steps} steps of {BATCH} strings; held out: {HELD_OUT} strings of seed {HELD_OUT_SEED}")
    model = train(options.steps, options.seed)
    partial = options.out.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
    os.replace(partial, options.out)
    held_out = strings(HELD_OUT, HELD_OUT_SEED)
    print(f"saved {options.out} ({options.out.stat().st_size:,} bytes); accuracy {accuracy(model, tokens(held_out), labels(held_out)):.4%}")


if __name__ == "__main__":
    main()
