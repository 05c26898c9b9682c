"""Random numbers from the key: streams, and matrices too large to be held, drawn in blocks when they are read and dropped again."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from hashlib import shake_256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

LARGE = 1 << 25  # elements of a matrix from which it is not held
BLOCK, MOST = 1 << 20, 4096  # elements and rows drawn at once
KEPT = 2  # products of one matrix
WORDS, HEAD = 624, 24  # of the state of a Mersenne twister, and bytes in front of them: seed, words left, seeded, next word


def stream(key: bytes, label: str) -> torch.Generator:
    """A generator whose whole 19,937-bit state is a hash of key and label: `manual_seed` would keep 32 bits of them."""
    words = np.frombuffer(shake_256(key + label.encode()).digest(4 * WORDS), dtype=np.uint32)
    generator = torch.Generator()
    raw = generator.get_state()
    state = raw.numpy()
    state[:HEAD] = np.frombuffer(struct.pack("<QiiQ", 0, 1, 1, 0), dtype=np.uint8)
    state[HEAD : HEAD + 8 * WORDS] = words.astype(np.uint64).view(np.uint8)
    generator.set_state(raw)
    return generator


class Drawn:
    """A matrix of uniform residues modulo p, or its transpose if `turned`: products read it in blocks, any other op as a whole tensor.

    The last products are kept: of two programs to compare, the second often asks for what the first did.
    """

    def __init__(self, stored: tuple[int, int], p: int, key: bytes, label: str) -> None:
        self.stored, self.p, self.key, self.label, self.turned = stored, p, key, label, False
        self._products = deque[tuple[bool, Tensor, Tensor]](maxlen=KEPT)

    def product(self, rows: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """`rows` times the matrix, which is what `compute` gives unless it is kept. Shapes: rows [n, r], result [n, c]."""
        for turned, left, result in self._products:
            if turned == self.turned and torch.equal(left, rows):
                return result.clone()
        result = compute()
        self._products.append((self.turned, rows.clone(), result.clone()))
        return result

    @property
    def shape(self) -> torch.Size:
        """Rows and columns."""
        return torch.Size(self.stored[::-1] if self.turned else self.stored)

    def dim(self) -> int:
        """Two."""
        return 2

    def numel(self) -> int:
        """The number of elements."""
        return self.shape.numel()

    def t(self) -> Drawn:
        """The transpose."""
        other = copy(self)
        other.turned = not self.turned
        return other

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The rows as they are stored, a block at a time, each with the number of its first. A block is good until the next."""
        rows, width = self.stored
        step = max(1, min(MOST, BLOCK // width))
        room = torch.empty(min(step, rows), width, dtype=torch.float64)
        for first in range(0, rows, step):
            block = room[: min(step, rows - first)]
            yield first, block.random_(-(self.p // 2), self.p // 2 + 1, generator=stream(self.key, f"{self.label}|{first}"))

    def whole(self) -> Tensor:
        """All of it as a tensor. Shapes: `shape`."""
        out = torch.empty(self.stored, dtype=torch.float32)
        for first, block in self.blocks():
            out[first : first + block.shape[0]] = block
        return out.t() if self.turned else out

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.whole()[index]

    def __neg__(self) -> Tensor:
        return -self.whole()

    def __mul__(self, other: Any) -> Tensor:
        return self.whole() * other

    def __ne__(self, other: Any) -> Any:
        return self.whole() != (other.whole() if isinstance(other, Drawn) else other)

    def __eq__(self, other: Any) -> Any:
        return self.whole() == (other.whole() if isinstance(other, Drawn) else other)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if function in TRANSPOSES or (function in SWAPS and sorted(flat(args[1:])) in ([0, 1], [-2, -1])):
            return args[0].t()
        plain = tree_map(lambda x: x.whole() if isinstance(x, Drawn) else x, (args, kwargs or {}))
        return function(*plain[0], **plain[1])


def flat(args: Any) -> list[int]:
    """The numbers in the arguments."""
    return [x for arg in args for x in (arg if isinstance(arg, (list, tuple)) else [arg])]


aten = torch.ops.aten
TRANSPOSES = (torch.t, aten.t.default)
SWAPS = (torch.transpose, aten.transpose.int, aten.permute.default)
