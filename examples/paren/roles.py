"""Which part of the balancer says what: every writer's direct contribution to the logits, and the feature that explains it best.

A writer is a head or an MLP. Its direct contribution is what it adds to the logit of balanced less that of unbalanced through the final
norm, with the norm's scale as it is on each example. A feature explains the part of its variance that lies between the feature's classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.demo.data import PAD
from analysis.demo.model import HEADS, LAYERS
from examples.paren.features import FEATURES, Batch, length, steps
from rewrite import Program

LOUD = 1.0  # logits: writers whose direct contribution varies less have no role


@dataclass(frozen=True)
class Writer:
    """A writer's direct contribution: its spread, and the part of it that each feature explains. Units: logits, fractions."""

    address: str
    layer: int
    head: int | None  # None: the MLP
    spread: float
    explained: dict[str, float]

    @property
    def role(self) -> str:
        """The name of the feature that explains most; a head is held to a part of the answer, not to the answer itself."""
        names = [name for name in self.explained if name != "balanced" or self.head is None]
        return max(names, key=lambda name: self.explained[name])

    @property
    def name(self) -> str:
        """As in `head 1.0` for head 0 of layer 1, `MLP 2` for that of layer 2."""
        return f"MLP {self.layer}" if self.head is None else f"head {self.layer}.{self.head}"

    @property
    def part(self) -> str:
        """The name of the part of a hypothesis that is about it."""
        return f"m{self.layer}" if self.head is None else f"h{self.layer}{self.head}"


def addresses() -> list[tuple[str, int, int | None]]:
    """The address, layer and head of every writer."""
    heads = [(f"blocks.{layer}.attn/head[{head}]", layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    return [*heads, *((f"blocks.{layer}.mlp", layer, None) for layer in range(LAYERS))]


def writers(program: Program, batch: Batch) -> list[Writer]:
    """Every writer of a program whose heads are families, the loudest first."""
    wanted = [address for address, _, _ in addresses()]
    with torch.no_grad():
        values = program.values([*wanted, "ln_f@in"], input_ids=batch["input_ids"])
    stream = values["ln_f@in"][:, 0]
    scale = (stream.var(-1, unbiased=False) + 1e-5).rsqrt()
    says = program.tensors["unembed.weight"][1] - program.tensors["unembed.weight"][0]
    classes = {feature.__name__: feature(batch) for feature in FEATURES}
    found = []
    for address, layer, head in addresses():
        written = values[address][:, 0]
        centred = written - written.mean(-1, keepdim=True)
        contribution = (centred * program.tensors["ln_f.weight"] * scale[:, None]) @ says.detach()
        explained = {name: between(contribution, kind) for name, kind in classes.items()}
        found.append(Writer(address, layer, head, contribution.std().item(), explained))
    return sorted(found, key=lambda writer: -writer.spread)


def between(values: Tensor, kind: Tensor) -> float:
    """The part of the variance that lies between two classes. Shapes: values [example], kind [example] of bool."""
    groups = [values[kind], values[~kind]]
    within = sum((len(group) * group.var(unbiased=False)).item() for group in groups if len(group))
    total = len(values) * values.var(unbiased=False).item()
    return 1 - within / total if total else 0.0


def attention(program: Program, batch: Batch, layer: int) -> Tensor:
    """How much each position attends to each. Shapes: [example, head, reader, read]."""
    block = f"blocks.{layer}.attn"
    with torch.no_grad():
        values = program.values([f"{block}.q", f"{block}.k"], input_ids=batch["input_ids"])
    q, k = (values[f"{block}.{name}"].unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in "qk")
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill((batch["input_ids"] == PAD)[:, None, None, :], -torch.inf).softmax(-1)


def read_most(program: Program, batch: Batch, writer: Writer) -> tuple[int, float]:
    """The position that a head reads most from the first one, and its share of the attention on average."""
    mean = attention(program, batch, writer.layer)[:, writer.head or 0, 0].mean(0)
    return int(mean.argmax()), mean.max().item()


def looks(program: Program, batch: Batch, head: int) -> list[tuple[float, float]]:
    """For each position, the attention that a head of layer 0 pays one parenthesis in front of it and one from it on, on average."""
    paid = attention(program, batch, 0)[:, head]
    paren = steps(batch).abs().double()
    found = []
    for position in range(paid.shape[-1]):
        row = paid[:, position].double() * paren * paren[:, position, None]
        sums, counts = row.sum(0), (paren * paren[:, position, None]).sum(0)
        sides = [(slice(0, position)), (slice(position, None))]
        before, after = ((sums[side].sum() / counts[side].sum().clamp(min=1)).item() for side in sides)
        found.append((before, after))
    return found


def counter(program: Program, batch: Batch, position: int) -> int:
    """The head of layer 0 whose output at `position` varies most with the part of "(" in the string."""
    family = "blocks.0.attn/head"
    with torch.no_grad():
        values = program.values([f"{family}[{head}]" for head in range(HEADS)], input_ids=batch["input_ids"])
    opens = (steps(batch) == 1).sum(1) / length(batch)
    centred = (opens - opens.mean()) / opens.std()
    slopes = [(value[:, position] * centred[:, None]).mean(0).norm().item() for value in values.values()]
    return slopes.index(max(slopes))
