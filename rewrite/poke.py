"""Poking: one run with some values edited and some read, without making a new program that lasts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
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


def poke(program: Program, inputs: dict[str, Any], edit: dict[str, Edit], read: list[str]) -> tuple[Any, dict[str, Tensor]]:
    """(output, {address: value}) with `edit` in force."""
    known = program.sites_by_address
    wanted = [address for glob in read for address in expand(glob, known)]
    edited = [(glob, address) for glob in edit for address in expand(glob, known)]
    key = ("poke", tuple(address for _, address in edited), tuple(wanted))
    if key not in program._runners:
        program._runners[key] = _compile(program, [address for _, address in edited], wanted)
    extras = {f"edit_{i}": _edit(edit[glob], address) for i, (glob, address) in enumerate(edited)}
    flat = program._runners[key](program.tensors, {**inputs, **extras})
    count = len(program.outputs)
    return restore(program, flat[:count]), dict(zip(wanted, flat[count:], strict=True))


def expand(glob: str, known: Mapping[str, Any]) -> list[str]:
    """The full addresses, members and slices kept, that `glob` names.

    Raises: SiteError naming the nearest sites if there is none.
    """
    if glob in known:
        return [glob]
    parsed = parse(glob)
    tail = glob[len(parsed.site) :]
    found = [address + tail for address in matching(parsed.site, known)]
    if not found:
        raise SiteError(
            f"no site matches {parsed.site!r} among {len(known)}.{nearest(parsed.site, known) or ' List them with program.sites().'}"
        )
    return found


def _compile(program: Program, edited: list[str], wanted: list[str]) -> Runner:
    splicer = Splicer(program)
    extras = [_insert_edit(splicer, _parsed(splicer, address), i) for i, address in enumerate(edited)]
    nodes = [_value(splicer, _parsed(splicer, address)) for address in wanted]
    outputs = splicer.graph.output_node().args[0]
    return Runner(splicer.graph, [*outputs, *nodes], splicer.leaves, extras)  # type: ignore[misc]


def _parsed(splicer: Splicer, address: str) -> Address:
    return Address(address, address) if address in splicer.sites else parse(address)


def _edit(value: Edit, address: str) -> Callable[[Tensor], Tensor]:
    def replaced(old: Tensor) -> Tensor:
        new = value(old) if callable(value) and not isinstance(value, Tensor) else value
        new = new if isinstance(new, Tensor) else torch.full_like(old, new)
        try:
            return new.to(old.dtype).expand(old.shape)
        except RuntimeError:
            raise InputError(f"edit of {address}: expected a value that broadcasts to {list(old.shape)}, got {list(new.shape)}.") from None

    return replaced


def _sliced(function: Callable[[Tensor], Tensor], value: Tensor, index: Any) -> Tensor:
    new = value.clone()
    new[index] = function(value[index])
    return new


def _insert_edit(splicer: Splicer, address: Address, number: int) -> str:
    site = splicer.site(address.site)
    record = splicer.families.get(address.site)
    placeholder = splicer.extra_input(f"edit_{number}")
    if record is not None and (address.act or address.member is not None):
        cut = splicer.cut_family(record)
        value = _edited_family(splicer, record, address, placeholder)
    elif address.act or address.member is not None:
        raise SiteError(f"{address.text}: expected a family, got a {site.kind}. Members and @act belong to families.")
    else:
        cut = splicer.cut(site)
        value = _called(splicer, placeholder, cut.node, address)
    splicer.redirect(cut, value)
    return placeholder.name


def _called(splicer: Splicer, function: fx.Node, value: fx.Node, address: Address) -> fx.Node:
    anchor, fake = splicer.after([value]), value.meta["val"]
    if address.slice is None:
        return splicer.call(anchor, operator.call, (function, value), (), fake)
    return splicer.call(anchor, _sliced, (function, value, slices(address.slice, address.text)), (), fake)


def _edited_family(splicer: Splicer, record: FamilyRecord, address: Address, function: fx.Node) -> fx.Node:
    """The family's new total: with a member's coordinate (`@act`) edited, or its contribution."""
    operands = [splicer.nodes[name] for name in record.operands]
    members = None if address.member is None else indices(address.member, record.size, address.text)
    anchor = splicer.after(operands)
    if address.act:
        dim = axis_dims(record.equation, record.axis)[record.act]
        index = None if address.slice is None else slices(address.slice, address.text)
        act = operands[record.act]
        operands[record.act] = splicer.call(anchor, _edit_coordinate, (function, act, dim, members, index), (), act.meta["val"])
        names = tuple(node.name for node in operands)
        total = splicer.call(operands[record.act], _total, (record.equation, *operands), (), splicer.nodes[record.total].meta["val"])
        splicer.add_family(replace(record, operands=names, total=total.name))
        return total
    index = None if address.slice is None else slices(address.slice, address.text)
    total = splicer.nodes[record.total]
    args = (function, total, record.equation, record.axis, members, index, *operands)
    return splicer.call(splicer.after([total, *operands]), _edit_members, args, (), total.meta["val"])


def _total(equation: str, *operands: Tensor) -> Tensor:
    return family.total(equation, operands)


def _edit_coordinate(function: Any, act: Tensor, dim: int, members: list[int] | None, index: Any) -> Tensor:
    moved = act.movedim(dim, 0)
    picked = moved if members is None else moved[list(members)]
    inner = picked.movedim(0, dim) if members is None or len(members) > 1 else picked.squeeze(0)
    new = function(inner) if index is None else _sliced(function, inner, index)
    if members is None:
        return new
    result = moved.clone()
    result[list(members)] = new.movedim(dim, 0) if len(members) > 1 else new.unsqueeze(0)
    return result.movedim(0, dim)


def _edit_members(function: Any, total: Tensor, equation: str, axis: str, members: list[int], index: Any, *operands: Tensor) -> Tensor:
    found = Family(
        equation, *operands, axis=axis, act=next(o for o, d in zip(operands, axis_dims(equation, axis), strict=True) if d is not None)
    )
    for member in members:
        old = found[member]
        total = total + ((function(old) if index is None else _sliced(function, old, index)) - old)
    return total


def _value(splicer: Splicer, address: Address) -> fx.Node:
    """The node that holds the value of an address: of a member, coordinate or slice it is made."""
    node, record = splicer.nodes[splicer.site(address.site).node], splicer.families.get(address.site)
    if address.act or address.member is not None:
        if record is None:
            raise SiteError(f"{address.text}: expected a family, got {address.site!r}, which is none. Members and @act belong to families.")
        members = None if address.member is None else indices(address.member, record.size, address.text)
        operands = [splicer.nodes[name] for name in record.operands]
        if address.act:
            dim = axis_dims(record.equation, record.axis)[record.act]
            act = operands[record.act]
            node = splicer.call(splicer.after([act]), _coordinate, (act, dim, members), (), None)
        else:
            node = splicer.call(splicer.after(operands), _members, (record.equation, record.axis, members, *operands), (), None)
    if address.slice is not None:
        node = splicer.call(splicer.after([node]), operator.getitem, (node, slices(address.slice, address.text)), (), None)
    return node


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
