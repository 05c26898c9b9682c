"""Poking: one run with some values edited and some read, without making a new program that lasts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite import family
from rewrite.address import Address, indices, matching, parse, slices
from rewrite.call import restore
from rewrite.errors import InputError, SiteError, nearest
from rewrite.records import Edit, FamilyRecord
from rewrite.run import Runner
from rewrite.splice import Splicer
from rewrite.terms import Family, axis_dims

if TYPE_CHECKING:
    from rewrite.program import Program


def poke(
    program: Program, tensors: Mapping[str, Tensor], inputs: dict[str, Any], edit: dict[str, Edit], read: list[str]
) -> tuple[Any, dict[str, Tensor]]:
    """(output, {address: value}) with `edit` in force; `tensors` are the program's, perhaps with other gates."""
    known = program.sites_by_address
    wanted = [address for glob in read for address in expand(glob, known)]
    edited = [(glob, address) for glob in edit for address in expand(glob, known)]
    key = ("poke", tuple(address for _, address in edited), tuple(wanted))
    if key not in program._runners:
        program._runners[key] = _compile(program, [address for _, address in edited], wanted)
    runner = program._runners[key]
    functions = [_edit(edit[glob], address) for glob, address in edited]
    flat = runner(tensors, {**inputs, **dict(zip(runner.extra, functions, strict=True))})
    count = len(program.outputs)
    return restore(program, flat[:count]), dict(zip(wanted, flat[count:], strict=True))


def expand(glob: str, known: Mapping[str, Any]) -> list[str]:
    """The full addresses, members and slices kept, that `glob` names.

    Raises: SiteError naming the nearest sites if there is none.
    """
    if glob in known:
        return [glob]
    parsed = parse(glob)
    found = [parsed.of(address) for address in matching(parsed.site, known)]
    if not found:
        raise SiteError(
            f"no site matches {parsed.site!r} among {len(known)}.{nearest(parsed.site, known) or ' List them with program.sites().'}"
        )
    return found


def _compile(program: Program, edited: list[str], wanted: list[str]) -> Runner:
    plan = _Plan(Splicer(program))
    extras = [plan.insert(plan.parsed(address)) for address in edited]
    nodes = [plan.value(plan.parsed(address)) for address in wanted]
    splicer = plan.splicer
    return Runner(splicer.graph, [*splicer.graph.output_node().args[0], *nodes], splicer.leaves, extras)  # type: ignore[misc]


def with_edits(program: Program, edited: Sequence[str]) -> tuple[Splicer, list[str]]:
    """A fork of the program with an edit at each address, and the names of the placeholders of their functions."""
    plan = _Plan(Splicer(program))
    return plan.splicer, [plan.insert(plan.parsed(address)) for address in edited]


def _edit(value: Edit, address: str) -> Callable[[Tensor], Tensor]:
    if not isinstance(value, Tensor | bool | int | float) and not callable(value):
        raise InputError(f"edit of {address}: expected a number, a tensor or a function of the value, got {type(value).__name__}.")

    def replaced(old: Tensor) -> Tensor:
        new = value(old) if callable(value) and not isinstance(value, Tensor) else value
        if not isinstance(new, Tensor | bool | int | float):
            raise InputError(f"edit of {address}: expected a function that returns a tensor or number, got {type(new).__name__}.")
        new = new if isinstance(new, Tensor) else torch.full_like(old, new)
        if new.is_complex() and not old.is_complex():
            raise InputError(f"edit of {address}: expected {old.dtype}, got {new.dtype}. Give its real part.")
        try:
            return new.to(old).expand(old.shape)
        except RuntimeError:
            raise InputError(f"edit of {address}: expected a value that broadcasts to {list(old.shape)}, got {list(new.shape)}.") from None

    return replaced


def _entry(value: Tensor, index: Any, what: str) -> Tensor:
    try:
        return value[index]
    except (IndexError, ValueError) as error:
        raise SiteError(f"{what}: expected entries of a value of shape {list(value.shape)}, got others ({error}).") from None


def _sliced(function: Callable[[Tensor], Tensor], value: Tensor, index: Any, what: str) -> Tensor:
    new = value.clone()
    new[index] = function(_entry(value, index, what))
    return new


def _exchanged(total: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return total + (new - old)


@dataclass
class _Plan:
    """A fork of the graph for one kind of run. `members` says which members of a family were edited: the old and the new value."""

    splicer: Splicer
    members: dict[str, list[tuple[set[int], fx.Node, fx.Node]]] = field(default_factory=dict)

    def parsed(self, address: str) -> Address:
        """The address, taken as a site's if one is called that."""
        return Address(address, address) if address in self.splicer.sites else parse(address)

    def insert(self, address: Address) -> str:
        """Puts an edit at the address, and returns the name of the placeholder of its function."""
        splicer, site = self.splicer, self.splicer.site(address.site)
        function = splicer.extra_input("edit")
        if not address.act and address.member is None:
            cut = splicer.cut(site)
            value = self._called(function, cut.node, address)
        else:
            record = self._family(address)
            cut = splicer.cut_family(record)
            value = self._edited_coordinate(record, address, function) if address.act else self._edited_members(record, address, function)
        splicer.redirect(cut, value)
        return function.name

    def _family(self, address: Address) -> FamilyRecord:
        record = self.splicer.families.get(address.site)
        if record is None:
            raise SiteError(f"{address.text}: expected a family, got {address.site!r}, which is none. Members and @act belong to families.")
        return record

    def _called(self, function: fx.Node, value: fx.Node, address: Address) -> fx.Node:
        anchor, fake = self.splicer.after([value]), value.meta["val"]
        if address.slice is None:
            return self.splicer.call(anchor, operator.call, (function, value), (), fake)
        return self.splicer.call(anchor, _sliced, (function, value, slices(address.slice, address.text), address.text), (), fake)

    def _edited_coordinate(self, record: FamilyRecord, address: Address, function: fx.Node) -> fx.Node:
        """The family's new total with the coordinate (`@act`) of some or all members edited."""
        splicer = self.splicer
        operands = [splicer.nodes[name] for name in record.operands]
        members = None if address.member is None else _picked(address, record)
        dim = axis_dims(record.equation, record.axis)[record.act]
        index = None if address.slice is None else slices(address.slice, address.text)
        act = operands[record.act]
        args = (function, act, dim, members, index, address.text)
        operands[record.act] = splicer.call(splicer.after(operands), _edit_coordinate, args, (), act.meta["val"])
        splicer.redirect_coordinate(record, operands[record.act])
        names = tuple(node.name for node in operands)
        total = splicer.call(operands[record.act], _total, (record.equation, *operands), (), splicer.nodes[record.total].meta["val"])
        splicer.add_family(replace(record, operands=names, total=total.name))
        return total

    def _edited_members(self, record: FamilyRecord, address: Address, function: fx.Node) -> fx.Node:
        """The family's new total with the sum of some members edited."""
        members, total = _picked(address, record), self.splicer.nodes[record.total]
        old = self._sum(record, members, address)
        new = self._called(function, old, address)
        self.members.setdefault(record.address, []).append((set(members), old, new))
        return self.splicer.call(self.splicer.after([total, new]), _exchanged, (total, old, new), (), total.meta["val"])

    def _sum(self, record: FamilyRecord, members: list[int], address: Address) -> fx.Node:
        """The sum of some members' contributions, edits included."""
        splicer = self.splicer
        operands = [splicer.nodes[name] for name in record.operands]
        args = (record.equation, record.axis, members, *operands)
        node = splicer.call(splicer.after(operands), _members, args, (), splicer.nodes[record.total].meta["val"])
        for edited, old, new in self.members.get(record.address, []):
            if edited & set(members) and not edited <= set(members):
                raise SiteError(f"{address.text}: expected members apart from {sorted(edited)}, edited together, got some of these.")
            if edited <= set(members):
                node = splicer.call(splicer.after([node, new]), _exchanged, (node, old, new), (), node.meta["val"])
        return node

    def value(self, address: Address) -> fx.Node:
        """The node that holds the value of an address: of a member, coordinate or slice it is made."""
        splicer = self.splicer
        node = splicer.nodes[splicer.site(address.site).node]
        if address.act:
            record = self._family(address)
            dim = axis_dims(record.equation, record.axis)[record.act]
            act = splicer.nodes[record.operands[record.act]]
            members = None if address.member is None else _picked(address, record)
            node = splicer.call(splicer.after([act]), _coordinate, (act, dim, members), (), None)
        elif address.member is not None:
            record = self._family(address)
            node = self._sum(record, _picked(address, record), address)
        if address.slice is not None:
            index = slices(address.slice, address.text)
            node = splicer.call(splicer.after([node]), _entry, (node, index, address.text), (), None)
        return node


def _picked(address: Address, record: FamilyRecord) -> list[int]:
    return indices(address.member or "", record.size, address.text)


def _total(equation: str, *operands: Tensor) -> Tensor:
    return family.total(equation, operands)


def _edit_coordinate(function: Any, act: Tensor, dim: int, members: list[int] | None, index: Any, what: str) -> Tensor:
    moved = act.movedim(dim, 0)
    picked = moved if members is None else moved[list(members)]
    inner = picked.movedim(0, dim) if members is None or len(members) > 1 else picked.squeeze(0)
    new = function(inner) if index is None else _sliced(function, inner, index, what)
    if members is None:
        return new
    result = moved.clone()
    result[list(members)] = new.movedim(dim, 0) if len(members) > 1 else new.unsqueeze(0)
    return result.movedim(0, dim)


def _coordinate(act: Tensor, dim: int, members: list[int] | None) -> Tensor:
    if members is None:
        return act
    return act.select(dim, members[0]) if len(members) == 1 else act.index_select(dim, torch.tensor(members, device=act.device))


def _members(equation: str, axis: str, members: list[int], *operands: Tensor) -> Tensor:
    found = Family(
        equation, *operands, axis=axis, act=next(o for o, d in zip(operands, axis_dims(equation, axis), strict=True) if d is not None)
    )
    total = found[members[0]]
    for member in members[1:]:
        total = total + found[member]
    return total
