"""Sweeps on GPT-2 small, random weights, one thread: 144 heads and 12 MLPs against 156 plain forward passes, alternating, CPU seconds.

The proof of the rewrite and the check for liveness, once a program, are not in the figures.
`python -m benchmarks.sweep [1x16] [8x64] [few]`; `few` takes a sixth of the targets, 2 heads of each layer and the MLPs of 2.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from analysis.ablation.effects import Plan
from analysis.ablation.reference import References
from analysis.ablation.targets import prepared, singles
from benchmarks.timing import cpu_seconds
from passes import gates, heads, paths
from rewrite import Program, trace

LAYERS = 12
DIRECT = [f"transformer.h.{i}.mlp -> transformer.ln_f@in" for i in range(LAYERS)]


def targets(few: bool) -> list[str]:
    """The addresses swept: heads and MLPs, 12 to 1."""
    heads_of_each, mlps = ("[0:2]", (3, 8)) if few else ("[:]", range(LAYERS))
    return [f"transformer.h.{i}.attn/head{heads_of_each}" for i in range(LAYERS)] + [f"transformer.h.{i}.mlp" for i in mlps]


def swept(program: Program, addresses: list[str], ids: Tensor, positions: int | None) -> Callable[[], object]:
    """One zero-ablation sweep."""
    data = [{"input_ids": ids}]
    found = singles(*prepared(program, addresses, "sweep"))
    references = References(program, data, [], "zero", "dataset", None, 0).prepare()
    return lambda: Plan(program, data, found, last, positions).run(references)


def last(output: object, batch: object) -> Tensor:
    """The logit of token 7 at the last position that is there. Units: logits."""
    return output.logits[:, -1, 7]  # type: ignore[attr-defined]


def floors(traced: Program, plain: Callable[[], object], shape: tuple[int, int], few: bool) -> tuple[float, float]:
    """What full logits must cost at least, of heads and MLPs and of direct paths: the same products, at the speed that they have alone.

    That is one plain forward pass, the unembedding once a target, and of the layers what lies behind it: for a head the MLP of its own
    layer, two thirds of it, and a twelfth for the product that writes the head.
    """
    x, weight = torch.randn(*shape, 768), traced.tensors["lm_head.weight"]
    alone = statistics.median(cpu_seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(5))
    whole = statistics.median(cpu_seconds(plain) for _ in range(5))
    unembed, layer = alone / whole, (1 - alone / whole) / LAYERS
    each = [layer * (LAYERS - 1 - i + 0.75) for i in range(LAYERS) for _ in range(2 if few else 12)]
    each += [layer * (LAYERS - 1 - i) for i in ((3, 8) if few else range(LAYERS))]
    return unembed + (sum(each) + 1) / len(each), unembed + 1 / LAYERS


def ratio(
    name: str, bound: float, plain: Callable[[], object], forwards: int, measured: Callable[[], object], rounds: int, floor: float = 0.0
) -> None:
    """Prints the cost of `measured` in plain forward passes, over `forwards`, beside what it should stay under and what it cannot."""
    found = []
    for number in range(rounds + 1):
        before = [cpu_seconds(plain) for _ in range(3)]
        taken = cpu_seconds(measured)
        after = [cpu_seconds(plain) for _ in range(3)]
        if number:
            found.append(taken / (forwards * statistics.median(before + after)))
    spread = f"({min(found):.3f} to {max(found):.3f}, {rounds} rounds)"
    least = f"; not under {floor:.3f}" if floor else ""
    print(f"{name:<60} {statistics.median(found):6.3f} x {spread}   (at most {bound:g}{least})", flush=True)


def figures(traced: Program, shape: tuple[int, int], few: bool, bounds: tuple[float, ...]) -> None:
    """Prints the figures for one shape of batch."""
    ids = torch.randint(0, 50257, shape, generator=torch.Generator().manual_seed(1))
    split = traced.apply(heads.at("transformer.h.*.attn"))
    direct = traced.apply(paths.at(DIRECT))
    gated = split.apply(gates.at("transformer.h.*.attn/head", "transformer.h.*.mlp"))
    rounds, size, chosen = (3 if shape[0] * shape[1] < 256 or few else 1), f"{shape[0]} x {shape[1]}", targets(few)
    count = len(singles(split, chosen))

    def plain() -> None:
        with torch.no_grad():
            traced(input_ids=ids)

    def all_gates() -> None:
        with torch.no_grad():
            gated(input_ids=ids)

    many = shape[0] * shape[1] >= 256  # with few positions side by side products are faster than alone
    floor, floor_of_paths = floors(traced, plain, shape, few) if many else (0.0, 0.0)
    ratio(f"{size}: {count} heads and MLPs, full logits", bounds[0], plain, count, swept(split, chosen, ids, None), rounds, floor)
    ratio(f"{size}: {count} heads and MLPs, last position", bounds[1], plain, count, swept(split, chosen, ids, -1), rounds)
    ratio(f"{size}: 12 direct paths MLP -> final norm", 0.42, plain, LAYERS, swept(direct, DIRECT, ids, None), rounds, floor_of_paths)
    ratio(f"{size}: forward with 12 families and 12 MLPs gated at 1", 1.05, plain, 1, all_gates, 5)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    traced = trace(model, input_ids=torch.randint(0, 50257, (2, 8)))
    bounds = {"1x16": (0.35, 0.22), "8x64": (0.70, 0.42)}
    few = "few" in sys.argv
    for text in [one for one in sys.argv[1:] if one != "few"] or bounds:
        batch, positions = (int(number) for number in text.split("x"))
        figures(traced, (batch, positions), few, bounds.get(text, (1.0, 1.0)))


if __name__ == "__main__":
    main()
