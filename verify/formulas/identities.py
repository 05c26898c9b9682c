"""The identities that a law states, each proved: the law's own PyTorch function, evaluated on symbols, is what the identity says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_flatten, tree_unflatten

from rewrite import family
from rewrite.capture import capture
from rewrite.errors import PassError
from rewrite.law import IdentityLaw, Law
from rewrite.terms import Family, Terms, taking_notes
from verify.formulas.rational import remainder
from verify.formulas.symbolic import Unknown, evaluate
from verify.formulas.symbols import Array, lift


@dataclass(frozen=True)
class Identity:
    """One identity of a law: it holds if `differences`, what is left of the two sides' difference, is empty."""

    law: str
    sentence: str
    differences: tuple[Any, ...]

    @property
    def holds(self) -> bool:
        """True if the difference of the two sides vanishes, element by element."""
        return not self.differences

    def __str__(self) -> str:
        if self.holds:
            return f"{self.law}: {self.sentence}: holds"
        text = str(self.differences[0])
        return f"{self.law}: {self.sentence}: does not hold, left over: {text if len(text) < 200 else text[:197] + '...'}"


def identities(law: Law) -> list[Identity]:
    """The identities stated next to `law`, each tried on symbols.

    Raises: PassError for a law that states none, or one whose function cannot be captured at the shapes given.
    """
    if not law.identities:
        raise PassError(f"{law.name}: expected at least one identity, got none. Write @{law.name}.identity('...', y=(2, 3)).")
    return [Identity(law.name, stated.sentence, tuple(_left(law, stated))) for stated in law.identities]


def _left(law: Law, stated: IdentityLaw) -> list[Any]:
    """What is left of the difference of the two sides, for the elements where something is."""
    arguments = {name: _symbols(name, like) for name, like in stated.like.items()}
    left, right = stated.function(OnSymbols(law), **arguments)
    left, right = np.broadcast_arrays(lift(left), lift(right))
    found = (remainder(a - b) for a, b in zip(left.flat, right.flat, strict=True))
    return [e for e in found if e != 0]


def _symbols(name: str, like: Any) -> Any:
    """Symbols in the shape that `like` is, if it is one; a table of shapes is a table of symbols."""
    if isinstance(like, Mapping):
        return {key: _symbols(f"{name}.{key}", inner) for key, inner in like.items()}
    return Unknown(name, like).array if isinstance(like, tuple) else like


class OnSymbols:
    """A law as a function of arrays of expressions: its own function, captured and evaluated on them."""

    def __init__(self, law: Law) -> None:
        self.law = law

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the law makes of these arguments: an array (a rewire), or Made."""
        leaves, spec = tree_flatten((args, {**_defaults(self.law), **kwargs}))
        held = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray)]
        names: list[tuple[str, int]] = []

        def flat(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip(held, tensors, strict=True))
            again, named = tree_unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)], spec)
            with taking_notes() as notes:
                outputs = _outputs(self.law.function(*again, **named))
            outputs += [(name, [value]) for name, value in notes.parts.items()]
            names[:] = [(name, len(values)) for name, values in outputs]
            return [value for _, values in outputs for value in values]

        mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
        dtypes = [torch.bool if leaves[i].dtype == bool else torch.float64 for i in held]
        fakes = [mode.from_tensor(torch.zeros(leaves[i].shape, dtype=dtype)) for i, dtype in zip(held, dtypes, strict=True)]
        captured = capture(flat, fakes, mode, self.law.name)
        given: dict[str, Any] = {node.name: _as_symbols(leaves[i]) for node, i in zip(captured.inputs, held, strict=True)}
        given |= {node.name: tensor for node, tensor in captured.constants.items()}
        found = iter(evaluate(captured.graph, given, [node.name for node in captured.outputs]))
        values = {name: [next(found) for _ in range(count)] for name, count in names}
        return values["value"][0] if self.law.shape == "rewire" else Made(values)


def _as_symbols(values: Any) -> Any:
    """An array of truth values as sympy's; any other as it is."""
    return np.frompyfunc(lambda e: sympy.true if e else sympy.false, 1, 1)(values) if values.dtype == bool else values


def _defaults(law: Law) -> dict[str, Any]:
    """Defaults that are plain values; those that ask the site have to be given."""
    return {name: default for name, default in law.keywords.items() if default is None or isinstance(default, bool | int | float)}


def _outputs(result: Any) -> list[tuple[str, list[Tensor]]]:
    """The tensors that a law returned, under the names of its terms; of a family the sum, then the members."""
    if not isinstance(result, Terms):
        return [("value", [result])]
    return [(key, _of(term)) for key, term in result.named.items()]


def _of(term: Any) -> list[Tensor]:
    if not isinstance(term, Family):
        return [term]
    size = next(o.shape[d] for o, d in zip(term.operands, term.dims, strict=True) if d is not None)
    return [family.total(term.equation, term.operands), *(term[i] for i in range(size))]


class Made:
    """What a law made of symbols: terms by place or name as in Terms, members of a family, named parts, and the `value`."""

    def __init__(self, values: dict[str, list[Array]]) -> None:
        self.values = values

    def __getitem__(self, index: int) -> Array:
        return list(self.values.values())[index][0]

    def __getattr__(self, name: str) -> Array:
        if name not in self.__dict__["values"]:
            raise AttributeError(f"no term or part {name!r}; there are {list(self.__dict__['values'])}")
        return self.__dict__["values"][name][0]

    @property
    def members(self) -> list[Array]:
        """The members of the first term, a family."""
        return next(iter(self.values.values()))[1:]

    @property
    def total(self) -> Array:
        """The sum of the terms."""
        return sum((found[0] for found in self.values.values()), start=np.array(sympy.Integer(0), dtype=object))
