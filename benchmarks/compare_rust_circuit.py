"""The bare numbers of causal scrubbing against those of rust_circuit 0.4.12, on the same model, data and samples, in float64.

In an environment of its own, never a dependency: python3.11 -m venv rc && rc/bin/pip install rust_circuit==0.4.12 attrs blake3 einops . && rc/bin/python -m benchmarks.compare_rust_circuit
"""  # noqa: E501

from __future__ import annotations

import math
from typing import Any

import rust_circuit as rc  # type: ignore[import-not-found]
import torch
from rust_circuit.causal_scrubbing.dataset import Dataset  # type: ignore[import-not-found]
from rust_circuit.causal_scrubbing.experiment import Experiment, ExperimentEvalSettings  # type: ignore[import-not-found]
from rust_circuit.causal_scrubbing.hypothesis import (  # type: ignore[import-not-found]
    Correspondence,
    FixedOtherSampler,
    InterpNode,
    chain_excluding,
    corr_root_matcher,
)
from torch import Tensor

from analysis.demo import ParenBalancer, labels, load_balancer, strings, tokens
from analysis.demo.data import CLOSE, OPEN, PAD, VOCABULARY
from analysis.demo.model import D_MODEL, HEADS, LAYERS
from analysis.scrubbing import Hypothesis, Part, by, draw, unconditional
from analysis.scrubbing.draws import Draw
from analysis.scrubbing.run import Job, unshared
from benchmarks.scrub import count, direction_of_phi, horizon, hypothesis_2b, rewritten
from rewrite import trace

N, SEED, SAME = 48, 0, 1e-9
PER_HEAD = D_MODEL // HEADS


def array(tensor: Tensor) -> Any:
    """A tensor as a constant of theirs."""
    return rc.Array(tensor.detach().clone())


def scalar(value: float) -> Any:
    """A number as a constant of theirs."""
    return array(torch.tensor(value, dtype=torch.float64))


def einsum(text: str, *nodes: Any, name: str | None = None) -> Any:
    """A product of theirs, from the text of an einsum."""
    return rc.Einsum.from_einsum_string(text, *nodes, name=name)


def linear(x: Any, weight: Tensor, bias: Tensor | None, name: str | None = None) -> Any:
    """A linear map of the last axis of [position, d]."""
    product = einsum("se,oe->so", x, array(weight))
    return rc.Add(product, array(bias), name=name) if bias is not None else product


def norm(x: Any, module: Any) -> Any:
    """A layer norm of [position, d]."""
    mean = torch.full((D_MODEL, D_MODEL), -1 / D_MODEL, dtype=torch.float64)
    centred = rc.Add(x, einsum("se,fe->sf", x, array(mean)))
    spread = rc.Add(einsum("se,se,->s", centred, centred, scalar(1 / D_MODEL)), scalar(module.eps))
    return rc.Add(einsum("se,s,e->se", centred, rc.rsqrt(spread), array(module.weight)), array(module.bias))


def head(x: Any, mask: Any, attn: Any, which: int, name: str) -> Any:
    """What one head writes, without the bias."""
    own = slice(which * PER_HEAD, (which + 1) * PER_HEAD)
    q, k, v = (linear(x, part.weight[own], part.bias[own]) for part in (attn.q, attn.k, attn.v))
    scores = einsum("qd,kd,->qk", q, k, scalar(1 / math.sqrt(PER_HEAD)))
    pattern = rc.softmax(rc.Add(scores, mask))
    return einsum("qk,kd,od->qo", pattern, v, array(attn.o.weight[:, own]), name=name)


def phi(onehot: Any, name: str | None = None) -> Any:
    """What the direction of `phi` times the part of "(" among the parentheses says at every position."""
    opens, both = (
        einsum("st,t->", onehot, array(torch.nn.functional.one_hot(torch.tensor(kinds), VOCABULARY).sum(0).double()))
        for kinds in ([OPEN], [OPEN, CLOSE])
    )
    more = rc.Add(einsum(",,->", opens, rc.reciprocal(both), scalar(2.0)), scalar(-1.0))
    everywhere = array(torch.ones(onehot.shape[0], dtype=torch.float64))
    return einsum(",d,s->sd", more, array(direction_of_phi()), everywhere, name=name)


def by_position(x: Any, name: str) -> Any:
    """A value of [position, d], put together of what stands before position 1, at it, and behind."""
    parts = (slice(0, 1), None), (slice(1, 2), name), (slice(2, x.shape[0]), None)
    return rc.Concat(*(rc.Index(x, (at, slice(None)), name=what) for at, what in parts), axis=0)


def circuit(model: ParenBalancer) -> Any:
    """The balancer as a circuit of one example: `onehot` [position, token], `mask` [position]; logits [position, class].

    Attention 0 is what its direction of `phi` says and the rest.
    """
    positions = model.position.weight.shape[0]
    onehot, mask = rc.Symbol.new_with_random_uuid((positions, VOCABULARY), "onehot"), rc.Symbol.new_with_random_uuid((positions,), "mask")
    written = [rc.Add(einsum("st,te->se", onehot, array(model.embed.weight)), array(model.position.weight), name="embeds")]
    for layer, block in enumerate(model.blocks):
        x = by_position(norm(rc.Add(*written, name=f"a{layer}.input"), block.ln_1), f"a{layer}.at1")
        says = [head(x, mask, block.attn, h, f"a{layer}.h{h}") for h in range(HEADS)] + [array(block.attn.o.bias)]
        if not layer:
            says = [rc.Add(phi(onehot, "phi"), *says, einsum("sd,->sd", phi(onehot), scalar(-1.0)), name="a0")]
        written += says
        x = norm(rc.Add(*written, name=f"m{layer}.input"), block.ln_2)
        hidden = rc.relu(linear(x, block.mlp.up.weight, block.mlp.up.bias))
        written.append(linear(hidden, block.mlp.down.weight, block.mlp.down.bias, name=f"m{layer}"))
    return linear(norm(rc.Add(*written, name="final.input"), model.ln_f), model.unembed.weight, model.unembed.bias, name="logits")


def dataset(batch: Any) -> Any:
    """A batch as theirs."""
    ids = batch["input_ids"]
    onehot = torch.nn.functional.one_hot(ids, VOCABULARY).double()
    mask = torch.where(ids == PAD, -1e9, 0.0).double()
    return Dataset([rc.Array(onehot, "onehot"), rc.Array(mask, "mask")], input_names={"onehot", "mask"})


LATER = {f"{kind}{layer}{h}" for layer in range(LAYERS) for kind, h in (("a", ".h0"), ("a", ".h1"), ("m", ""))}
DIRECT = {"h10": "a1.h0", "h20": "a2.h0", "h21": "a2.h1"}
OURS = {"h10": "blocks.1.attn/head[0] -> ln_f@in", "h20": "blocks.2.attn/head[0] -> ln_f@in", "h21": "blocks.2.attn/head[1] -> ln_f@in"}
HYPOTHESES = {
    "0a": Hypothesis(),
    "0b": Hypothesis(sampler=unconditional),
    "1b": Hypothesis(*(Part(name, OURS[name], by(horizon if name == "h21" else count)) for name in OURS)),
    "1b and a part": Hypothesis(
        Part("h10", OURS["h10"], by(count)),
        Part("h20", OURS["h20"], by(count), parts=[Part("m0", "blocks.0.mlp ~>", by(count))]),
        Part("h21", OURS["h21"], by(horizon)),
    ),
    "2b": hypothesis_2b(),
}


def inside(way: Any, part: str) -> Any:
    """Their matcher of a part of a part, from that of its parent: `phi` and `embed` are read at position 1 of a layer, `embed` directly."""
    name, _, layer = part.partition("_")
    if not layer:
        return way.chain(part)
    here = way.chain(f"a{layer}.at1")
    return here.chain("phi") if name == "phi" else chain_excluding(here, "embeds", {"a0", "m0"})


def theirs(model: ParenBalancer, hypothesis: Hypothesis, drawn: Draw, reference: Any) -> Tensor:
    """Their logits for the same samples. Shapes: [example, class]."""
    fixed = {name: FixedOtherSampler(dataset(batch)) for name, batch in drawn.batches.items()}
    root = InterpNode(fixed[""], "root", other_inputs_sampler=fixed[""])
    corr = Correspondence()
    corr.add(root, corr_root_matcher)
    for part in hypothesis.parts:
        node = root.make_descendant(fixed[part.name], part.name, other_inputs_sampler=fixed[part.name])
        way = chain_excluding(corr_root_matcher, DIRECT[part.name], LATER - {DIRECT[part.name]})
        corr.add(node, way)
        for inner in part.parts:
            corr.add(node.make_descendant(fixed[inner.name], inner.name), inside(way, inner.name))
    experiment = Experiment(circuit(model), dataset(reference), corr)
    scrubbed = experiment.scrub(dataset(reference))
    return scrubbed.evaluate(ExperimentEvalSettings(device_dtype="cpu", optimize=False))[:, 0]


def main() -> None:
    """Prints both losses for each hypothesis, and the largest difference of a single example's.

    Raises: SystemExit if they differ by more than rounding.
    """
    torch.set_default_dtype(torch.float64)
    texts = strings(400, SEED)
    data = {"input_ids": tokens(texts), "labels": labels(texts)}
    model = load_balancer().double()
    loss = lambda output, batch: torch.nn.functional.cross_entropy(output, batch["labels"], reduction="none")  # noqa: E731
    program = rewritten(trace(model, data["input_ids"][:8]))
    worst = 0.0
    for name, hypothesis in HYPOTHESES.items():
        job = Job(program, {"": unshared(program, hypothesis)}, data, loss, None, 2**26)
        reference = job.reference(N, SEED)
        drawn = draw(hypothesis, reference, data, SEED)
        ours, other = job.run(job.programs[""], drawn, reference, None).loss, loss(theirs(model, hypothesis, drawn, reference), reference)
        gap = float((ours - other).abs().max())
        worst = max(worst, gap)
        print(f"{name:<14} ours {ours.mean():.9f}   rust_circuit {other.mean():.9f}   largest difference of an example {gap:.1e}")
    if worst > SAME:
        raise SystemExit(f"the losses differ by {worst:.2g}")


if __name__ == "__main__":
    main()
