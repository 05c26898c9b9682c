"""The hypotheses about the balancer, from "exactly the model" to "a sum of what a person would write down", as trees of claims.

They follow Chan et al. 2022, "Causal scrubbing on a paren balance checker", with the roles that parts of *this* model have; those of
`own` roles and of the MLP are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.demo.data import OPEN
from analysis.demo.model import D_MODEL, HEADS
from analysis.scrubbing import Hypothesis, Part, by, exact, unconditional
from examples.paren.features import FEATURES, Batch, balanced, count, equal_count, horizon, length, rest_at, share, starts, steps
from examples.paren.roles import LOUD, Writer, counter, looks, read_most, writers
from passes import direction, heads, surrogate
from rewrite import Program, TautomerError, Terms, split
from rewrite.weights import Weight

NAMED = {feature.__name__: feature for feature in FEATURES}
COUNTING = ("equal_count", "count", "prefix")
HEAD_SIZE, BEST = D_MODEL // HEADS, 8


@dataclass(frozen=True)
class Row:
    """One line of the table: a claim in words, and what to scrub."""

    name: str
    claim: str
    program: Program
    hypothesis: Hypothesis


@dataclass(frozen=True)
class Roles:
    """What was found to do what: heads that count, heads that look at the horizon, the MLP that puts it together."""

    all: Sequence[Writer]
    position: int  # that the first counting head reads most
    attended: float  # how much
    counter: int  # the head of layer 0 that counts there
    paid: Sequence[tuple[float, float]]  # attention of that head to parentheses in front and behind, by position

    @staticmethod
    def of(program: Program, batch: Batch) -> Roles:
        """The roles in a program whose heads are families.

        Raises: TautomerError if no head counts or none looks at the horizon: then these hypotheses are not about this model.
        """
        found = writers(program, batch)
        loud = [writer for writer in found if writer.head is not None and writer.spread >= LOUD]
        first = next((writer for writer in loud if writer.role in COUNTING), None)
        if first is None or all(writer.role in COUNTING for writer in loud):
            raise TautomerError(
                f"roles: expected heads that count and heads that see the horizon, got {[w.role for w in loud]}. Train longer."
            )
        position, attended = read_most(program, batch, first)
        head = counter(program, batch, position)
        return Roles(found, position, attended, head, looks(program, batch, head))

    @property
    def heads(self) -> list[Writer]:
        """The heads that have a role, the loudest first."""
        return [writer for writer in self.all if writer.head is not None and writer.spread >= LOUD]

    @property
    def mlp(self) -> Writer:
        """The loudest MLP."""
        return next(writer for writer in self.all if writer.head is None)

    @property
    def counting(self) -> list[Writer]:
        """The heads that count."""
        return [writer for writer in self.heads if writer.role in COUNTING]

    @property
    def horizon(self) -> list[Writer]:
        """The heads that see the horizon."""
        return [writer for writer in self.heads if writer.role not in COUNTING]


@split(name="phi")
def phi(y: Tensor, input_ids: Tensor, *, v: Tensor) -> Terms:
    """A direction times how many more of the parentheses are "(" than ")", as a fraction, and the rest.

    Shapes: y [batch, position, d_model], input_ids [batch, position], v [d_model]; terms as y.
    """
    opens, all_of_them = (input_ids == OPEN).sum(-1), (input_ids >= OPEN).sum(-1)
    along = ((2 * opens / all_of_them - 1)[:, None, None] * v).expand(y.shape)
    return Terms(along, rest=y - along)


def open_direction(program: Program, batch: Batch, head: int) -> Weight:
    """Half of what a head of layer 0 writes for "(" less what for ")", an expression of the weights. Shapes: [d_model]."""
    with torch.no_grad():
        read = program.values("blocks.0.ln_1", input_ids=batch["input_ids"])["blocks.0.ln_1"]
    apart = (read[steps(batch) == 1].mean(0) - read[steps(batch) == -1].mean(0)) / 2
    own = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
    value, output = program.weight("blocks.0.attn.v.weight")[own], program.weight("blocks.0.attn.o.weight")[:, own]
    return output @ (value @ apart)


class Pruned(nn.Module):
    """An MLP that keeps the units that say most, and the mean of the others."""

    def __init__(self, model: nn.Module, layer: int, read: Tensor):
        super().__init__()
        mlp, says = model.get_submodule(f"blocks.{layer}.mlp"), model.get_submodule("unembed").weight
        hidden = torch.relu(mlp.up(read))
        loudness = hidden.std(0) * (mlp.down.weight * ((says[1] - says[0]) * model.get_submodule("ln_f").weight)[:, None]).sum(0).abs()
        keep = loudness.topk(BEST).indices
        rest = hidden.mean(0).index_fill(0, keep, 0.0)
        self.up, self.down = nn.Linear(D_MODEL, BEST), nn.Linear(BEST, D_MODEL)
        tensors = {"up.weight": mlp.up.weight[keep], "up.bias": mlp.up.bias[keep], "down.weight": mlp.down.weight[:, keep]}
        self.load_state_dict({**tensors, "down.bias": mlp.down.bias + mlp.down.weight @ rest})

    def forward(self, x: Tensor) -> Tensor:
        """The units' sum. Shapes: [..., d_model]."""
        return self.down(torch.relu(self.up(x)))


def hypotheses(traced: Program, model: nn.Module, roles: Roles, batch: Batch) -> Iterator[Row]:
    """The rows of the table, in the order of the paper's; roles as found."""
    families = traced.apply(heads.at("blocks.*.attn"))

    def row(name: str, claim: str, *parts: Part, program: Program = families, **samplers: object) -> Row:
        return Row(name, claim, program, Hypothesis(*parts, **samplers))  # type: ignore[arg-type]

    yield row("0a", "everything matters as it is")
    yield row("0b", "nothing matters", sampler=unconditional)
    yield row("1a", "counting heads say equal counts, horizon heads the horizon, directly", *direct(roles, equal_count))
    yield row("1b", "1a, and counting heads see the first parenthesis", *direct(roles, count))
    yield row("1c", "each head says the one feature that explains it best, directly", *direct(roles, None))
    whole = Part(roles.mlp.part, f"{roles.mlp.address} -> ln_f@in", by(balanced))
    yield row("1d", f"1c, and {roles.mlp.name} says whether the string is balanced", *direct(roles, None), whole)
    yield row("1e", f"1d, and {roles.mlp.name} reads these heads only, for the same features", *direct(roles, None), through_mlp(roles))
    yield from positions(roles, traced, batch, row)
    yield from remainders(roles, traced, model, batch, row)


Inside = Callable[[Writer, str], Sequence[Part]]  # what a head is claimed to read, of a head and the part that it is in


def nothing(writer: Writer, name: str) -> Sequence[Part]:
    """No claim about what a head reads."""
    return ()


def direct(roles: Roles, feature: Callable[[Batch], Tensor] | None, inside: Inside = nothing) -> list[Part]:
    """A part for the direct path of each head: counting heads by `feature` (None: by their own role), horizon heads by the horizon."""
    found = []
    for writer in roles.heads:
        own = NAMED[writer.role] if feature is None else feature if writer in roles.counting else horizon
        found.append(Part(writer.part, f"{writer.address} -> ln_f@in", by(own), inside(writer, writer.part)))
    return found


def through_mlp(roles: Roles, inside: Inside = nothing) -> Part:
    """The MLP's direct path, by whether the string is balanced; of what it reads, the heads that have a role, by their features."""
    mlp = roles.mlp
    read = [
        Part(name, f"{writer.address} -> blocks.{mlp.layer}.ln_2@in ~>", by(NAMED[writer.role]), inside(writer, name))
        for writer in roles.heads
        for name in [f"{writer.part}_{mlp.part}"]
        if writer.layer <= mlp.layer
    ]
    return Part(mlp.part, f"{mlp.address} -> ln_f@in", by(balanced), read)


def positions(roles: Roles, traced: Program, batch: Batch, row: Callable[..., Row]) -> Iterator[Row]:
    """Claims about what the heads read, position by position.

    Of the counting head on both of its ways, directly and through the MLP; of the horizon head on the direct one, position by position.
    """
    at, first, last = roles.position, roles.counting[0], roles.horizon[0]
    v = open_direction(traced, batch, roles.counter)
    projected = traced.apply(heads.at("blocks.1.attn", "blocks.2.attn"), direction.at("blocks.0.attn", d=v, name="open"))
    counted = traced.apply(heads.at("blocks.1.attn", "blocks.2.attn"), phi.at("blocks.0.attn", v=v))

    def parts(inside: Inside) -> list[Part]:
        return [*direct(roles, None, inside), through_mlp(roles, inside)]

    def here(*sources: tuple[str, str, Callable[[Batch], Tensor]]) -> Inside:
        """What the first counting head reads at its position, each source by a feature."""

        def inside(writer: Writer, name: str) -> Sequence[Part]:
            claims = [Part(f"{name}_{what}", f"{source} ->", by(feature)) for what, source, feature in sources]
            stop = f"blocks.{writer.layer}.ln_1@in@[:, {at}] ~>"
            return [Part(f"{name}_at{at}", stop, exact, claims)] if writer is first else ()

        return inside

    def everywhere(weights: Sequence[tuple[float, float]]) -> Inside:
        """What the first horizon head reads on its direct path: the length in the mask, at each position the majority from there on."""

        def inside(writer: Writer, name: str) -> Sequence[Part]:
            each = [
                Part(f"{name}_at{i}", f"blocks.{writer.layer}.ln_1@in@[:, {i}] ~>", by(rest_at(i, *weights[i])))
                for i in range(batch["input_ids"].shape[1])
            ]
            return [Part(f"{name}_length", f"blocks.{writer.layer}.attn@in:seen ~>", by(length)), *each] if name == last.part else ()

        return inside

    def counts_of(source: str) -> Inside:
        return here(("counts", source, share), ("embeds", "embed", starts))

    plain, adjusted = everywhere([(0.0, 1.0)] * len(roles.paid)), everywhere(roles.paid)
    head, phi_here = f"head 0.{roles.counter}", counts_of("blocks.0.attn/phi")
    yield row("2.1", f"1e, and {first.name} reads position {at} only", *parts(here()))
    yield row("2a", f'2.1, and there only the part of "(" from {head} and the first parenthesis from the embedding',
              *parts(counts_of(f"blocks.0.attn/head[{roles.counter}]")))  # fmt: skip
    yield row(
        "2p", "2a, of attention 0 only what lies along the open direction", *parts(counts_of("blocks.0.attn/open")), program=projected
    )
    yield row("2b", '2a, of attention 0 only 2p - 1 times that direction (p: the part of "(")', *parts(phi_here), program=counted)
    yield row("3a", f"1e, and {last.name} reads directly, at each position, which kind is in the majority from there on", *parts(plain))
    yield row("3b", f"3a, the majority weighed by where {head} looks", *parts(adjusted))
    both: Inside = lambda writer, name: [*phi_here(writer, name), *adjusted(writer, name)]  # noqa: E731
    yield row("4", "2b and 3b", *parts(both), program=counted)


def remainders(roles: Roles, traced: Program, model: nn.Module, batch: Batch, row: Callable[..., Row]) -> Iterator[Row]:
    """MLP(x) = f(x) + (MLP(x) - f(x)) for several f, and the claim that the remainder does not matter to the logits directly."""
    mlp = roles.mlp
    with torch.no_grad():
        read = traced.values(f"{mlp.address}@in", input_ids=batch["input_ids"])[f"{mlp.address}@in"]
        written = traced.values(mlp.address, input_ids=batch["input_ids"])[mlp.address]
        pruned = Pruned(model, mlp.layer, read[:, 0]).requires_grad_(False).eval()
    says = traced.weight("unembed.weight")
    fs = {
        "Mc": ("its mean", surrogate.at(mlp.address, f=constant(written[:, 0].mean(0)), name="f")),
        "Ml": ("the best affine map of its input", surrogate.at(mlp.address, fit=[{"input_ids": batch["input_ids"]}], name="f")),
        "Mu": (
            f"its {BEST} loudest units of {model.get_submodule(mlp.address).up.out_features}",
            surrogate.at(mlp.address, f=pruned, name="f"),
        ),
        "Md": (
            "what lies along the logits' direction",
            direction.at(mlp.address, d=traced.weight("ln_f.weight") * (says[1] - says[0]), name="f"),
        ),
    }
    for name, (what, split_up) in fs.items():
        part = Part("remainder", f"{mlp.address}/f.rest -> ln_f@in", unconditional)
        yield row(name, f"of {mlp.name}, nothing matters directly but {what}", part, program=traced.apply(split_up), other=exact)


def constant(value: Tensor) -> nn.Module:
    """A module that says the same whatever it reads. Shapes: value [d_model]."""
    made = nn.Linear(len(value), len(value))
    made.load_state_dict({"weight": torch.zeros(len(value), len(value)), "bias": value})
    return made.requires_grad_(False).eval()
