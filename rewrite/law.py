"""Laws: a decomposition as a plain PyTorch function, with what must hold before it (guards) and after it (claims).

A rewrite comes in three shapes: `split` turns a site's value (or, with `of=`, the arguments of the op that writes it) into terms,
`reform` writes an op out with named parts, `rewire` changes what readers read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from torch import Tensor

from rewrite.errors import PassError, nearest

Shape = Literal["split", "reform", "rewire"]
OPS = ("linear", "norm", "attention", "embedding", "sum")


@dataclass(frozen=True, slots=True)
class Free:
    """A settable argument of a rewire: a leaf of the program at `value`, found under `program.gates`, changed without retracing."""

    value: float


@dataclass(frozen=True)
class ClaimLaw:
    """A claim as written next to its pass: `function(terms, *arguments)` returns two sides to prove equal."""

    sentence: str
    function: Callable[..., Any]
    member: str | None  # the argument that stands for an arbitrary member of the first family


@dataclass(frozen=True)
class IdentityLaw:
    """An identity as written next to its pass: `function(law, **symbols)` returns two sides, arrays of sympy expressions.

    `like` says what each argument is: symbols of that shape for a tuple (in a mapping too), else the value itself.
    """

    sentence: str
    function: Callable[..., Any]
    like: Mapping[str, Any]


@dataclass(eq=False)
class Law:
    """A decomposition, callable as the plain function that it is; `.at(address, ...)` makes it a pass."""

    function: Callable[..., Any]
    shape: Shape
    of: str | None = None
    name: str = ""
    callables: tuple[str, ...] = ()  # keyword arguments that are functions themselves, not functions of the site
    guards: list[Callable[..., Any]] = field(default_factory=list)
    claims: list[ClaimLaw] = field(default_factory=list)
    identities: list[IdentityLaw] = field(default_factory=list)
    preparation: Callable[..., dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self.__doc__ = self.function.__doc__
        self.name = self.name or self.function.__name__
        if self.of is not None and self.of not in OPS:
            raise PassError(f"{self.function.__name__}: expected of= one of {', '.join(OPS)}, got {self.of!r}.{nearest(self.of, OPS)}")
        parameters = inspect.signature(self.function).parameters.values()
        self.positional = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        self.keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.tensors = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.annotation in (Tensor, "Tensor"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], str):
            raise PassError(f"{self.name}: expected tensors, got an address. Write {self.function.__name__}.at({args[0]!r}).")
        return self.function(*args, **kwargs)

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Registers `function`, called once per site with real parameters and shape-only values; it returns None or Skip."""
        self.guards.append(function)
        return function

    def prepare(self, function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        """Registers `function(site, arguments)`, which may compute arguments from the site before anything else is done there."""
        self.preparation = function
        return function

    def claim(self, sentence: str, *, member: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Registers a claim: the decorated function takes (terms, then the law's own arguments) and returns two sides.

        Raises: PassError when used without its sentence.
        """
        if not isinstance(sentence, str):
            raise PassError(
                f"{self.name}.claim: expected the claim in words, got {type(sentence).__name__}. Write @{self.name}.claim('...')."
            )

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.claims.append(ClaimLaw(sentence, function, member))
            return function

        return register

    def identity(self, sentence: str, **like: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Registers an identity for all numbers, at the small shapes `like`; `verify.identities` proves it.

        The decorated function takes (law, then arrays of symbols) and returns two sides; `law(...)` is this law's own function on symbols.
        Raises: PassError when used without its sentence.
        """
        if not isinstance(sentence, str):
            raise PassError(
                f"{self.name}.identity: expected the identity in words, got {type(sentence).__name__}. Write @{self.name}.identity('...')."
            )

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.identities.append(IdentityLaw(sentence, function, like))
            return function

        return register

    def at(self, *where: Any, name: str | None = None, **arguments: Any) -> Bound:
        """This law as a pass: at the sites `where` (addresses, globs, lists of them, or a dict of paths), its terms called `name`.

        Raises: PassError for an argument that the law does not have, or a missing one.
        """
        unknown = [key for key in arguments if key not in self.keywords]
        if unknown:
            raise PassError(
                f"{self.name}.at: expected arguments among {list(self.keywords)}, got {unknown[0]!r}.{nearest(unknown[0], self.keywords)}"
            )
        missing = [key for key, default in self.keywords.items() if default is inspect.Parameter.empty and key not in arguments]
        if missing:
            raise PassError(f"{self.name}.at: expected {missing[0]}=, got no value for it. It has no default.")
        if not where:
            raise PassError(f"{self.name}.at: expected at least one address, got none. List them with program.sites().")
        defaults = {key: default for key, default in self.keywords.items() if default is not inspect.Parameter.empty}
        flat = tuple(
            item for one in where for item in ([one] if isinstance(one, str) else one.items() if isinstance(one, Mapping) else one)
        )
        return Bound(self, flat, name, {**defaults, **arguments})


@dataclass(frozen=True, eq=False)
class Bound:
    """A law with its addresses and arguments: what `program.apply` takes."""

    law: Law
    where: tuple[Any, ...]  # addresses; of a law that makes copies of inputs, (copy, paths)
    name: str | None
    arguments: Mapping[str, Any]


@overload
def split(function: Callable[..., Any], /) -> Law: ...
@overload
def split(*, of: str | None = None, name: str = "", callables: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Law]: ...
def split(function: Any = None, /, *, of: str | None = None, name: str = "", callables: Sequence[str] = ()) -> Any:
    """The decorated function as a law that splits a site's value, or with `of=` the arguments of its op, into Terms."""
    return _law("split", function, of, name, callables)


@overload
def reform(function: Callable[..., Any], /) -> Law: ...
@overload
def reform(*, of: str | None = None, name: str = "", callables: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Law]: ...
def reform(function: Any = None, /, *, of: str | None = None, name: str = "", callables: Sequence[str] = ()) -> Any:
    """The decorated function as a law that computes the same value with named parts."""
    return _law("reform", function, of, name, callables)


@overload
def rewire(function: Callable[..., Any], /) -> Law: ...
@overload
def rewire(*, name: str = "", callables: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Law]: ...
def rewire(function: Any = None, /, *, name: str = "", callables: Sequence[str] = ()) -> Any:
    """The decorated function as a law that changes what selected readers read."""
    return _law("rewire", function, None, name, callables)


def _law(shape: Shape, function: Any, of: str | None, name: str, callables: Sequence[str]) -> Any:
    def make(f: Callable[..., Any]) -> Law:
        return Law(f, shape, of, name, tuple(callables))

    return make(function) if function is not None else make
