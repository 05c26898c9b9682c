"""A program that is being spoiled: a copy of its graph, with the few moves that mutation operators are made of."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from rewrite import Program
from rewrite.capture import fake_mode
from rewrite.records import Leaf, LeafKind
from rewrite.run import needed

aten = torch.ops.aten
logging.getLogger("torch._subclasses.fake_tensor").disabled = True  # edits that do not fit are tried and dropped


@dataclass
class Draft:
    """A copy of `program` that an operator may edit; `choice` is where its random choices come from.

    `gradients` says that only derivatives are to differ. `also` holds edits that are made to the unspoiled program too.
    """

    program: Program
    choice: random.Random
    graph: fx.Graph = field(default_factory=fx.Graph)
    nodes: list[fx.Node] = field(default_factory=list)  # those that outputs need, in order
    tensors: dict[str, Tensor] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)
    gradients: bool = False
    also: list[Callable[[Draft], None]] = field(default_factory=list)
    new: set[fx.Node] = field(default_factory=set)
    changed: set[fx.Node] = field(default_factory=set)
    mode: FakeTensorMode = field(init=False)

    def __post_init__(self) -> None:
        image: dict[fx.Node, fx.Node] = {}
        result = self.graph.graph_copy(self.program.graph, image)
        self.graph.output(result).meta.update(self.program.graph.output_node().meta)
        live = {image[node] for node in needed(self.program.outputs)}
        self.nodes = [node for node in self.graph.nodes if node in live]
        self.tensors, self.leaves = dict(self.program.tensors), dict(self.program.leaves)
        self.mode = fake_mode(self.graph)

    # ------------------------------------------------------------------------------------------------ looking

    def ops(self, *targets: Any) -> list[fx.Node]:
        """The live ops, in order; with `targets` those alone."""
        return [node for node in self.nodes if node.op == "call_function" and (not targets or node.target in targets)]

    def pick(self, nodes: list[fx.Node], test: Callable[[fx.Node], bool] = lambda node: True) -> fx.Node | None:
        """A random one of the nodes that pass."""
        found = [node for node in nodes if test(node)]
        return self.choice.choice(found) if found else None

    def weights(self, least: int = 2) -> list[fx.Node]:
        """The live float parameters of at least `least` dimensions."""
        return [
            node
            for node in self.nodes
            if node.name in self.leaves and self.leaves[node.name].kind == "parameter" and is_float(node) and val(node).dim() >= least
        ]

    # ------------------------------------------------------------------------------------------------ editing

    def before(self, place: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new op, right before `place`."""
        with self.graph.inserting_before(place):
            made = self.graph.call_function(target, args, kwargs)
        made.meta = {"val": self._fake(made), "scope": place.meta.get("scope", ())}
        self.new.add(made)
        return made

    def after(self, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """`target(node, ...)`, read by all that read `node`."""
        made = self.before(node.next, target, node, *args, **kwargs)
        self.instead(node, made)
        return made

    def instead(self, node: fx.Node, other: Any) -> None:
        """All that read `node`, save what is new, reads `other`."""
        node.replace_all_uses_with(other, delete_user_cb=lambda user: user not in self.new and user is not other)
        self.changed |= set(other.users)

    def call(self, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> None:
        """Makes an op another one."""
        node.target, node.args, node.kwargs = target, args, kwargs
        self.changed.add(node)

    def arg(self, node: fx.Node, place: int, value: Any) -> None:
        """Changes one argument of an op."""
        self.call(node, node.target, *node.args[:place], value, *node.args[place + 1 :], **node.kwargs)

    def add(self, node: fx.Node, change: fx.Node) -> None:
        """All that read `node` read it plus `change`, a new node that was made from it."""
        made = self.before(change.next, aten.add.Tensor, node, change)
        self.instead(node, made)

    def leaf(self, kind: LeafKind, name: str, tensor: Tensor) -> fx.Node:
        """A new leaf that holds `tensor`; a buffer is one whose numbers are taken as they are."""
        inputs = {node for node, leaf in self.leaves.items() if leaf.kind in ("gate", "input")}
        first = next(node for node in self.graph.nodes if node.op != "placeholder" or node.name in inputs)
        with self.graph.inserting_before(first):
            made = self.graph.placeholder(name)
        made.meta = {"val": self.mode.from_tensor(tensor, static_shapes=True), "scope": ()}
        self.new.add(made)
        self.tensors[name] = tensor
        known = {**self.leaves, made.name: Leaf(kind, name, persistent=False)}
        self.leaves = {node.name: known[node.name] for node in self.graph.nodes if node.op == "placeholder"}
        return made

    def store(self, node: fx.Node, tensor: Tensor) -> None:
        """Other numbers in a leaf."""
        self.tensors[self.leaves[node.name].name] = tensor

    # ------------------------------------------------------------------------------------------------ the result

    def finish(self) -> Program | None:
        """The edited program, or None if the edit changed the shape or type of an output: that would not be worth a judge."""
        wanted = [_kind(node) for node in self.program.outputs]
        self._propagate()
        outputs = tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]
        if [_kind(node) for node in outputs] != wanted:
            return None
        self.graph.lint()
        edited = {"graph": self.graph, "tensors": self.tensors, "leaves": self.leaves, "claims": ()}
        return replace(self.program, **edited, traced_from=self.program.origin)

    def _propagate(self) -> None:
        """Shapes and types after the edit, as far as they change."""
        others: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node.op != "call_function" or not (node in self.changed or any(n in others for n in node.all_input_nodes)):
                continue
            before = _kind(node)
            node.meta["val"] = self._fake(node)
            if _kind(node) != before:
                others.add(node)

    def _fake(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])  # type: ignore[misc]
        with self.mode, torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]


def val(node: Any) -> Any:
    """The fake value of a node."""
    return node.meta["val"]


def _kind(node: Any) -> Any:
    value = node.meta.get("val") if isinstance(node, fx.Node) else node
    if isinstance(value, (list, tuple)):
        return [_kind(item) for item in value]
    return (tuple(value.shape), value.dtype) if isinstance(value, (Tensor, FakeTensor)) else value


def is_float(node: Any, least: int = 0) -> bool:
    """True for a node with a float tensor of at least `least` dimensions."""
    value = getattr(node, "meta", {}).get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= least


def alike(node: Any, other: Any) -> bool:
    """True for two nodes with float tensors of one shape."""
    return is_float(node) and is_float(other) and val(node).shape == val(other).shape


Operator = Callable[[Draft], bool]
OPERATORS: dict[str, Operator] = {}


def operator(function: Operator) -> Operator:
    """Lists a mutation operator: it edits the draft, or returns False where it finds no place."""
    return OPERATORS.setdefault(function.__name__, function)


@dataclass(frozen=True)
class Mutant:
    """A spoiled program, the one it was made from, and what it is to be compared with; what is to differ, if not outputs."""

    operator: str
    program: Program
    unspoiled: Program
    original: Program
    gradients: bool = False
    claims: bool = False


def mutant(name: str, program: Program, seed: int) -> Mutant | None:
    """The program spoiled by one operator, or None where it finds no place."""
    draft = Draft(program, random.Random(f"{seed} {name}"))
    try:
        found = draft.finish() if OPERATORS[name](draft) else None
    except (RuntimeError, IndexError):  # what the edit makes does not fit what reads it
        return None
    same = program
    if draft.also:
        also = Draft(program, random.Random(0))
        for edit in draft.also:
            edit(also)
        same = also.finish() or program
    original = same if draft.also else program.origin
    return None if found is None else Mutant(name, found, same, original, draft.gradients)


def mutants(program: Program, seed: int) -> Iterator[Mutant]:
    """One mutant for each operator on graphs that finds a place in the program."""
    for name in OPERATORS:
        found = mutant(name, program, seed)
        if found is not None:
            yield found
