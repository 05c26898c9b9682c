"""What a program is made of: plain records that speak of graph nodes by name.

A program's graph is in *lifted* form: every parameter, buffer, constant and gate is a placeholder, in that order, then the inputs
in calling order; every other node is a functional ATen op (or a SymInt's arithmetic); one output node with a flat list of leaves.
The graph is append-only: a rewrite adds nodes and changes what readers read, it never erases, so a name once given stays good.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, fx
from torch.utils._pytree import TreeSpec

LeafKind = Literal["parameter", "buffer", "constant", "gate", "input"]
SiteKind = Literal["output", "input", "term", "family", "part", "path", "copy"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One placeholder: where its value comes from, under the model's own name (`lm_head.weight`, `input_ids`).

    A copy of an input (`input_ids@name`) says whose copy it is; a call that does not give it gives it the original's value.
    """

    kind: LeafKind
    name: str
    persistent: bool = True  # False for a buffer that is not in the state dict
    copy_of: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """A named value: always the value its readers read.

    `scope` limits who counts as a reader: nodes whose `meta["scope"]` holds it; None means all readers. `h.9.mlp@in` is read by
    nodes inside that call of `h.9.mlp` only, a term only by the sum that it belongs to.
    """

    address: str
    node: str
    kind: SiteKind
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class FamilyRecord:
    """An axis contracted by a multilinear op: `equation` over `operands` (node names), summed over the letter `axis`.

    Member i restricts `axis` to i in every operand that carries it. `act` is the index of the operand whose slice is the member's
    coordinate (`@act`); `total` is the node that computes the sum over all members.
    """

    address: str
    equation: str
    operands: tuple[str, ...]
    axis: str
    act: int
    total: str
    size: int


@dataclass(frozen=True, slots=True)
class SplitRecord:
    """What a site was split into: `terms` (addresses) sum to the node `total`; `whole` is the node that was split."""

    site: str
    whole: str
    total: str
    terms: tuple[str, ...]
    step: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a term is, as an equation over nodes of the program: `graph` computes (left, right), to be proved equal.

    `bindings` says what each placeholder of `graph` is: ("node", name), ("fresh", like-name) for an independent value shaped like
    a node, or ("member", family address) for the 0-d integer index of an arbitrary member. `reads` are the terms it speaks of.
    `swaps`: a placeholder named there is its node computed once more by the program, with other placeholders' values in the place of
    some nodes (node name -> placeholder); the nodes that the claim binds otherwise are held.
    """

    sentence: str
    site: str
    step: int
    graph: fx.Graph
    bindings: dict[str, tuple[str, str]]
    reads: tuple[str, ...]
    swaps: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of the history: what was asked, where it applied, where it did not and why."""

    name: str
    arguments: dict[str, str]
    sites: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calling:
    """How the model is called: `parameters` are forward's argument names; the specs flatten (args, kwargs) and the output."""

    parameters: tuple[str, ...]
    in_spec: TreeSpec
    out_spec: TreeSpec
    outputs: tuple[str, ...]  # a name for each output leaf: "logits", "hidden_states:0", or "" for a lone tensor


@dataclass(frozen=True, slots=True)
class Header:
    """What tracing found out, printed above every program: `dynamic` is "batch, sequence", "batch" or "static"."""

    model: str
    dynamic: str
    checks: dict[str, str]  # "outputs" -> "bit-identical", "gradients" -> "bit-identical" | "max relative difference 3e-08" | ...
    switches: tuple[str, ...] = ()  # settings of the model that tracing changed: "config.use_cache=False"
    notes: tuple[str, ...] = ()
    torch: str = ""


@dataclass(frozen=True, slots=True)
class GateRecord:
    """A gate in the graph: the leaf names of g, h and r, and `size`, the number of members when it gates a family."""

    address: str
    g: str
    h: str
    r: str
    size: int | None = None


Edit = float | Tensor | Callable[[Tensor], Tensor]
Tree = Any  # a pytree of tensors
