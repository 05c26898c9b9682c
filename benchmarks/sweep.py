"""Sweeps on GPT-2 small, random weights, one thread: 144 heads and 12 MLPs against 156 plain forward passes, alternating, CPU seconds.

The proof of the rewrite and the check for liveness come once, before, and are not in the figures. `python -m benchmarks.sweep 1x16 8x64`
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from analysis import sweep
from analysis.standing import standing
from benchmarks.timing import cpu_seconds
from passes import gates, heads, paths
from rewrite import Program, trace

LAYERS, TARGETS = 12, 156
HEADS = [f"transformer.h.{i}.attn/head[:]" for i in range(LAYERS)]
MLPS = [f"transformer.h.{i}.mlp" for i in range(LAYERS)]
DIRECT = [f"{mlp} -> transformer.ln_f@in" for mlp in MLPS]


def last(output: object, batch: object) -> Tensor:
    """The logit of token 7 at the last position that is there. Units: logits."""
    return output.logits[:, -1, 7]  # type: ignore[attr-defined]


def ratio(name: str, bound: float, plain: Callable[[], object], forwards: int, measured: Callable[[], object], rounds: int) -> None:
    """Prints the cost of `measured` in plain forward passes, over `forwards`, beside what it should stay under."""
    found = []
    for number in range(rounds + 1):
        before = [cpu_seconds(plain) for _ in range(3)]
        taken = cpu_seconds(measured)
        after = [cpu_seconds(plain) for _ in range(3)]
        if number:
            found.append(taken / (forwards * statistics.median(before + after)))
    spread = f"({min(found):.3f} to {max(found):.3f}, {rounds} rounds)"
    print(f"{name:<60} {statistics.median(found):6.3f} x {spread}   (at most {bound:g})", flush=True)


def figures(program: Program, split: Program, direct: Program, gated: Program, shape: tuple[int, int], bounds: tuple[float, ...]) -> None:
    """Prints the figures for one shape of batch."""
    ids = torch.randint(0, 50257, shape, generator=torch.Generator().manual_seed(1))
    data, rounds, size = [{"input_ids": ids}], 3 if shape[0] * shape[1] < 256 else 1, f"{shape[0]} x {shape[1]}"

    def plain() -> None:
        with torch.no_grad():
            program(input_ids=ids)

    def swept(positions: int | None) -> Callable[[], object]:
        return lambda: sweep(split, HEADS + MLPS, data, last, positions=positions)

    ratio(f"{size}: 144 heads and 12 MLPs, full logits", bounds[0], plain, TARGETS, swept(None), rounds)
    ratio(f"{size}: 144 heads and 12 MLPs, last position", bounds[1], plain, TARGETS, swept(-1), rounds)
    ratio(f"{size}: 12 direct paths MLP -> final norm", 0.42, plain, LAYERS, lambda: sweep(direct, DIRECT, data, last), 3 * rounds)

    def all_gates() -> None:
        with torch.no_grad():
            gated(input_ids=ids)

    ratio(f"{size}: forward with 12 families and 12 MLPs gated at 1", 1.05, plain, 1, all_gates, 7)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    program = trace(GPT2LMHeadModel(GPT2Config()).eval(), input_ids=torch.randint(0, 50257, (2, 8)))
    split = program.apply(heads.at("transformer.h.*.attn"))
    direct = program.apply(paths.at(DIRECT))
    gated = split.apply(gates.at("transformer.h.*.attn/head", "transformer.h.*.mlp"))
    print(standing(split), "|", standing(direct), "|", standing(gated), flush=True)
    bounds = {"1x16": (0.35, 0.22), "8x64": (0.70, 0.42)}
    for text in sys.argv[1:] or bounds:
        batch, positions = (int(number) for number in text.split("x"))
        figures(program, split, direct, gated, (batch, positions), bounds.get(text, (1.0, 1.0)))


if __name__ == "__main__":
    main()
