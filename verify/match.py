"""Matching: which tensor and input of one program is which of the other, and whether matched weights are the same.

Matched leaves get one label and so one random value in a proof; tied weights of the first program are one label. Equal labels say
nothing about content: that is the second obligation, met by the same tensor object or by the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import InputError, nearest
from rewrite.program import Program

WEIGHTS = ("parameter", "buffer")


@dataclass(frozen=True)
class Matching:
    """Labels of the leaves of both programs, by node name, and the input nodes of `b` by those of `a`."""

    a: dict[str, str]
    b: dict[str, str]
    inputs: dict[str, str]
    pairs: tuple[tuple[str, str], ...]  # matched weights: (name in a, name in b)
    copies: dict[str, str]  # copies of inputs that only `b` has: their node, and that of the input in `a` whose value they take


@dataclass(frozen=True)
class WeightCheck:
    """How matched weights compare: how many are one object, how many only the same bits, and which are not the same."""

    same_object: int
    same_bits: int
    different: tuple[str, ...]
    tied_in_one: tuple[str, ...]
    unread: tuple[str, ...] = ()  # on the meta device, and not one object

    @property
    def same(self) -> bool:
        """True if nothing stands against it."""
        return not (self.different or self.tied_in_one or self.unread)


def identity(tensor: Tensor) -> Any:
    """Equal for tensors that are one piece of memory seen the same way."""
    if tensor.is_meta or tensor.data_ptr() == 0:
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def match(a: Program, b: Program, given: Mapping[str, str] | None = None) -> Matching:
    """The matching by equal names, or by `given` (name in b -> name in a) where it says so; inputs of other names by position.

    Raises: InputError for names that do not exist, or inputs that cannot be paired.
    """
    chosen = dict(given or {})
    _check_names(a, b, chosen)
    inputs, copies = _match_inputs(a, b, chosen)
    label_of_name, label_of_tensor = _labels(a)
    labels_a = {node: label_of_name.get(leaf.name, f"input {leaf.name}") for node, leaf in a.leaves.items()}
    labels_b: dict[str, str] = {}
    pairs = []
    for node, leaf in b.leaves.items():
        name = chosen.get(leaf.name, leaf.name)
        if leaf.kind != "input" and name in label_of_name and _may_be_one(a.tensors[name], b.tensors[leaf.name], leaf.kind):
            labels_b[node] = label_of_name[name]
            label_of_tensor.setdefault(identity(b.tensors[leaf.name]), label_of_name[name])
            pairs.append((name, leaf.name))
    for node, leaf in b.leaves.items():
        if leaf.kind != "input" and node not in labels_b:  # another name for a matched tensor, or something new
            labels_b[node] = label_of_tensor.setdefault(identity(b.tensors[leaf.name]), f"other {leaf.name}")
    labels_b |= {theirs: labels_a[ours] for ours, theirs in inputs.items()}
    labels_b |= {copy: labels_a[ours] for copy, ours in copies.items()}
    return Matching(labels_a, labels_b, inputs, tuple(pairs), copies)


def _may_be_one(ours: Tensor, theirs: Tensor, kind: str) -> bool:
    """True if tensors of one name may share a label: weights of other content are told later, constants of passes are told apart here."""
    return ours.shape == theirs.shape and (kind in WEIGHTS or ours is theirs or theirs.is_meta or _same_bits(ours, theirs))


def _labels(a: Program) -> tuple[dict[str, str], dict[Any, str]]:
    by_name: dict[str, str] = {}
    by_tensor: dict[Any, str] = {}
    for leaf in a.leaves.values():
        if leaf.kind != "input":
            by_name[leaf.name] = by_tensor.setdefault(identity(a.tensors[leaf.name]), f"weight {leaf.name}")
    return by_name, by_tensor


def _check_names(a: Program, b: Program, chosen: Mapping[str, str]) -> None:
    ours, theirs = {leaf.name for leaf in a.leaves.values()}, {leaf.name for leaf in b.leaves.values()}
    for name, other in chosen.items():
        if name not in theirs:
            raise InputError(f"match: expected a name of the second program, got {name!r}.{nearest(name, theirs)}")
        if other not in ours:
            raise InputError(f"match[{name!r}]: expected a name of the first program, got {other!r}.{nearest(other, ours)}")
    if len(set(chosen.values())) < len(chosen):
        raise InputError("match: expected each name of the first program once, got one twice. Tied weights are recognised by themselves.")
    for name, other in chosen.items():
        kinds = [_is_input(program, one) for program, one in ((b, name), (a, other))]
        if kinds[0] != kinds[1]:
            found, wanted = ("an input" if is_input else "a weight" for is_input in kinds)
            raise InputError(
                f"match[{name!r}]: expected {found} of the first program, as {name} is one, got {wanted}, {other!r}. Match others."
            )
        if name in b.tensors and other in a.tensors and b.tensors[name].shape != a.tensors[other].shape:
            wanted, found = list(a.tensors[other].shape), list(b.tensors[name].shape)
            raise InputError(f"match[{name!r}]: expected shape {wanted} as of {other!r}, got {found}. Match others.")


def _is_input(program: Program, name: str) -> bool:
    return any(leaf.name == name and leaf.kind == "input" for leaf in program.leaves.values())


def _match_inputs(a: Program, b: Program, chosen: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    ours = {leaf.name: node for node, leaf in a.leaves.items() if leaf.kind == "input"}
    theirs = {leaf.name: node for node, leaf in b.leaves.items() if leaf.kind == "input"}
    copies = {leaf.name: leaf.copy_of for leaf in b.leaves.values() if leaf.copy_of and leaf.name not in ours and leaf.name not in chosen}
    own = {name: theirs.pop(name) for name in copies}
    if len(ours) != len(theirs):
        raise InputError(f"equivalence: expected the same inputs, got {list(ours)} and {list(theirs)}. Trace both with the same arguments.")
    asked = {other: theirs[name] for name, other in chosen.items() if name in theirs}
    left = {name: node for name, node in theirs.items() if name not in chosen}
    rest = [name for name in ours if name not in asked]
    by_name = set(rest) == set(left)
    asked |= {name: left[name] for name in rest} if by_name else dict(zip(rest, left.values(), strict=True))
    pairs = {node: asked[name] for name, node in ours.items()}
    for x, y in pairs.items():
        _check_alike(a.leaves[x].name, a.nodes[x].meta.get("val"), b.nodes[y].meta.get("val"))
    original = {b.leaves[y].name: x for x, y in pairs.items()}
    return pairs, {node: original[copies[name]] for name, node in own.items()}


def _check_alike(name: str, ours: Any, theirs: Any) -> None:
    """Raises: InputError for an input that is of another kind of numbers, or of another shape, in the second program."""
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        alike = isinstance(ours, Tensor) == isinstance(theirs, Tensor)
    else:
        sizes = [(x, y) for x, y in zip(ours.shape, theirs.shape, strict=False) if isinstance(x, int) and isinstance(y, int)]
        alike = ours.dim() == theirs.dim() and _kind(ours) == _kind(theirs) and all(x == y for x, y in sizes)
    if not alike:
        raise InputError(
            f"equivalence: expected the same inputs, got {name} as {_described(ours)} and {_described(theirs)}."
            " Trace both with the same arguments."
        )


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def _described(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_weights(a: Program, b: Program, matching: Matching) -> WeightCheck:
    """Whether matched weights are the same tensors, or hold the same bits, and are tied alike."""
    pairs = [(x, y) for x, y in matching.pairs if _is_weight(a, x) or _is_weight(b, y)]
    objects, bits, different, unread = 0, 0, [], []
    for x, y in pairs:
        ours, theirs = a.tensors[x], b.tensors[y]
        if ours is theirs or identity(ours) == identity(theirs):
            objects += 1
        elif ours.is_meta or theirs.is_meta:
            unread.append(x)
        elif _same_bits(ours, theirs):
            bits += 1
        else:
            different.append(x)
    return WeightCheck(objects, bits, tuple(different), tuple(_tied_in_one(a, b, pairs)), tuple(unread))


def _is_weight(program: Program, name: str) -> bool:
    return any(leaf.name == name and leaf.kind in WEIGHTS for leaf in program.leaves.values())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return not a.is_floating_point() or torch.equal(a.signbit(), b.signbit())
    flat = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*flat)


def _tied_in_one(a: Program, b: Program, pairs: list[tuple[str, str]]) -> Iterator[str]:
    """Names that share memory with an earlier one in one program alone."""
    first: list[dict[Any, int]] = [{}, {}]
    for number, (x, y) in enumerate(pairs):
        groups = [seen.setdefault(identity(p.tensors[name]), number) for seen, p, name in zip(first, (a, b), (x, y), strict=True)]
        if groups[0] != groups[1]:
            yield x
