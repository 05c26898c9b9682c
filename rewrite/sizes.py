"""Sizes that are not numbers: named, each with its value in the example and the range in which the program is right; and sums, products
and quotients of them.

They are written as JSON, never as text that a reader would have to parse or evaluate: `7`, `"s0"`, `{"+": ["s0", 1]}`, `{"*": [2, "s0"]}`,
`{"//": ["s0", 2]}`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import sympy
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import FloorDiv
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, make_symbol

from rewrite.errors import FileError
from rewrite.schema import bad, take

NAME = re.compile(r"s(0|[1-9]\d{0,5})")
LARGEST_SIZE, LARGEST_TENSOR, LARGEST_HINT, LARGEST_NUMBER, MOST_DIMENSIONS = 2**40, 2**48, 2**20, 2**63, 64
MOST_OPERATIONS = 256  # in one size; expanding a product squares their number
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "*": operator.mul, "//": operator.floordiv}


class NamedSizes:
    """The named sizes met while writing: name -> [value in the example, least, greatest or None]."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int | None]] = {}

    def encode(self, size: int | torch.SymInt) -> Any:
        """The JSON form of a size. Raises: FileError for arithmetic that a saved program may not have."""
        if isinstance(size, int):
            return size
        for symbol in size.node.expr.free_symbols:
            self.rows[str(symbol)] = _row(size.node.shape_env, symbol)
        return _encode(size.node.expr)


def _row(environment: ShapeEnv, symbol: sympy.Symbol) -> list[int | None]:
    hints = _hints(environment)
    if not NAME.fullmatch(str(symbol)) or symbol not in hints:
        raise FileError(f"save: expected sizes of inputs that are known for the example, got {symbol}. Trace with simpler dynamic shapes.")
    limits = environment.var_to_range[symbol]
    upper = None if limits.upper in (int_oo, sympy.oo) else int(limits.upper)
    return [int(hints[symbol]), int(limits.lower), upper]


def _hints(environment: ShapeEnv) -> dict[sympy.Symbol, Any]:
    return environment.backed_var_to_val if hasattr(environment, "backed_var_to_val") else environment.var_to_val


def _encode(expression: sympy.Expr) -> Any:
    if expression.is_Integer:
        return int(expression)  # type: ignore[arg-type]
    if expression.is_Symbol:
        return str(expression)
    arguments = list(expression.args)
    if isinstance(expression, sympy.Pow) and arguments[1].is_Integer and 1 < int(arguments[1]) <= 8:  # type: ignore[arg-type]
        return {"*": [_encode(arguments[0])] * int(arguments[1])}  # type: ignore[arg-type]
    for kind, sign in ((sympy.Add, "+"), (sympy.Mul, "*"), (FloorDiv, "//")):
        if isinstance(expression, kind):
            return {sign: [_encode(argument) for argument in arguments]}  # type: ignore[arg-type]
    raise FileError(
        f"save: expected sizes of inputs made of sums, products and quotients, got {expression}. Trace with simpler dynamic shapes."
    )


class Sizes:
    """The shape world of a loaded program: its named sizes as symbols of the names, values and ranges that they had."""

    def __init__(self, record: Any, where: str):
        """Raises: FileError for names, values or ranges that cannot be."""
        if not isinstance(record, dict):
            raise bad(where, "named sizes", record)
        self.environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.environment)
        self._named = {name: self._symbol(name, row, where) for name, row in record.items()}
        self._sensible: set[sympy.Expr] = set()
        self._kinds: dict[Any, Tensor] = {}
        self.derived: dict[Any, Any] = {}  # what ops gave for arguments met before

    def _symbol(self, name: str, row: Any, where: str) -> torch.SymInt:
        whole = isinstance(row, list) and len(row) == 3 and all(isinstance(n, int) and not isinstance(n, bool) for n in row[:2])
        if not NAME.fullmatch(name) or not whole or not (row[2] is None or isinstance(row[2], int)):
            raise bad(where, "named sizes as [value, least, greatest]", {name: row})
        hint, lower, upper = row
        if not 0 <= lower <= hint <= min(LARGEST_HINT, hint if upper is None else upper):
            raise bad(where, f"a value of {name!r} in its range, and a sensible one", row)
        environment, number = self.environment, int(name[1:])
        symbol = make_symbol(SymT.SIZE, number, positive=True, integer=True)
        add = getattr(environment, "add_backed_var_to_val", None) or environment.add_var_to_val
        add(symbol, hint)
        environment.constrain_symbol_range(symbol, compiler_min=lower, compiler_max=int_oo if upper is None else upper)  # type: ignore[arg-type]
        getattr(environment, "unique_ids", set()).add(number)  # a size that is named later gets another name
        return environment.create_symintnode(symbol, hint=hint)  # type: ignore[return-value]

    def decode(self, size: Any, where: str) -> Any:
        """A number, or a symbolic size. Raises: FileError."""
        if isinstance(size, int) and not isinstance(size, bool):
            return size
        if isinstance(size, str) and size in self._named:
            return self._named[size]
        if isinstance(size, dict) and len(size) == 1:
            ((sign, operands),) = size.items()
            if sign in ARITHMETIC and isinstance(operands, list) and 2 <= len(operands) <= 8 and 0 not in operands[1:]:
                made = reduce(ARITHMETIC[sign], [self.decode(operand, where) for operand in operands])
                self.check_size(made, where)
                return made
        raise bad(where, "sizes that are numbers, names, or sums and products of these", size)

    def placeholder(self, record: Any, where: str) -> Tensor:
        """A tensor without data, of the dtype and shape that a record gives. Raises: FileError."""
        dtype = getattr(torch, take(record, "dtype", str, where), None)
        sizes = [self.decode(size, where) for size in take(record, "shape", list, where)]
        if not isinstance(dtype, torch.dtype):
            raise bad(where, "a known dtype", record["dtype"])
        self.check_shape(sizes, where)
        with self.mode:
            return torch.empty(sizes, dtype=dtype)

    def like(self, tensor: Tensor) -> Tensor:
        """A tensor without data, shaped and laid out like a given one."""
        with self.mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)

    def one_of(self, value: Any) -> Any:
        """The first tensor met of the same kind as `value`, so that what is derived from both is derived once; other values unchanged."""
        if not isinstance(value, Tensor):
            return value
        kind = (str(tuple(value.shape)), str(value.stride()), str(value.storage_offset()), value.dtype)
        return self._kinds.setdefault(kind, value)

    def check_shape(self, sizes: Any, where: str) -> None:
        """Raises: FileError for more dimensions, sizes, elements or arithmetic than any program has."""
        known = 1
        for size in sizes:
            self.check_size(size, where)
            known *= size if type(size) is int else 1
        if len(sizes) > MOST_DIMENSIONS or known > LARGEST_TENSOR:
            raise bad(where, f"a tensor of at most {MOST_DIMENSIONS} dimensions and 2^48 elements", list(sizes))

    def check_size(self, size: Any, where: str) -> None:
        """Raises: FileError for a size that no program has."""
        if type(size) is int:
            if not 0 <= size <= LARGEST_SIZE:
                raise bad(where, "sizes of 0 to 2^40", size)
            return
        expression = size.node.expr
        if expression not in self._sensible:
            self.check_formula(size, where)
            self._sensible.add(expression)

    def check_formula(self, number: torch.SymInt | torch.SymFloat | torch.SymBool, where: str) -> None:
        """Raises: FileError for a formula, or a value of it, that no program has."""
        if number.node.expr.count_ops() > MOST_OPERATIONS:
            raise bad(where, f"sizes of at most {MOST_OPERATIONS} operations", "more")
        if number.node.hint is not None and abs(number.node.hint) > LARGEST_NUMBER:
            raise bad(where, "numbers up to 2^63", "a larger one")

    def check_kept(self, before: dict[str, str], where: str) -> None:
        """Raises: FileError if deriving shapes has fixed a named size, which would make the program work for fewer shapes than it says."""
        for name, text in before.items():
            if str(self._named[name].node.expr) != text:
                raise bad(where, f"ops that leave the size {name!r} free", f"{name} = {self._named[name].node.expr}")

    def names(self) -> dict[str, str]:
        """What each named size is by now."""
        return {name: str(size.node.expr) for name, size in self._named.items()}
