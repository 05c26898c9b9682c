"""GPT-2 small at full size, random weights, one thread: tracing, splitting, running, proving, saving. Prints seconds and ratios."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.timing import alternate, cpu_seconds
from passes import direction, heads
from rewrite import Program, load, trace
from verify import equivalence

SITES = (
    "",
    "@in",
    ".mlp",
    ".mlp@in",
    ".attn",
    ".attn@in",
    ".ln_1",
    ".ln_1@in",
    ".ln_2",
    ".ln_2@in",
    ".mlp.c_fc",
    ".mlp.act",
    ".attn.c_attn",
)


def report(name: str, seconds: float, bound: float) -> None:
    """Prints one measured figure beside what it should stay under. Units: CPU seconds."""
    print(f"{name:<58} {seconds:8.2f} s   (at most {bound:g})", flush=True)


def timed(name: str, bound: float, function: Callable[[], object]) -> None:
    """Runs and reports one call."""
    report(name, cpu_seconds(function), bound)


def directions(program: Program, sites: list[str], seed: int) -> list:
    """One random direction split a site."""
    generator = torch.Generator().manual_seed(seed)
    width = {site: program.nodes[program.sites_by_address[site].node].meta["val"].shape[-1] for site in sites}
    return [direction.at(site, d=torch.randn(width[site], generator=generator), name="d") for site in sites]


def forward(model: torch.nn.Module, traced: Program, split: Program, shape: tuple[int, int], rounds: int) -> None:
    """Prints the cost of a forward pass against the model's, alternating."""
    ids = torch.randint(0, 50257, shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = alternate(
            {"model": lambda: model(ids), "traced": lambda: traced(ids), "12 directions + 12 head families": lambda: split(ids)}, rounds
        )
    for name, (milliseconds, ratio) in found.items():
        print(f"forward {shape[0]} x {shape[1]}: {name:<42} {milliseconds:8.1f} ms  {ratio:.3f} x", flush=True)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    ids = torch.randint(0, 50257, (2, 8))
    made: dict[str, Program] = {}
    timed("trace", 15, lambda: made.update(traced=trace(model, input_ids=ids)))
    traced = made["traced"]
    sites = [f"transformer.h.{i}{s}" for i in range(12) for s in SITES]
    timed(f"apply {len(sites)} direction splits", 3, lambda: made.update(many=traced.apply(*directions(traced, sites, 0))))
    split = traced.apply(*directions(traced, [f"transformer.h.{i}.mlp" for i in range(12)], 1), heads.at("transformer.h.*.attn"))
    forward(model, traced, split, (1, 16), 21)
    forward(model, traced, split, (8, 64), 5)
    for exponent, bound in ((20, 8), (40, 15)):
        timed(
            f"prove 12 directions + 12 head families, bound 2^-{exponent}",
            bound,
            lambda e=exponent: made.update(x=split) or equivalence(split, bound=2.0**-e),
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        timed("save + load, 156 splits", 20, lambda: (made["many"].save(path / "p"), load(path / "p")))
        timed("export, 156 splits", 60, lambda: made["many"].export(path / "p.pt2"))


if __name__ == "__main__":
    main()
