"""Splits in one apply, by the thousand, on a tiny GPT-2: CPU seconds for each count, which should grow in proportion."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.timing import cpu_seconds
from passes import direction
from rewrite import trace


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    program = trace(model, input_ids=torch.randint(0, 61, (2, 7)))
    sites = [f"transformer.h.{i}{s}" for i in range(2) for s in ("", ".mlp", ".attn", ".ln_1", ".ln_2")]
    for count in (1_000, 10_000):
        ds = torch.randn(count, 32)
        passes = [direction.at(sites[i % len(sites)], d=ds[i], name=f"d{i}") for i in range(count)]
        seconds = cpu_seconds(lambda passes=passes: program.apply(*passes))
        print(f"apply {count:>6} direction splits {seconds:8.2f} s   ({1e3 * seconds / count:.2f} ms each)", flush=True)


if __name__ == "__main__":
    main()
