"""One random draw: a key, primes, and everything that is random under them; it also keeps the tallies that the bound needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from verify.field import STREAM_BIAS, Modular, Parts, primes_below, stream, uniform
from verify.oracle import Lanes, Oracles, canonical_sign
from verify.radicals import Radicals, primes_with
from verify.value import Concrete, Field

Law = Literal["gates", "signs", "exponents", "maxima", "roots"]
ROUND = 1 + 2.0**-40  # 62 bits reduced mod p


@dataclass
class Tally:
    """What happened in a world: oracle calls and degrees by name (0: hashes of ids, no polynomials), and what a report must say."""

    calls: Counter[str] = field(default_factory=Counter)
    degrees: dict[str, int] = field(default_factory=dict)
    output: int = 1  # highest degree of a compared difference
    steering: list[str] = field(default_factory=list)  # comparisons of ids that reach masks, positions or indices
    steered: set[tuple[int, ...]] = field(default_factory=set)  # what those are, by the atoms of the ids or what they are worth
    apart: bool = False  # they are others in one side than in the other
    faint: list[str] = field(default_factory=list)  # nodes whose values are ordinary, but for ids that mask whole rows
    divisions: list[str] = field(default_factory=list)  # nodes that divide by a value
    zero_denominators: int = 0
    undefined: int = 0
    narrowings: list[str] = field(default_factory=list)  # casts to a shorter float type, identities here
    assumed: list[str] = field(default_factory=list)  # what was taken on a user's word
    literals: list[str] = field(default_factory=list)  # those read as roots, with the root

    def call(self, name: str, count: int, degree: int) -> None:
        """Count `count` calls of an oracle at arguments of at most this degree."""
        self.calls[name] += count
        self.degrees[name] = max(self.degrees.get(name, 0), degree)

    def steer(self, node: str, atom: Sequence[Tensor]) -> None:
        """Note that the true bits of ids decide at a node."""
        self.note(self.steering, node)
        self.steered |= set(map(tuple, torch.stack([lane.reshape(-1).long() for lane in atom], -1).unique(dim=0).tolist()))

    def both(self, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """What the two sides give, with a note whether ids steer them alike."""
        values, steered = [], []
        for side in (first, second):
            self.steered.clear()
            values.append(side())
            steered.append(set(self.steered))
        self.apart = steered[0] != steered[1]
        return values[0], values[1]

    @staticmethod
    def note(list_: list[str], text: str) -> None:
        """Add a line once."""
        if text not in list_:
            list_.append(text)


@dataclass(frozen=True)
class Order:
    """An order of a row's elements: its name, which tells how ties are broken, and the positions in it, given a row and its dim."""

    name: str
    positions: Callable[[Tensor, int], Tensor]


CHOICES = 1 << 14  # primes to draw from: whoever writes numbers into a program cannot hit them all


def _drawn_primes(key: bytes, count: int, theory: Law, squares: Iterable[Fraction]) -> tuple[int, ...]:
    """Primes drawn by the key; for "signs", those in which -1 is no square and 2 is one (whether 3 is a square must not be known).

    For "roots" those in which `squares` are squares and -1 is none.
    """
    choices = primes_below(CHOICES, 8, 7) if theory in ("signs", "roots") else primes_below(CHOICES)
    choices = primes_with(frozenset(squares), choices) if theory == "roots" else choices
    drawn = torch.randint(len(choices), (4 * count,), generator=stream(key, "primes")).tolist()
    return tuple(choices[i] for i in dict.fromkeys(drawn))[:count]


class World:
    """Random weights, inputs and functions under one 128-bit key.

    `theory` is "gates" (signs are an odd random function) or "signs" (signs are quadratic characters: multiplicative, of square one,
    and 2 is positive; a wrong sign of one term survives a prime with probability one half, so its bound is 2^-1 per prime). In
    "exponents" exp(-x) = 1/exp(x), products and quotients of exp are looked through, and tanh is written by exp. In "maxima" whatever
    is a largest or smallest of several is a random function of their set. In "roots" literals near roots of small fractions are those
    roots, modulo primes in which `squares` are squares. `declared` says of ops without a rule what they are.
    In a `dual` world every random value comes with a random derivative.
    """

    def __init__(
        self, key: bytes, count: int = 3, theory: Law = "gates", primes: Sequence[int] | None = None, *, dual: bool = False,
        declared: Mapping[Any, str] | None = None, squares: Iterable[Fraction] = (),
    ) -> None:  # fmt: skip
        if len(key) != 16:
            raise ValueError(f"World: expected a key of 16 bytes, got {len(key)}. Draw it with secrets.token_bytes(16).")
        chosen = tuple(primes) if primes else _drawn_primes(key, count, theory, squares)
        self.key, self.primes, self.theory, self.dual = key, chosen, theory, dual
        self.declared = declared or {}
        self.functions: dict[str, Callable[..., Tensor]] = {}  # what declared ops compute, by the name of their oracle
        self.tally = Tally()
        self.math = Radicals(chosen, self.tally.literals) if theory == "roots" else Modular(chosen)
        self.count = self.math.count
        self.oracles = Oracles(key, chosen)
        self._kept: dict[tuple[str, tuple[int, ...]], Field] = {}

    symbolic = True  # numbers stand for others, ids too

    @staticmethod
    def lowest(dtype: torch.dtype) -> tuple[float, ...]:
        """The numbers of a float type that stand for "masked": its smallest finite one."""
        return (torch.finfo(dtype).min,) if dtype.is_floating_point else ()

    # Random values

    def tensor(self, label: str, shape: Sequence[int]) -> Field:
        """A uniform random value: the same label and shape give the same numbers. Shapes: `shape`."""
        place = (label, tuple(shape))
        if place not in self._kept:
            made = Field(uniform(self.math, self.key, label, place[1]))
            self._kept[place] = made.moving(Field(uniform(self.math, self.key, f"along {label}", place[1]))) if self.dual else made
        return self._kept[place]

    def forget(self) -> None:
        """Drop the stored random tensors; they come back the same when asked for."""
        self._kept.clear()

    def ids(self, data: Tensor, label: str) -> Concrete:
        """Data of role `ids`: each element an atom of its own, by label and position. Shapes: as `data`."""
        position = self.oracles.integers("position", torch.arange(data.numel()).view(data.shape))
        return Concrete(data, atom=self.oracles.absorb("input", position, self.oracles.constant(f"input {label}")))

    # Random functions

    def oracle(self, name: str, arguments: Sequence[Field], odd: bool = False) -> Parts:
        """The random function `name`, element by element; an odd one has f(-x) = -f(x). Shapes: as each argument, which agree."""
        self.tally.call(name, arguments[0].parts[0].numel(), max(a.degree.total for a in arguments))
        if odd:
            sign = canonical_sign(arguments[0].parts)
            drawn = self.oracles.draw(name, self.oracles.state(name, tuple(part * sign for part in arguments[0].parts)))
            return tuple(part * sign for part in drawn)
        states = [self.oracles.state(f"{name} {i}", a.parts) for i, a in enumerate(arguments)]
        return self.oracles.draw(name, states[0] if len(states) == 1 else self.oracles.absorb(name, *states))

    def sign(self, x: Field) -> Parts:
        """The sign of each element, as the theory has it. Shapes: as `x`."""
        if self.theory != "signs":
            return self.oracle("sign", [x], odd=True)
        self.tally.call("sign", x.parts[0].numel(), x.degree.total)
        return self.math.signs(x.parts)

    @staticmethod
    def row_total(part: Tensor, count: Tensor, dim: int) -> Tensor:
        """The sum of a row of `count` elements. Shapes: as `part`, with size 1 at dim."""
        return part.sum(dim, keepdim=True)

    def row_state(self, name: str, x: Field, present: Tensor | None, dim: int) -> Lanes:
        """For each element a hash of it and of its row as a multiset, over the elements that are present. Shapes: as `x`."""
        count = torch.full((), x.shape[dim]) if present is None else present.sum(dim, keepdim=True)
        self.tally.call(name, x.parts[0].numel(), x.degree.total)
        own = self.oracles.state(name, x.parts)
        row = tuple((word if present is None else word * present).sum(dim, keepdim=True) for word in own)
        return self.oracles.absorb(name, own, row, self.oracles.integers(name, count))

    def softmax_row(self, shifted: Field, present: Tensor | None, dim: int) -> Parts:
        """A random function of (element, multiset of its row), given n x - sum x over those present. Shapes: as `shifted`."""
        return self.oracles.draw("softmax", self.row_state("softmax", shifted, present, dim))

    def logsumexp_row(self, shifted: Field, dim: int) -> Parts:
        """A random function of a row as a multiset. Shapes: as `shifted`, with size 1 at dim."""
        state = self.row_state("logsumexp", shifted, None, dim)
        row = tuple(word.sum(dim, keepdim=True) for word in state)
        return self.oracles.draw("logsumexp", self.oracles.permuted("logsumexp row", row))

    def shape_of(self, name: str, shape: Sequence[int]) -> torch.Size:
        """The shape that the declared op `name` gives for a tensor of this shape."""
        with torch.no_grad():
            return self.functions[name](torch.zeros(tuple(shape))).shape

    def ordered_row(self, name: str, x: Field, places: int) -> Parts:
        """A random function of (the row along the last dim in its order, place), at each of the places. Shapes: [*x.shape[:-1], places]."""
        self.tally.call(name, x.parts[0].numel() + places, x.degree.total)
        own = self.oracles.absorb(name, self.oracles.state(name, x.parts), self.oracles.integers("place", torch.arange(x.shape[-1])))
        row = tuple(word.sum(-1, keepdim=True) for word in own)
        return self.oracles.draw(name, self.oracles.absorb(f"{name} row", row, self.oracles.integers("place", torch.arange(places))))

    def matrix(self, name: str, shape: Sequence[int], sizes: tuple[int, int]) -> Field:
        """A random matrix for the linear op `name` on tensors of this shape. Shapes: `sizes`."""
        return self.tensor(f"matrix of {name} on {tuple(shape)}", sizes)

    def rank_row(self, x: Field, present: Tensor | None, dim: int, rank: int, order: Order) -> Parts:
        """A random function of (the row in its order, place, rank, the name of the order). Shapes: as `x`."""
        self.tally.call("rank", x.parts[0].numel(), x.degree.total)
        place = torch.arange(x.shape[dim]).view([-1 if d == dim else 1 for d in range(len(x.shape))])
        own = self.oracles.absorb("rank", self.oracles.state("rank", x.parts), self.oracles.integers("rank", place))
        row = tuple((word if present is None else word * present).sum(dim, keepdim=True) for word in own)
        here = x.parts[0].new_ones(x.shape, dtype=torch.bool) if present is None else present
        return self.oracles.draw(
            f"rank {rank} {order.name}", self.oracles.absorb("rank row", own, row, self.oracles.integers("rank", here))
        )

    def largest_row(self, x: Field, present: Tensor | None) -> Parts:
        """A random function of the set of values along the last dim: repeated ones count once. Shapes: `x` less its last dim."""
        own, first = self._set(x, present)
        row = tuple(word.masked_fill(~first, 0).sum(-1) for word in own)
        return self.oracles.draw("largest", self.oracles.permuted("largest row", row))

    def largest_weights(self, x: Field, present: Tensor | None) -> tuple[Tensor, Parts]:
        """Where each value of a set stands first along the last dim, and a random function of (it, the set). Shapes: as `x`, both."""
        own, first = self._set(x, present)
        row = tuple(word.masked_fill(~first, 0).sum(-1, keepdim=True) for word in own)
        return first, self.oracles.draw("largest weight", self.oracles.absorb("largest weight", own, row))

    def _set(self, x: Field, present: Tensor | None) -> tuple[Lanes, Tensor]:
        """The hash of each element, and which elements are present and not the same as one before them."""
        self.tally.call("largest", x.parts[0].numel(), x.degree.total)
        own = self.oracles.state("largest", x.parts)
        seen = own[0].clone() if present is None else own[0].masked_fill(~present, 0)
        order = seen.argsort(stable=True, dim=-1)
        ranked = [word.gather(-1, order) for word in (seen, *own[1:])]
        again = torch.zeros_like(seen, dtype=torch.bool)
        again[..., 1:] = torch.stack([word[..., 1:] == word[..., :-1] for word in ranked]).all(0)
        first = ~torch.zeros_like(again).scatter(-1, order, again)
        return own, first if present is None else first & present

    def atom_value(self, name: str, atom: Lanes, truth: Tensor) -> Field:
        """A random value for each hash. Shapes: as `truth`, which is the value that plain data has."""
        self.tally.call(name, truth.numel(), 0)
        return Field(self.oracles.draw(f"atom {name}", tuple(x.expand(truth.shape) for x in atom)))

    def atom_weights(self, atom: Lanes, ids: Tensor, size: int) -> Parts:
        """Random weights over `size` positions for each hash, each row of sum one. Shapes: [*ids, size]."""
        self.tally.call("soft rows", ids.numel() * size, 0)
        place = self.oracles.integers("place", torch.arange(size))
        spread = self.oracles.absorb("soft row", tuple(x.unsqueeze(-1) for x in atom), place)
        drawn = self.oracles.draw(f"soft row of {size}", spread)
        for i, part in enumerate(drawn):
            part[..., 0] += 1 - part.sum(-1)
            self.math.tidy(i, part[..., 0])
        return drawn

    # The bound

    def log2_bound(self) -> float:
        """log2 of the probability that two programs that differ in this theory agreed here: Schwartz-Zippel, plus collisions of hashes."""
        terms = [self._agree(self.tally.output, random=self.theory != "signs")]
        for name, calls in self.tally.calls.items():
            if calls > 1 and self.tally.degrees[name] and not (name == "sign" and self.theory == "signs"):
                terms.append(2 * math.log2(calls) - 1 + self._agree(self.tally.degrees[name], random=True))
        total = max(2, sum(self.tally.calls.values()))
        terms.append(2 * math.log2(total) - 1 - 64 * self.oracles.lanes)
        top = max(terms)
        return math.inf if top == math.inf else min(0.0, top + math.log2(sum(2.0 ** (t - top) for t in terms)))

    def _agree(self, degree: int, random: bool) -> float:
        """log2 of the chance that a non-zero polynomial vanishes modulo every prime (not random: one of quadratic characters)."""
        if degree >= min(self.primes):
            return math.inf
        if not random:
            return float(-self.count)
        return sum(math.log2(max(1, degree) * STREAM_BIAS * ROUND / p) for p in self.primes)

    def bound(self) -> float:
        """The probability of `log2_bound`; inf if a degree reached a prime."""
        exponent = self.log2_bound()
        return math.inf if exponent == math.inf else 2.0**exponent


def concrete(data: Tensor | float, *, role: Literal["mask", "ids"] | None, label: str, world: World) -> Concrete:
    """Plain data as a value: of role `ids` with an atom per element, otherwise as it is. Shapes: as `data`."""
    tensor = data if isinstance(data, Tensor) else torch.tensor(data)
    return world.ids(tensor, label) if role == "ids" else Concrete(tensor)
