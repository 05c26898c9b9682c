"""Is a mutant another function? Shown without the exact tier: by float64 runs that differ beyond rounding.

Tried in turn: the inputs given; the values that an edit cannot reach and the edited ops read, drawn at random at several sizes and around
the numbers of the graphs; the search among the model's inputs, which knows what the graphs compare with and which rows of tables
stand out; other weights, the same for both. A difference counts if it is more than 10^4 times what rounding explains (`verify/gap.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from benchmarks.mutants.draft import Mutant
from rewrite import Program
from rewrite.records import Claim
from rewrite.run import needed
from verify.cases import given_cases, redrawn
from verify.gap import Gap, gap
from verify.job import Job
from verify.ladder import DIFFERENT, gradient_gap
from verify.runs import FAILURES, Place, Setting, shows
from verify.shadow import lifted, sweep
from verify.witnesses.witness import search, search_region

PRECISIONS = (torch.float32, torch.float64)
SIZES = (0.1, 1.0, 10.0, 100.0)


def witness(found: Mutant, seed: int) -> str:
    """Where float64 runs show that a mutant is no equal: "inputs", "region", "weights", "gradients", "claim", or "" if nowhere."""
    if found.claims:
        return "claim" if any(_fails(found.program, claim, seed) for claim in found.program.claims) else ""
    question = Job.of(found.original, found.program, given_cases(found.original, None), False, {}, {})
    if question.mismatch:
        return "inputs"
    sides, case = question.sides, question.cases[0]
    if found.gradients:
        return "gradients" if gradient_gap(sides, case).rho > DIFFERENT else ""
    setting = Setting(sides, case)
    if setting.parts(setting.values(case)):
        return "inputs"
    if _in_region(found, question, seed):
        return "region"
    if search(sides, question.cases, question.roles, seed):
        return "inputs"
    return "weights" if _with_other_weights(found, question, seed) else ""


def _in_region(found: Mutant, question: Job, seed: int) -> bool:
    inner = Job.of(found.unspoiled, found.program, question.cases, False, {}, {})
    if inner.mismatch:
        return False
    return search_region(inner.sides, "", frontier(found.unspoiled, found.program), inner.cases[0], seed) is not None


def frontier(a: Program, b: Program) -> tuple[Place, ...]:
    """The float values that are computed alike in both programs and read by what is not."""
    alike: set[str] = set()
    varying: set[str] = set()
    for node in b.graph.nodes:
        other = a.nodes.get(node.name)
        if other is None or not _same_op(node, other, a, b) or any(n.name not in alike for n in node.all_input_nodes):
            continue
        alike.add(node.name)
        if (node.op == "placeholder" and b.leaves[node.name].kind == "input") or any(n.name in varying for n in node.all_input_nodes):
            varying.add(node.name)
    read: dict[str, None] = {}
    for program in (a, b):
        for node in needed(program.outputs):
            if node.name not in alike:
                read.update((n.name, None) for n in node.all_input_nodes if n.name in alike)
    return tuple(_place(a, name) for name in read if name in varying and _is_float(a.nodes[name]))


def _same_op(node: fx.Node, other: fx.Node, a: Program, b: Program) -> bool:
    if node.op == "placeholder":
        mine, theirs = b.leaves.get(node.name), a.leaves.get(node.name)
        return mine == theirs and (mine is None or b.tensors.get(mine.name) is a.tensors.get(mine.name))
    written = lambda n: map_aggregate((n.args, n.kwargs), lambda x: ("node", x.name) if isinstance(x, fx.Node) else x)  # noqa: E731
    return node.op == other.op and node.target is other.target and written(node) == written(other)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and node.op == "call_function"


def _place(program: Program, name: str) -> Place:
    return Place(name, (name,), (name,), tuple(int(size) for size in program.nodes[name].meta["val"].shape))


def _with_other_weights(found: Mutant, question: Job, seed: int) -> bool:
    generator = torch.Generator().manual_seed(seed)
    a, b = found.unspoiled, found.program
    for size in SIZES:
        moved = {
            leaf.name: _moved(a.tensors[leaf.name], size, generator)
            for leaf in a.leaves.values()
            if leaf.kind == "parameter" and b.tensors.get(leaf.name) is a.tensors[leaf.name]
        }
        ours, theirs = (replace(p, tensors={**p.tensors, **moved}) for p in (a, b))
        other = Job.of(ours, theirs, question.cases, False, {}, {})
        setting = Setting(other.sides, redrawn(ours, other.cases[0], other.roles, generator))
        if setting.parts(setting.values(setting.case)):
            return True
    return False


def _moved(tensor: Tensor, size: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach() + size * torch.randn(tensor.shape, generator=generator).to(tensor)


# Claims: both sides of the equation, computed from a run of the program


def _fails(program: Program, claim: Claim, seed: int) -> bool:
    """True if the sides of a claim differ beyond rounding, for some member."""
    family = next((what for kind, what in claim.bindings.values() if kind == "member"), None)
    members = range(program.families[family].size) if family else [0]
    return any(shows(_sides_apart(program, claim, member, seed)) for member in members)


def _sides_apart(program: Program, claim: Claim, member: int, seed: int) -> Gap:
    four = [side for dtype in PRECISIONS for side in _sides(program, claim, member, seed, dtype)]
    left32, right32, left64, right64 = torch.broadcast_tensors(*four)
    return gap(left32, right32, left64, right64)


def _sides(program: Program, claim: Claim, member: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    case = given_cases(program, None)[0]
    bound = [what for kind, what in claim.bindings.values() if kind == "node"]
    values = sweep(program, [case], bound, dtype)[0]
    generator = torch.Generator().manual_seed(seed)
    given: dict[fx.Node, Any] = {}
    for node in claim.graph.nodes:
        if node.op == "placeholder":
            kind, what = claim.bindings[node.name]
            drawn = lambda what=what: torch.randn(tuple(program.nodes[what].meta["val"].shape), generator=generator, dtype=torch.float64)  # noqa: E731
            given[node] = values[what] if kind == "node" else torch.tensor(member) if kind == "member" else drawn().to(dtype)
        elif node.op == "call_function":
            args, kwargs = map_aggregate((node.args, node.kwargs), lambda x: given[x] if isinstance(x, fx.Node) else lifted(x, dtype))  # type: ignore[misc]
            given[node] = lifted(node.target(*args, **kwargs), dtype)  # type: ignore[operator]
    sides = claim.graph.output_node().args[0]
    return [torch.as_tensor(given[x] if isinstance(x, fx.Node) else x, dtype=dtype) for x in sides]  # type: ignore[union-attr]


def runs(found: Mutant) -> bool:
    """True if a mutant runs at all: what does not is no mutant."""
    case = given_cases(found.original, None)
    names = [node.name for node in found.program.outputs if isinstance(node, fx.Node)]
    try:
        sweep(found.program, case, names)
    except FAILURES:
        return False
    return True
