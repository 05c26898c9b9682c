"""Exact arithmetic: integers modulo primes just under 2^21, held as float64 tensors of balanced residues.

A residue lies in [-(p-1)/2, (p-1)/2], so a product is below 2^40 and a sum of 2^13 products is exact in a double. A double m*2^e
maps to m * 2^e mod p, which respects sums and products because 2 is invertible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from verify.drawn import LARGE, Drawn, stream

Parts = tuple[Tensor, ...]  # one tensor per prime; a random matrix may be `verify.drawn.Drawn`, which acts as one

BITS = 21
EXPONENTS = 1200  # doubles are m * 2^e with |e| <= 1126
BLOCK = 1 << 21  # elements of a stored weight that are turned into float64 at once
STREAM_BIAS = 1 + 2.0**-11  # a 32-bit word reduced mod p favours small residues by at most this factor


class Vanishing(ArithmeticError):
    """A number of a program that is divided by is a multiple of a prime: other primes have to be drawn."""


@lru_cache
def primes_below(count: int, modulus: int = 1, remainder: int = 0) -> tuple[int, ...]:
    """The `count` largest primes under 2^21 that leave `remainder` modulo `modulus`."""
    odd = np.ones(1 << BITS, dtype=bool)
    odd[:2] = odd[4::2] = False
    for n in range(3, math.isqrt(1 << BITS) + 1, 2):
        if odd[n]:
            odd[n * n :: n] = False
    found = np.flatnonzero(odd)
    return tuple(int(p) for p in found[found % modulus == remainder][: -count - 1 : -1])


@lru_cache(maxsize=64)
def _powers_of_two(p: int) -> Tensor:
    low = pow(pow(2, -1, p), EXPONENTS, p)
    powers = [low]
    for _ in range(2 * EXPONENTS):
        powers.append(powers[-1] * 2 % p)
    return torch.tensor(powers, dtype=torch.float64)


class Modular:
    """Arithmetic on residues modulo several primes: `count` tensors per value, all operations exact."""

    def __init__(self, primes: tuple[int, ...]) -> None:
        self.primes, self.count = primes, len(primes)
        self.longest = [int(2**53 // ((p // 2) ** 2)) - 1 for p in primes]
        self.most = min(self.longest)
        self._scratch = torch.empty(0, dtype=torch.float64)

    def number(self, value: float | Fraction, over: float | Fraction = 1) -> tuple[float, ...]:
        """The residues of one exact number, divided by another."""
        below = self.residues(over)
        if 0 in below:
            raise Vanishing(f"{over} is zero modulo a prime")
        return tuple(self._balanced(n * pow(d, -1, p), p) for n, d, p in zip(self.residues(value), below, self.primes, strict=True))

    def residues(self, value: float | Fraction) -> tuple[int, ...]:
        """One exact number modulo each prime."""
        exact = Fraction(value)
        if any(exact.denominator % p == 0 for p in self.primes):
            raise Vanishing(f"{exact} has a denominator of zero modulo a prime")
        return tuple(exact.numerator * pow(exact.denominator, -1, p) % p for p in self.primes)

    @staticmethod
    def _balanced(value: int, p: int) -> float:
        rest = value % p
        return float(rest - p if rest > p // 2 else rest)

    def tidy(self, i: int, fresh: Tensor) -> Tensor:
        """`fresh` reduced in place to balanced residues: its integers must be below 2^50."""
        p = self.primes[i]
        return fresh.sub_((fresh * (1.0 / p)).round_(), alpha=p)

    def tidy_long(self, i: int, fresh: Tensor) -> Tensor:
        """`fresh` reduced in place: its integers must be below 2^53, where one quotient may be off by one."""
        return self.tidy(i, self.tidy(i, fresh))

    def lift(self, tensor: Tensor) -> Parts:
        """The residues of a tensor of finite numbers, exactly. Shapes: as `tensor`."""
        if not tensor.dtype.is_floating_point:
            return tuple(self._whole(i, tensor) for i in range(self.count))
        mantissa, exponent = torch.frexp(tensor.double())
        scaled, power = mantissa * 2.0**53, exponent.long() + (EXPONENTS - 53)
        return tuple(self._scaled(i, scaled, power) for i in range(self.count))

    def _whole(self, i: int, tensor: Tensor) -> Tensor:
        return self.tidy(i, torch.remainder(tensor.long(), self.primes[i]).double())

    def _scaled(self, i: int, mantissa: Tensor, power: Tensor) -> Tensor:
        powers = _powers_of_two(self.primes[i])
        return self.tidy(i, self.tidy_long(i, mantissa.clone()).mul_(powers[power]))

    def power(self, i: int, base: Tensor, exponent: int) -> Tensor:
        """`base` to a non-negative power, by repeated squaring."""
        square = base.double()
        result = torch.ones_like(square)
        while exponent:
            if exponent & 1:
                result = self.tidy(i, result * square)
            exponent >>= 1
            if exponent:
                square = self.tidy(i, square * square)
        return result

    def inverse(self, parts: Parts) -> tuple[Parts, Tensor]:
        """The inverses, and where there is none (a zero modulo any of the primes)."""
        zero = torch.zeros_like(parts[0], dtype=torch.bool)
        for part in parts:
            zero |= part == 0
        return tuple(self.power(i, part, p - 2) for i, (part, p) in enumerate(zip(parts, self.primes, strict=True))), zero

    def signs(self, parts: Parts) -> Parts:
        """Quadratic characters: 1 for squares, -1 for the others, 0 for zero. Multiplicative; odd where p = 3 mod 4."""
        return tuple(self.power(i, part, p // 2) for i, (part, p) in enumerate(zip(parts, self.primes, strict=True)))

    def contract(self, i: int, op: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, length: int) -> Tensor:
        """`op(a, b)` reduced, for a bilinear op that sums `length` products in each element of its result.

        Raises: ValueError if the sum might not be exact.
        """
        if length > self.longest[i]:
            raise ValueError(f"contraction: at most {self.longest[i]} products a sum, got {length}")
        return self.tidy_long(i, op(a.double(), b.double()))

    def matmul(self, i: int, a: Tensor, b: Tensor) -> Tensor:
        """`a @ b` reduced: in blocks when `b` is a stored matrix or the sums are too long for a double."""
        length = a.shape[-1]
        if isinstance(b, Drawn):
            return self._by_drawn_matrix(i, a.double(), b)
        if b.dim() == 2 and (b.dtype == torch.float32 or length > self.longest[i]):
            return self._by_stored_matrix(i, a.double(), b)
        if length <= self.longest[i]:
            return self.tidy_long(i, torch.matmul(a.double(), b.double()))
        total = self.matmul(i, a[..., : self.longest[i]], self._rows(b, 0, self.longest[i]))
        for start in range(self.longest[i], length, self.longest[i]):
            stop = min(start + self.longest[i], length)
            total += self.matmul(i, a[..., start:stop], self._rows(b, start, stop))
        return self.tidy(i, total)

    @staticmethod
    def _rows(b: Tensor, start: int, stop: int) -> Tensor:
        return b[start:stop] if b.dim() == 1 else b[..., start:stop, :]

    def _by_stored_matrix(self, i: int, a: Tensor, b: Tensor) -> Tensor:
        flat = a.reshape(a.shape[:-1].numel(), a.shape[-1])
        result = torch.zeros(flat.shape[0], b.shape[1], dtype=torch.float64)
        tall = max(1, min(self.longest[i], b.shape[0]))
        wide = max(1, min(b.shape[1], BLOCK // max(1, tall)))
        for top in range(0, b.shape[0], tall):
            for left in range(0, b.shape[1], wide):
                block = self._doubled(b[top : top + tall, left : left + wide])
                result[:, left : left + wide] += self.tidy_long(i, flat[:, top : top + tall] @ block)
        return self.tidy(i, result).reshape(*a.shape[:-1], b.shape[1])

    def _by_drawn_matrix(self, i: int, a: Tensor, b: Drawn) -> Tensor:
        flat = a.reshape(-1, a.shape[-1])
        return b.product(flat, lambda: self._drawn_product(i, flat, b)).reshape(*a.shape[:-1], b.shape[1])

    def _drawn_product(self, i: int, flat: Tensor, b: Drawn) -> Tensor:
        result = torch.zeros(flat.shape[0], b.shape[1], dtype=torch.float64)
        for first, block in b.blocks():
            across = slice(first, first + block.shape[0])
            if not b.turned:
                result += self.tidy_long(i, flat[:, across] @ block)
                self.tidy(i, result)
                continue
            for left in range(0, block.shape[1], self.longest[i]):
                some = slice(left, left + self.longest[i])
                result[:, across] += self.tidy_long(i, flat[:, some] @ block[:, some].t())
        return self.tidy(i, result)

    def _doubled(self, block: Tensor) -> Tensor:
        if block.dtype == torch.float64:
            return block
        if self._scratch.numel() < block.numel():
            self._scratch = torch.empty(max(block.numel(), BLOCK), dtype=torch.float64)
        transposed = block.stride(0) == 1 and block.stride(1) != 1
        shape = block.shape[::-1] if transposed else block.shape
        room = self._scratch[: block.numel()].view(shape)
        room = room.t() if transposed else room
        return room.copy_(block)


def uniform(math_: Modular, key: bytes, label: str, shape: tuple[int, ...]) -> Parts:
    """Uniform residues that depend on key, label and shape alone, stored in float32 (exact below 2^24). Shapes: `shape`.

    Those of a large matrix are drawn when they are read.
    """
    if len(shape) == 2 and math.prod(shape) > LARGE:
        return tuple(Drawn(shape, p, key, f"{label}|{shape}|{p}") for p in math_.primes)  # type: ignore[misc]
    return tuple(
        torch.empty(shape, dtype=torch.float32).random_(-(p // 2), p // 2 + 1, generator=stream(key, f"{label}|{shape}|{p}"))
        for p in math_.primes
    )
