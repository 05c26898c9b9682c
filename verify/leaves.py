"""What the leaves of a program are worth in a proof: random values under a label, token ids, or plain data taken as it is.

Parameters, persistent float buffers and float inputs are random; non-persistent buffers, integers and masks are what they are. A
constant of the traced model is what it is, one that a pass brought along (a direction) is random: the proof is then for any. Gates g
and h are the numbers that they hold, references are random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor

from rewrite.errors import InputError
from rewrite.gates import number_text
from rewrite.program import Program
from rewrite.records import Leaf
from verify.roles import Role
from verify.shadow import Case
from verify.world import World, concrete


@dataclass(frozen=True)
class LeafValue:
    """One leaf: `label` names what is random, `data` is what is plain; `shape` and `dtype` are of either."""

    kind: Literal["random", "ids", "plain", "number"]
    label: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    data: Any = None

    def value(self, world: World) -> Any:
        """The leaf in a world."""
        if self.kind == "random":
            assert self.dtype is not None
            return replace(world.tensor(self.label, self.shape), dtype=self.dtype)
        if self.kind == "number":
            return self.data
        return concrete(self.data, role="ids" if self.kind == "ids" else "mask", label=self.label, world=world)

    def content(self) -> Any:
        """Equal for leaves that hold the same plain data."""
        if not isinstance(self.data, Tensor):
            return repr(self.data)
        return self.dtype, self.shape, digest(self.data)


def digest(tensor: Tensor) -> bytes:
    """Equal for tensors of the same bits."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return blake2b(raw, digest_size=16).digest()


def leaf_values(
    program: Program,
    labels: Mapping[str, str],
    case: Case,
    roles: Mapping[str, Role],
    *,
    exact_constants: bool = False,
    open_gates: bool = False,
) -> dict[str, LeafValue]:
    """What each placeholder is worth, by node name. `exact_constants` takes the constants of passes as the numbers they hold.

    `open_gates` takes every gate at (1, 0). `case` holds the program's own inputs.
    """
    gates = _gate_numbers(program) if open_gates else {}
    traced = {leaf.name for leaf in program.origin.leaves.values()}
    found = {}
    for node, leaf in program.leaves.items():
        if leaf.kind == "input":
            found[node] = _input(leaf.name, case.get(node), labels[node], roles.get(leaf.name))
            continue
        tensor = program.tensors[leaf.name].detach()
        if tensor.is_meta and not tensor.is_floating_point():
            found[node] = LeafValue("ids", labels[node], tuple(tensor.shape), tensor.dtype, torch.zeros_like(tensor, device="cpu"))
            continue
        if leaf.name in gates:
            tensor = torch.full_like(tensor, gates[leaf.name])
        free = _random(program, leaf, tensor, leaf.name in traced, exact_constants)
        kind: Literal["random", "plain"] = "random" if free else "plain"
        found[node] = LeafValue(kind, labels[node], tuple(tensor.shape), tensor.dtype, None if free else tensor.cpu())
    return found


def _gate_numbers(program: Program) -> dict[str, float]:
    return {name: number for record in program.gate_records.values() for name, number in ((record.g, 1.0), (record.h, 0.0))}


def _random(program: Program, leaf: Leaf, tensor: Tensor, traced: bool, exact_constants: bool) -> bool:
    if not tensor.is_floating_point() and not tensor.is_complex():
        return False
    if tensor.is_meta:
        return True
    if leaf.kind == "gate":
        return not any(leaf.name in (record.g, record.h) for record in program.gate_records.values())
    if leaf.kind == "constant" and (traced or exact_constants):
        return False
    if leaf.kind == "buffer" and not leaf.persistent:
        return False
    return leaf.kind == "parameter" or not _masking(tensor)


def _masking(tensor: Tensor) -> bool:
    """True if some element is -inf or a smallest number: a mask, not a weight."""
    return not bool(tensor.isfinite().all()) or bool((tensor == torch.finfo(tensor.dtype).min).any())


def _input(name: str, value: Any, label: str, role: Role | None) -> LeafValue:
    if not isinstance(value, Tensor):
        return LeafValue("number", label, (), None, value)
    if value.is_meta and role == "mask":
        raise InputError(f"{name}: expected a mask with values, got one on the meta device. Give inputs= with real masks.")
    kind: Literal["random", "ids", "plain"] = "random" if role == "values" else "ids" if role == "ids" else "plain"
    data = None if kind == "random" else torch.zeros_like(value, device="cpu") if value.is_meta else value.detach().cpu()
    return LeafValue(kind, label, tuple(value.shape), value.dtype, data)


def closed_gates(program: Program) -> dict[str, str]:
    """The gates that are not at (1, 0), with the numbers that they hold."""
    found = {}
    for address, record in program.gate_records.items():
        g, h = program.tensors[record.g], program.tensors[record.h]
        if g.is_meta or h.is_meta or (bool((g == 1).all()) and bool((h == 0).all())):
            continue
        found[address] = f"(g, h) = ({_numbers(g)}, {_numbers(h)})"
    return found


def _numbers(t: Tensor) -> str:
    return number_text(t) if t.numel() == 1 else f"{t.numel()} numbers"
