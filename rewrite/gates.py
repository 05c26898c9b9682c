"""Gates of a program: numbers and tensors that are data, not code. `t` is read as `g * t + h * r`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewrite.address import indices, parse
from rewrite.errors import InputError, SiteError, nearest
from rewrite.records import GateRecord
from rewrite.terms import axis_dims

if TYPE_CHECKING:
    from rewrite.program import Program

Setting = float | Tensor | Mapping[str, Any]  # of a gate at one run


@dataclass(eq=False, slots=True)
class Gate:
    """One gate, or the entries of some members: read `.g`, `.h`, `.r`; assign numbers or tensors, no retracing.

    g = 0 removes the term, (g, h) = (0, 1) puts r in its place, (1, a) adds a * r. r of a family lives in coordinate space.
    `shape` is that of the gated value, with None for sizes that are free; `axis` is the members' axis in it. g and h broadcast to the
    value, so there may be one for each example; those of a family end with the members' axis: [member], or [example, 1, member].
    """

    tensors: dict[str, Tensor]
    record: GateRecord
    shape: tuple[int | None, ...]
    axis: int | None = None
    members: tuple[int, ...] | None = None

    def _get(self, leaf: str) -> Tensor:
        value = self.tensors[leaf]
        return value if self.members is None or value.dim() == 0 else value[..., list(self.members)]

    def _set(self, which: str, leaf: str, value: Any) -> None:
        old = self.tensors[leaf]
        where = f"gate {self.record.address!r}.{which}"
        new = _as_tensor(where, value, old)
        if new.dtype != old.dtype:
            raise InputError(f"{where}: expected {old.dtype}, got {new.dtype}. Convert it.")
        if self.members is not None:
            if which == "r":
                raise InputError(
                    f"{where}: expected the reference of the whole family, got one for a member. Set it on {self.record.address!r}."
                )
            filled = old.clone()
            filled[..., list(self.members)] = _vector(where, new, len(self.members), old.shape[:-1])
            new = filled
        elif self.record.size is not None and which != "r":
            new = _vector(where, new, self.record.size, self.shape[: self.axis])
        elif not _broadcasts(new, self.shape):
            sizes = ["*" if size is None else size for size in self.shape]
            raise InputError(f"{where}: expected a number, or a tensor that broadcasts to {sizes}, got shape {list(new.shape)}.")
        if not bool(torch.isfinite(new).all()):
            raise InputError(f"{where}: expected finite numbers, got inf or nan. They would spoil the sum even behind a gate of 0.")
        self.tensors[leaf] = new.to(old.device)

    @property
    def g(self) -> Tensor:
        """What the term is multiplied by; 1 leaves it as it is."""
        return self._get(self.record.g)

    @g.setter
    def g(self, value: Any) -> None:
        self._set("g", self.record.g, value)

    @property
    def h(self) -> Tensor:
        """What the reference is multiplied by; 0 leaves it out."""
        return self._get(self.record.h)

    @h.setter
    def h(self, value: Any) -> None:
        self._set("h", self.record.h, value)

    @property
    def r(self) -> Tensor:
        """The reference."""
        return self._get(self.record.r)

    @r.setter
    def r(self, value: Any) -> None:
        self._set("r", self.record.r, value)

    @property
    def open(self) -> bool:
        """True at (1, 0), where the gate changes nothing."""
        return bool((self.g == 1).all() and (self.h == 0).all())

    def reset(self) -> None:
        """Puts the gate back to (1, 0, 0)."""
        for leaf, value in ((self.record.g, 1.0), (self.record.h, 0.0), (self.record.r, 0.0)):
            old = self.tensors[leaf]
            shape = () if self.record.size is None or leaf == self.record.r else (self.record.size,)
            self.tensors[leaf] = torch.full(shape, value, dtype=old.dtype, device=old.device)

    def __repr__(self) -> str:
        return f"Gate({self.record.address!r}, {self.numbers})"

    @property
    def numbers(self) -> str:
        """What g, h and r are, in short."""
        return ", ".join(f"{name}={number_text(value)}" for name, value in (("g", self.g), ("h", self.h), ("r", self.r)))


def number_text(value: Tensor) -> str:
    """The shortest text of a single number that reads back as it, else the tensor's shape."""
    if value.numel() != 1:
        return f"tensor{list(value.shape)}"
    return np.format_float_positional(np.float64(value.item()) if value.dtype == torch.float64 else np.float32(value.item()), trim="-")


def _as_tensor(where: str, value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{where}: expected a number or tensor, got {type(value).__name__}. 1 leaves a value, 0 removes it.") from None


def _broadcasts(value: Tensor, shape: tuple[int | None, ...]) -> bool:
    """True if the value broadcasts to the shape without making it larger."""
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    return value.dim() <= len(shape) and all(size in (1, given) or given is None for size, given in pairs)


def _vector(where: str, value: Tensor, size: int, before: tuple[int | None, ...]) -> Tensor:
    """`value` with an entry for each member on its last axis; the axes in front of it broadcast to `before`."""
    if value.dim() == 0:
        return value.expand(size).clone()
    if value.shape[-1] != size or not _broadcasts(value[..., 0], before):
        raise InputError(f"{where}: expected one number or {size}, one per member, got shape {list(value.shape)}.")
    return value


class Gates(Mapping[str, Gate]):
    """The gates of a program by address; a member's address gives that entry of its family's gate."""

    def __init__(self, program: Program, tensors: dict[str, Tensor] | None = None):
        self._program = program
        self._tensors = program.tensors if tensors is None else tensors

    def held(self, values: Mapping[str, Setting]) -> dict[str, Tensor]:
        """The program's tensors with gates set to `values` (a number or tensor sets g, a dict g, h or r); its own gates stay as they are.

        Raises: SiteError for an address that is not gated, InputError for what cannot be set.
        """
        aside = Gates(self._program, dict(self._program.tensors))
        for address, value in values.items():
            gate = aside[address]
            for name, number in (value if isinstance(value, Mapping) else {"g": value}).items():
                if name not in ("g", "h", "r"):
                    raise InputError(f"gate {address!r}: expected values of g, h or r, got one of {name!r}.")
                setattr(gate, name, number)
        return aside._tensors

    def __getitem__(self, address: str) -> Gate:
        records = self._program.gate_records
        if address in records:
            return self._gate(records[address])
        parsed = parse(address)
        record = records.get(parsed.site)
        if parsed.act or parsed.slice is not None:
            raise SiteError(f"gate {address!r}: expected a site, family or member, got a part of one. Set entries of {parsed.site!r}.")
        if record and parsed.member and record.size is not None:
            return self._gate(record, tuple(indices(parsed.member, record.size, address)))
        advice = nearest(address, records) or (" Apply gates.at(address) first." if address in self._program.sites_by_address else "")
        raise SiteError(f"no gate at {address!r} among {len(records)}.{advice}")

    def _gate(self, record: GateRecord, members: tuple[int, ...] | None = None) -> Gate:
        program = self._program
        family = program.families.get(record.address) if record.size is not None else None
        gated = family.operands[family.act] if family else program.sites_by_address[record.address].node
        shape = tuple(size if isinstance(size, int) else None for size in program.nodes[gated].meta["val"].shape)
        axis = (axis_dims(family.equation, family.axis)[family.act] or 0) % len(shape) if family else None
        return Gate(self._tensors, record, shape, axis, members)

    def __repr__(self) -> str:
        rows = [f"{address}  {self[address].numbers}" for address in self]
        return "\n".join(rows) if rows else "no gates: program.apply(gates.at(address))"

    def __contains__(self, address: object) -> bool:
        return address in self._program.gate_records

    def __iter__(self) -> Iterator[str]:
        return iter(self._program.gate_records)

    def __len__(self) -> int:
        return len(self._program.gate_records)
