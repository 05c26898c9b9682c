"""The precision ladder: is a float difference only rounding, and is the rewritten program usable in floats?

Rounding is linear in the unit roundoff, so between float32 and float64 the difference of two equal programs shrinks by 2^29; a wrong
rewrite keeps a part that does not. `rho` is the difference in float64 in units of what rounding explains, calibrated by each program's
own distance from its float64 run: correct rewrites were measured at 0.15 to 1.1, wrong ones from 2e6 on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import InputError
from rewrite.program import Program
from verify.gap import Gap, gap, largest_of, ulp
from verify.match import Matching, identity
from verify.shadow import REFUSALS, CannotLift, Case, plain_leaves, plain_nodes, sweep

ROUNDING, DIFFERENT = 64.0, 1e4  # rho up to which a difference is only rounding, and from which it is another function
LOST = 2.0**20  # ulp: a derived constant that far off in float32 is not there (d / d.d that underflows), and an edit of it does nothing
USABLE, UNUSABLE = 4.0, 100.0  # amplification of rounding: fine up to the first, unusable in float32 from the second
HALF = (torch.float16, torch.bfloat16)
Runs = tuple[dict[str, Any], dict[str, Any]]  # of both, values by node


@dataclass(frozen=True)
class Drift:
    """What float runs showed. `reason` says why they were not made. Units: `kl` nats, `constants` ulp."""

    outputs: Gap = field(default_factory=Gap)
    gradients: Gap | None = None
    shapes: tuple[str, ...] = ()
    kl: float | None = None
    flips: tuple[int, int] | None = None  # top-1 flips, of positions
    constants: tuple[int, float] | None = None  # derived constants, and the worst error of one
    half: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ran(self) -> bool:
        """True if there were float runs."""
        return not self.reason

    @property
    def verdict(self) -> str:
        """ "rounding only", "inconclusive" or "different"."""
        rho = max(self.outputs.rho, self.gradients.rho if self.gradients else 0.0)
        return "rounding only" if rho <= ROUNDING else "inconclusive" if rho <= DIFFERENT else "different"

    @property
    def usable(self) -> str:
        """ "usable", "less accurate" or "unusable in float32"."""
        lost = self.constants is not None and not self.constants[1] <= LOST
        a = math.inf if lost else self.outputs.amplification
        return "usable" if a <= USABLE else "less accurate" if a <= UNUSABLE else "unusable in float32"


@dataclass(frozen=True)
class Sides:
    """Two programs to run side by side: which nodes to compare, and the tensors that stand in for those of `b`."""

    a: Program
    b: Program
    matching: Matching
    outputs: tuple[tuple[str, str, str], ...]  # (name, node of a, node of b)
    override: Mapping[str, Tensor] = field(default_factory=dict)

    def of_b(self, case: Case) -> Case:
        """A case of `a` by the placeholders of `b`."""
        own = {self.matching.inputs.get(name, name): value for name, value in case.items()}
        return own | {copy: case[name] for copy, name in self.matching.copies.items() if name in case}

    def run(self, cases: Sequence[Case], dtype: torch.dtype, rounded: bool = False) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The outputs of both for each case, by node name. `rounded` as in `sweep`."""
        ours = sweep(self.a, cases, [x for _, x, _ in self.outputs], dtype, rounded=rounded)
        own = [self.of_b(case) for case in cases]
        return ours, sweep(self.b, own, [y for _, _, y in self.outputs], dtype, tensors=self.override, rounded=rounded)


def nearer(sides: Sides, measure: Callable[[bool], Gap]) -> Gap:
    """What `measure(rounded)` finds in the reading of plain numbers (see `sweep`) in which the two programs are nearer to each other."""
    found = measure(False)
    if found.rho <= ROUNDING or not any(_rounds(program) for program in (sides.a, sides.b)):
        return found
    return min(found, measure(True), key=lambda one: one.rho)


def _rounds(program: Program) -> bool:
    """True if the two readings of plain numbers may be different."""
    return any(_float(node) for node in plain_nodes(program, program.graph.nodes) if node.op == "call_function")


def _gap(outputs: Sequence[tuple[str, str, str]], low: Runs, high: Runs) -> Gap:
    total = Gap()
    for name, x, y in outputs:
        total = total.worst(gap(low[0][x], low[1][y], high[0][x], high[1][y], name))
    return total


def ladder(sides: Sides, cases: Sequence[Case], more: Sequence[Case] = (), gradients: bool = False) -> Drift:
    """What runs in float32 and float64 show, on `cases` and on `more` (other shapes), which are left out where `a` does not run."""
    if any(t.is_meta for p in (sides.a, sides.b) for t in p.tensors.values()) or any(
        isinstance(v, Tensor) and v.is_meta for c in cases for v in c.values()
    ):
        return Drift(reason="no values: tensors on the meta device")
    try:
        drift = _runs(sides, cases, more)
        return replace(drift, gradients=gradient_gap(sides, cases[0]) if gradients else None)
    except CannotLift as why:
        return Drift(reason=str(why))
    except REFUSALS as error:
        reason = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:120]}"
        raise InputError(f"equivalence: expected inputs that both programs run on, got {reason}. Give others with inputs=.") from None


def _runs(sides: Sides, cases: Sequence[Case], more: Sequence[Case]) -> Drift:
    try:
        tried = [*cases, *more]
        low = sides.run(tried, torch.float32)
    except REFUSALS:
        tried = list(cases)
        low = sides.run(tried, torch.float32)
    high = sides.run(tried, torch.float64)
    total = Gap()
    for case, p, q, r, s in zip(tried, *low, *high, strict=True):
        known = _gap(sides.outputs, (p, q), (r, s))
        total = total.worst(nearer(sides, lambda rounded, case=case, known=known: _again(sides, case) if rounded else known))
    kl, flips = _predictions(sides, low, high)
    shapes = tuple(dict.fromkeys(_shape_text(sides.a, case) for case in tried))
    return Drift(outputs=total, shapes=shapes, kl=kl, flips=flips, constants=_constants(sides), half=_half(sides, cases[0]))


def _again(sides: Sides, case: Case) -> Gap:
    """The gap with plain numbers rounded as traced."""
    low, high = (sides.run([case], dtype, rounded=True) for dtype in (torch.float32, torch.float64))
    return _gap(sides.outputs, (low[0][0], low[1][0]), (high[0][0], high[1][0]))


def _shape_text(program: Program, case: Case) -> str:
    return ", ".join(f"{program.leaves[n].name} {list(v.shape)}" for n, v in case.items() if isinstance(v, Tensor))


def _predictions(sides: Sides, low: Any, high: Any) -> tuple[float | None, tuple[int, int] | None]:
    """KL(P in float64 || Q in float32), the largest over positions, and top-1 flips, where outputs are logits."""
    kl, flipped, positions = 0.0, 0, 0
    for name, x, y in sides.outputs:
        if "logit" not in name.lower():
            continue
        for p, q in zip(high[0], low[1], strict=True):
            if not isinstance(p[x], Tensor) or p[x].dim() < 1 or p[x].shape != q[y].shape or p[x].shape[-1] < 2 or not p[x].numel():
                continue
            kl = max(kl, float(_kl(p[x], q[y]).max()))
            flipped += int((p[x].argmax(-1) != q[y].argmax(-1)).sum())
            positions += p[x][..., 0].numel()
    return (kl, (flipped, positions)) if positions else (None, None)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    given, p, q = p, p.double().log_softmax(-1), q.double().log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1).clamp(min=0)
    return divergence.nan_to_num(nan=math.inf).where(given.isfinite().all(-1), 0.0)  # where the original is no number, nothing is said


def _constants(sides: Sides) -> tuple[int, float] | None:
    """How many derived constants `b` has of its own, and how far float32 puts the worst one off, in ulp of its largest element."""
    b, known = sides.b, sides.a.nodes if sides.b.traced_from is sides.a else {}
    varying = {n for n, leaf in b.leaves.items() if leaf.kind == "input"}
    derived = []
    for node in b.graph.nodes:
        if any(n.name in varying for n in node.all_input_nodes):
            varying.add(node.name)
        elif node.op == "call_function" and node.name not in known and node.all_input_nodes and _float(node):
            derived.append(node)
    wanted = [node.name for node in derived if any(user.name in varying for user in node.users)]
    if not wanted:
        return None
    low, high = (sweep(b, [{}], wanted, dtype, tensors=sides.override)[0] for dtype in (torch.float32, torch.float64))
    return len(wanted), max(_off(low[n], high[n]) for n in wanted)


def _float(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _off(low: Tensor, high: Tensor) -> float:
    return largest_of(low.double() - high) / ulp(high) if low.numel() and bool(high.isfinite().all()) else 0.0


def _half(sides: Sides, case: Case) -> str:
    """One line on the programs as shipped, if that is in half precision: reported, never a verdict."""
    dtypes = {t.dtype for t in sides.a.tensors.values()} & set(HALF)
    if not dtypes:
        return ""
    p = sweep(sides.a, [case], [x for _, x, _ in sides.outputs])[0]
    q = sweep(sides.b, [sides.of_b(case)], [y for _, _, y in sides.outputs], tensors=sides.override)[0]
    largest = max((_relative(p[x], q[y]) for _, x, y in sides.outputs if isinstance(p[x], Tensor)), default=0.0)
    return f"as shipped in {', '.join(str(d).removeprefix('torch.') for d in dtypes)}: relative difference {largest:.1e}"


def _relative(p: Tensor, q: Tensor) -> float:
    return (
        largest_of((p - q).double().nan_to_num()) / max(largest_of(p.double().nan_to_num()), 1e-300)
        if p.numel() and p.is_floating_point()
        else 0.0
    )


# Gradients: vector-Jacobian products of one random cotangent, with respect to float inputs and matched weights


def gradient_gap(sides: Sides, case: Case) -> Gap:
    """The worst gap over the gradients of one random cotangent."""
    return nearer(sides, lambda rounded: _gradient_gap(sides, case, rounded))


def _gradient_gap(sides: Sides, case: Case, rounded: bool) -> Gap:
    p32, p64 = (_products(sides, "a", case, d, rounded) for d in (torch.float32, torch.float64))
    q32, q64 = (_products(sides, "b", case, d, rounded) for d in (torch.float32, torch.float64))
    total = Gap()
    largest = max((largest_of(g) for g in p64.values() if g.numel()), default=0.0)
    for label in p64:
        # a gradient that is zero in exact arithmetic is all rounding: measured beside the largest one
        pad = lambda g: torch.cat([g.double().reshape(-1), torch.full((1,), largest, dtype=torch.float64)])  # noqa: E731
        zero = torch.zeros_like(p64[label])
        total = total.worst(gap(pad(p32[label]), pad(q32.get(label, zero)), pad(p64[label]), pad(q64.get(label, zero)), label))
    return total


def _products(sides: Sides, side: str, case: Case, dtype: torch.dtype, rounded: bool) -> dict[str, Tensor]:
    """Gradients by label. Tied weights are one leaf; plain leaves and buffers, which nobody trains, are none."""
    program, labels = (sides.a, sides.matching.a) if side == "a" else (sides.b, sides.matching.b)
    values, nodes = (case, [x for _, x, _ in sides.outputs]) if side == "a" else (sides.of_b(case), [y for _, _, y in sides.outputs])
    override = sides.override if side == "b" else {}
    shared: dict[Any, Tensor] = {}
    leaves: dict[str, Tensor] = {}
    tensors, inputs, plain = {}, dict(values), plain_leaves(program)
    for node, leaf in program.leaves.items():
        source = values[node] if leaf.kind == "input" else override.get(leaf.name, program.tensors[leaf.name])
        if not isinstance(source, Tensor) or not source.is_floating_point() or node in plain or leaf.kind == "buffer":
            continue
        own = shared.setdefault(identity(source), source.detach().to(dtype, copy=True).requires_grad_())
        if leaf.kind == "input":
            inputs[node] = own
        else:
            tensors[leaf.name] = own
        leaves.setdefault(labels[node], own)
    out = sweep(program, [inputs], nodes, dtype, tensors=tensors, keep=True, rounded=rounded)[0]
    pairs = [(out[n], _cotangent(out[n], i)) for i, n in enumerate(nodes) if isinstance(out[n], Tensor) and out[n].requires_grad]
    if not pairs:
        return {label: torch.zeros_like(t) for label, t in leaves.items()}
    found = torch.autograd.grad([o for o, _ in pairs], list(leaves.values()), [c for _, c in pairs], allow_unused=True)
    return {label: torch.zeros_like(t) if g is None else g for (label, t), g in zip(leaves.items(), found, strict=True)}


def _cotangent(value: Tensor, number: int) -> Tensor:
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64).to(value.dtype)
