"""A toy program's value as an expression: every element of a site in the symbols of the model's own weights and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
import torch

from rewrite.address import Address, indices, parse, slices
from rewrite.call import bind
from rewrite.errors import InputError, SiteError, nearest
from rewrite.poke import expand
from rewrite.program import Program
from rewrite.terms import axis_dims
from verify.formulas.letters import tex_names
from verify.formulas.symbolic import MOST, Unknown, evaluate
from verify.formulas.symbols import Array, numeric, written_out
from verify.leaves import leaf_values
from verify.roles import roles_of

LONGEST = 100_000  # operations of an expression that is printed


@dataclass(frozen=True, eq=False)
class Formula:
    """Every element of a site's value as a sympy expression.

    `array` holds them, in the site's shape; `symbols` the symbols of each weight, input and given site, in its shape; `tex` how each
    is written in LaTeX. Numbering starts at zero, as in Python.
    """

    site: str
    array: Array
    symbols: dict[str, Array]
    tex: dict[sympy.Symbol, str]
    head: str  # the site in LaTeX

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def written_out(self) -> Formula:
        """The same with every activation (gelu, silu, ...) replaced by its definition."""
        known: dict[Any, Any] = {}
        return replace(self, array=_each(lambda e: written_out(e, known), self.array))

    def evaluate(self, values: Mapping[str, Any]) -> Array:
        """The elements in float64, for the numbers `values` (tensors, by the names in `symbols`). Shapes: the site's."""
        missing = [name for name in self.symbols if name not in values]
        if missing:
            raise InputError(f"evaluate: expected values for {list(self.symbols)}, got none for {missing[0]!r}.")
        given = {name: torch.as_tensor(values[name]).detach().double() for name in self.symbols}
        letters = [s for array in self.symbols.values() for s in array.flat]
        numbers = [x for tensor in given.values() for x in tensor.flatten().tolist()]
        if len(letters) != len(numbers):
            raise InputError(f"evaluate: expected {len(letters)} numbers in the shapes of `symbols`, got {len(numbers)}.")
        known: dict[Any, Any] = dict(zip(letters, numbers, strict=True))
        return np.array([numeric(e, known) for e in self.array.flat], dtype=float).reshape(self.array.shape)

    def __str__(self) -> str:
        self._check_length()
        return "\n".join(f"{self.site}{_place(at, ', ')} = {self.array[at]}" for at in np.ndindex(self.array.shape))

    def latex(self) -> str:
        """One aligned line for each element; axes of size one are left out of the numbering."""
        self._check_length()
        rows = []
        for at in np.ndindex(self.array.shape):
            shown = tuple(i for i, size in zip(at, self.array.shape, strict=True) if size > 1)
            place = ("," if max(self.array.shape, default=0) > 10 else "").join(map(str, shown))
            rows.append(f"{self.head}{f'_{{{place}}}' if place else ''} &= {sympy.latex(self.array[at], symbol_names=self.tex)}")
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    def _check_length(self) -> None:
        known: dict[Any, int] = {}
        length = sum(_length(e, known) for e in self.array.flat)
        if length > LONGEST:
            raise InputError(
                f"formula of {self.site}: expected at most {LONGEST} operations to print, got {length:.3g}. "
                "Stop at sites on the way with given=."
            )


def formula(
    program: Program,
    site: str,
    *,
    given: Sequence[str] | Mapping[str, str] = (),
    letters: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
    limit: int = MOST,
) -> Formula:
    """The value at the address `site` as sympy expressions; prints, and has `.latex()`.

    Symbols are what a proof takes for any: parameters, float inputs, constants that passes brought along. Token ids, masks and gates are
    the numbers that they are, in `inputs` (left out: in the example). Sites in `given` are left as symbols too, under their address, in
    LaTeX under the letter that a mapping gives them; `letters` does the same for weights and inputs.
    Raises: InputError for an op that has no formula, and beyond `limit` elements on the way; SiteError for an unknown address.
    """
    args, named = program.example if inputs is None else ((), inputs)
    flat = bind(program, args, named)
    stops = _stops(program, given, site)
    unknowns, values = _leaves(program, flat)
    shapes = program.values(list(stops), *args, **named) if stops else {}
    leaves = [leaf.name for leaf in program.leaves.values()]
    called = {address: f"{address}@out" if address in leaves else address for address in stops}  # a module and an input of one name
    for address, name in called.items():
        unknowns.append(Unknown(name, tuple(shapes[address].shape)))
        values[program.sites_by_address[address].node] = unknowns[-1]
    array = _at(program, site, values, limit)
    symbols = {unknown.name: unknown.array for unknown in unknowns if unknown.read}
    unfit = [name for name in letters or {} if name not in leaves]
    if unfit:
        raise InputError(f"formula: expected letters for weights and inputs, got one for {unfit[0]!r}.{nearest(unfit[0], leaves)}")
    chosen = {**(letters or {}), **{called[address]: letter for address, letter in stops.items() if letter}}
    tex, head = tex_names(symbols, chosen, site)
    return Formula(site, array, symbols, tex, head)


def _stops(program: Program, given: Sequence[str] | Mapping[str, str], site: str) -> dict[str, str]:
    """The addresses to stop at, each with its letter or an empty one."""
    listed = given if isinstance(given, Mapping) else dict.fromkeys([given] if isinstance(given, str) else given, "")
    found = {address: letter for glob, letter in listed.items() for address in expand(glob, program.sites_by_address)}
    parts = [address for address in found if address not in program.sites_by_address]
    if parts or site in found:
        raise InputError(f"formula: expected given= sites other than {site!r}, whole ones, got {(parts or [site])[0]!r}.")
    return found


def _leaves(program: Program, flat: Mapping[str, Any]) -> tuple[list[Unknown], dict[str, Any]]:
    """What each placeholder is worth, by node name: an unknown, or what it is."""
    unknowns: list[Unknown] = []
    values: dict[str, Any] = {}
    labels = {node: leaf.name for node, leaf in program.leaves.items()}
    for node, leaf in leaf_values(program, labels, flat, roles_of(program, flat)).items():  # type: ignore[arg-type]
        values[node] = leaf.data
        if leaf.kind == "random":
            values[node] = Unknown(leaf.label, leaf.shape)
            unknowns.append(values[node])
    return unknowns, values


def _at(program: Program, text: str, values: Mapping[str, Any], limit: int) -> Array:
    """The value of an address: of a site, a member, a coordinate or a slice of one."""
    known = program.sites_by_address
    found = expand(text, known)
    if len(found) != 1:
        raise InputError(f"formula of {text}: expected one site, got {len(found)}. Name it, such as {found[0]!r}.")
    address = Address(found[0], found[0]) if found[0] in known else parse(found[0])
    if address.member is None and not address.act:
        out = evaluate(program.graph, values, [known[address.site].node], limit)[0]
    else:
        out = _member(program, address, values, limit)
    if address.slice is None:
        return out
    try:
        return np.asarray(out[slices(address.slice, text)], dtype=object)
    except IndexError as error:
        raise SiteError(f"{text}: expected entries of a value of shape {list(out.shape)}, got others ({error}).") from None


def _member(program: Program, address: Address, values: Mapping[str, Any], limit: int) -> Array:
    record = program.families.get(address.site)
    if record is None:
        raise SiteError(f"{address.text}: expected a family, got {address.site!r}, which is none. Members and @act belong to families.")
    picked = indices(address.member or ":", record.size, address.text)
    dims = axis_dims(record.equation, record.axis)
    operands = evaluate(program.graph, values, record.operands, limit)
    if address.act:
        dim = dims[record.act]
        assert dim is not None
        return np.asarray(operands[record.act].take(picked[0] if len(picked) == 1 else picked, axis=dim), dtype=object)
    cut = [o if d is None else o.take(picked, axis=d) for o, d in zip(operands, dims, strict=True)]
    return np.asarray(np.einsum(record.equation, *cut), dtype=object)


def _place(at: tuple[int, ...], comma: str) -> str:
    return f"[{comma.join(map(str, at))}]" if at else ""


def _each(f: Any, array: Array) -> Array:
    return np.asarray(np.frompyfunc(f, 1, 1)(array), dtype=object)


def _length(e: Any, known: dict[Any, int]) -> int:
    """How many operations and symbols are printed for an expression."""
    if e not in known:
        known[e] = 1 + sum(_length(part, known) for part in e.args)
    return known[e]
