"""Keyed random functions on residues: equal arguments give equal values, any others give unrelated ones.

The argument is the *joint* tuple of residues, packed without loss into one 64-bit word (up to three primes) or two (up to six) and
mixed by a permutation that the key chooses, so distinct tuples never meet inside. Each output residue is 62 mixed bits reduced.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from verify.field import Parts

Lanes = tuple[Tensor, ...]  # int64 words: one, or two for 128 bits
PER_LANE = 3
WORD = (1 << 64) - 1


def signed(word: int) -> int:
    """A 64-bit word as the int64 that has its bits."""
    word &= WORD
    return word - (1 << 64) if word >> 63 else word


def shifted(x: Tensor, by: int) -> Tensor:
    """Logical right shift: torch's own copies the sign bit."""
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)


def mixed(x: Tensor) -> Tensor:
    """A permutation of 64-bit words (splitmix64's finaliser), in a new tensor."""
    x = (x ^ shifted(x, 30)).mul_(signed(0xBF58476D1CE4E5B9))
    x = x.bitwise_xor_(shifted(x, 27)).mul_(signed(0x94D049BB133111EB))
    return x.bitwise_xor_(shifted(x, 31))


class Oracles:
    """The random functions of one key: `state` hashes arguments, `absorb` joins them, `draw` reads values out."""

    def __init__(self, key: bytes, primes: tuple[int, ...]) -> None:
        self.key, self.primes = key, primes
        self.lanes = 1 if len(primes) <= PER_LANE else 2
        if len(primes) > 2 * PER_LANE:
            raise ValueError(f"oracles: at most {2 * PER_LANE} primes fit a 128-bit state, got {len(primes)}")
        self._keys = lru_cache(maxsize=None)(self._derive)

    def _derive(self, name: str, count: int) -> tuple[int, ...]:
        words = b"".join(blake2b(f"{name}#{i}".encode(), key=self.key, digest_size=64).digest() for i in range(-(-count // 8)))
        return tuple(signed(int.from_bytes(words[8 * i : 8 * i + 8], "little")) for i in range(count))

    def permuted(self, name: str, lanes: Lanes) -> Lanes:
        """The lanes under a keyed permutation of their 64 or 128 bits."""
        k = self._keys(f"permute {name}", 4)
        if len(lanes) == 1:
            return (mixed(mixed(lanes[0] ^ k[0]) ^ k[1]),)
        a, b = lanes
        for key in k:
            a, b = b, a ^ mixed(b ^ key)
        return a, b

    def state(self, name: str, parts: Parts) -> Lanes:
        """The hash of a joint residue tuple, element by element: injective. Shapes: as each part."""
        lanes = []
        for start in range(0, len(parts), PER_LANE):
            word = torch.zeros(parts[0].shape, dtype=torch.int64)
            for j, (part, p) in enumerate(zip(parts[start : start + PER_LANE], self.primes[start : start + PER_LANE], strict=True)):
                word += part.long().add_(p // 2) << (21 * j)
            lanes.append(word)
        return self.permuted(name, tuple(lanes))

    def integers(self, name: str, data: Tensor) -> Lanes:
        """The hash of integers or bools, element by element. Shapes: as `data`."""
        word = data.long()
        return self.permuted(f"integers {name}", (word,) if self.lanes == 1 else (word, torch.zeros_like(word)))

    def constant(self, name: str) -> tuple[int, ...]:
        """One hashed word per lane for a piece of text: an op with its attributes, a label."""
        return self._keys(f"constant {name}", 2)[: self.lanes]

    def absorb(self, name: str, *several: Lanes | tuple[int, ...]) -> Lanes:
        """One hash of several in order, broadcast together. Not injective: two meet by chance with 2^-64 or 2^-128."""
        total = several[0]
        for i, lanes in enumerate(several[1:]):
            total = tuple(x * 3 + y for x, y in zip(self.permuted(f"{name} {i}", _tensors(total)), lanes, strict=True))
        return self.permuted(f"{name} last", _tensors(total))

    def draw(self, name: str, lanes: Lanes) -> Parts:
        """Independent uniform residues for each hash. Shapes: as each lane."""
        count, dims = len(self.primes), (1,) * lanes[0].dim()
        words = self._keys(f"draw {name}", 2 * count)
        first = torch.tensor(words[:count]).view(count, *dims)
        second = torch.tensor(words[count:]).view(count, *dims)
        out = mixed(lanes[0] ^ first)
        out = mixed(out ^ second if len(lanes) == 1 else out + mixed(lanes[1] ^ second))
        moduli = torch.tensor(self.primes).view(count, *dims)
        rest = shifted(out, 2).remainder_(moduli).sub_(moduli // 2).double()
        return tuple(rest.unbind(0))


def _tensors(lanes: Lanes | tuple[int, ...]) -> Lanes:
    return tuple(x if isinstance(x, Tensor) else torch.tensor(x) for x in lanes)


def canonical_sign(parts: Parts) -> Tensor:
    """1 or -1 so that sign * parts is the same for x and -x, and 0 at zero: the sign of the first residue that is not zero."""
    sign = parts[0].sign()
    for part in parts[1:]:
        if bool((sign == 0).any()):
            sign = torch.where(sign == 0, part.sign(), sign)
    return sign
