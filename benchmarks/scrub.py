"""How long causal scrubbing takes: hypothesis 2b of the parentheses balancer against plain forwards on as many distinct inputs.

One thread, one process, in turn, medians of CPU time. `python -m benchmarks.scrub [N]`
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from analysis.demo import labels, load_balancer, strings, tokens
from analysis.demo.data import CLOSE, OPEN
from analysis.demo.model import D_MODEL
from analysis.scrubbing import Hypothesis, Part, by, draw, unshared
from analysis.scrubbing.chunks import fixed_rows
from analysis.scrubbing.run import Job
from analysis.scrubbing.samplers import Batch, rows
from benchmarks.timing import alternate
from passes import heads
from rewrite import Program, Terms, split, trace

N, ROUNDS, SEED, MEMORY = 1000, 5, 0, 2**26


def opens(batch: Batch) -> tuple[Tensor, Tensor]:
    """The numbers of "(" and ")"."""
    ids = batch["input_ids"]
    return (ids == OPEN).sum(1), (ids == CLOSE).sum(1)


def count(batch: Batch) -> Tensor:
    """Whether there are as many "(" as ")", and the first is a "("."""
    left, right = opens(batch)
    return (left == right) & (batch["input_ids"][:, 1] == OPEN)


def horizon(batch: Batch) -> Tensor:
    """Whether no rest of the string has more "(" than ")"."""
    ids = batch["input_ids"]
    return (((ids == OPEN).long() - (ids == CLOSE).long()).flip(1).cumsum(1) <= 0).all(1)


def starts(batch: Batch) -> Tensor:
    """Whether the first parenthesis is a "("."""
    return batch["input_ids"][:, 1] == OPEN


def share(batch: Batch) -> Tensor:
    """The part of "(" among the parentheses if the first is one, else one class."""
    left, right = opens(batch)
    return torch.where(starts(batch), left / (left + right), torch.tensor(-1.0))


@split(name="phi")
def phi(y: Tensor, input_ids: Tensor, *, v: Tensor) -> Terms:
    """What a direction times the part of "(" says, and the rest.

    Shapes: y [batch, position, d_model], input_ids [batch, position], v [d_model]; terms as y.
    """
    left, right = (input_ids == OPEN).sum(-1, keepdim=True), (input_ids == CLOSE).sum(-1, keepdim=True)
    p = left / (left + right)
    along = ((2 * p - 1).unsqueeze(-1) * v).expand(y.shape)
    return Terms(along, rest=y - along)


def direction_of_phi() -> Tensor:
    """A random direction. Shapes: [d_model]."""
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(SEED))


def rewritten(program: Program) -> Program:
    """The balancer with heads as families, and the direction of `phi` split off what attention 0 writes."""
    return program.apply(phi.at("blocks.0.attn", v=direction_of_phi()), heads.at("blocks.1.attn", "blocks.2.attn"))


def hypothesis_2b() -> Hypothesis:
    """Heads 1.0 and 2.0 read position 1 only, there the direction of attention 0 and the embedding; head 2.1 says the horizon."""

    def at_position_1(layer: int) -> list[Part]:
        way = f"~> blocks.{layer}.attn@in@[:, 1] ~>"
        return [
            Part(f"phi_{layer}", f"blocks.0.attn/phi {way}", by(share)),
            Part(f"embed_{layer}", f"embed ~> !blocks.0.attn !blocks.0.mlp {way[3:]}", by(starts)),
        ]

    return Hypothesis(
        Part("h10", "blocks.1.attn/head[0] -> ln_f@in", by(count), parts=at_position_1(1)),
        Part("h20", "blocks.2.attn/head[0] -> ln_f@in", by(count), parts=at_position_1(2)),
        Part("h21", "blocks.2.attn/head[1] -> ln_f@in", by(horizon)),
    )


def main(n: int = N) -> None:
    """Prints the times."""
    torch.set_num_threads(1)
    texts = strings(4 * n, SEED)
    data = {"input_ids": tokens(texts), "labels": labels(texts)}
    traced = trace(load_balancer(), data["input_ids"][:8])
    program = rewritten(traced)
    hypothesis = hypothesis_2b()
    copies = unshared(program, hypothesis)
    job = Job(
        program,
        {"": copies},
        data,
        lambda out, batch: torch.nn.functional.cross_entropy(out, batch["labels"], reduction="none"),
        None,
        MEMORY,
    )
    reference = job.reference(n, SEED)
    drawn = draw(hypothesis, reference, data, SEED)
    every = torch.cat([batch["input_ids"] for batch in drawn.batches.values()])
    assert fixed_rows(copies) is None
    candidates: dict[str, Callable[[], object]] = {
        f"plain forward, {rows(reference)} inputs": lambda: traced(input_ids=reference["input_ids"]),
        f"plain forward, {len(every)} inputs": lambda: [traced(input_ids=part) for part in every.split(n)],
        f"scrubbed, {len(drawn.batches)} inputs for each of {n}": lambda: job.run(copies, drawn, reference, None),
    }
    with torch.no_grad():
        took = alternate(candidates, ROUNDS)
    base = list(took.values())[1][0]
    for name, (milliseconds, ratio) in took.items():
        print(f"{name:<45} {milliseconds:8.0f} ms   {ratio:5.2f} times the first   {milliseconds / base:5.2f} times the second")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
