"""Hypotheses: which parts of a model compute which features of the data, as a tree of claims about paths.

The semantics are those of causal scrubbing (Chan et al. 2022). The hypothesis draws an example for each reference example; each part draws
from what agrees with its *parent's* example in the part's feature, its siblings independently of it. Only two kinds of draws reach the
model: a part without parts of its own runs on its own example; of any other, the inputs that no part claims share one `other` example.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.scrubbing.samplers import Sampler, exact, unconditional
from rewrite import InputError

ROOT = "hypothesis"
HOP_LAST = re.compile(r"(->|~>)(\s*!\s*\S+)*\s*$")


@dataclass(frozen=True)
class Part:
    """A claim: what travels on `paths` is a function of what `sampler` keeps.

    `paths` lead to an output, or for a part of a part to the first stop of the parent's paths: they then end in the hop to it, as in
    `"blocks.0.mlp ~>"`. `other` draws for the inputs that none of `parts` claims.
    """

    name: str
    paths: str | Sequence[str]
    sampler: Sampler
    parts: Sequence[Part] = ()
    other: Sampler = unconditional

    @property
    def texts(self) -> tuple[str, ...]:
        """The paths, as a tuple."""
        return (self.paths,) if isinstance(self.paths, str) else tuple(self.paths)


@dataclass(frozen=True, init=False)
class Hypothesis:
    """A whole hypothesis: `sampler` draws for the model's output, `other` for every input that no part claims."""

    parts: tuple[Part, ...]
    sampler: Sampler
    other: Sampler

    def __init__(self, *parts: Part, sampler: Sampler = exact, other: Sampler = unconditional):
        for name, value in (("parts", parts), ("sampler", sampler), ("other", other)):
            object.__setattr__(self, name, value)
        names = [part.name for part, _ in self.walk()]
        twice = next((name for name in names if names.count(name) > 1 or name == ROOT), None)
        if twice is not None:
            raise InputError(f"hypothesis: expected parts of names of their own, got {twice!r} twice. Each part draws under its name.")

    def walk(self) -> Iterator[tuple[Part, tuple[str, ...]]]:
        """Every part with its whole paths, parents before their parts.

        Raises: InputError for something that is no part.
        """
        waiting: list[tuple[Any, tuple[str, ...]]] = [(part, ("",)) for part in self.parts]
        while waiting:
            part, ends = waiting.pop(0)
            if not isinstance(part, Part):
                raise InputError(f"hypothesis: expected parts, got {type(part).__name__}. Write Part(name, path, sampler).")
            _check(part, inner=ends != ("",))
            paths = tuple(f"{text} {end}".strip() for text in part.texts for end in ends)
            yield part, paths
            waiting += [(one, paths) for one in part.parts]

    @property
    def copies(self) -> dict[str, list[str]]:
        """What the pass `inputs` is to be applied at: the paths of each part."""
        return {part.name: list(paths) for part, paths in self.walk()}

    def __str__(self) -> str:
        lines = [f"{ROOT}: {_of(self)}"]
        waiting = [(part, 1) for part in self.parts]
        while waiting:
            part, depth = waiting.pop(0)
            lines.append(f"{'  ' * depth}{part.name}: {' and '.join(part.texts)}: {_of(part)}")
            waiting = [(one, depth + 1) for one in part.parts] + waiting
        return "\n".join(lines)


def _check(part: Part, inner: bool) -> None:
    """Raises: InputError for what is no sampler, and for a path that does not lead on to the part that it is in."""
    for sampler in (part.sampler, part.other):
        if not callable(sampler) or not _takes_three(sampler):
            found = getattr(sampler, "__name__", repr(sampler))
            advice = f"To agree in a feature, write by({found})." if callable(sampler) else "Write by(feature), exact or unconditional."
            raise InputError(f"part {part.name!r}: expected a sampler, a function of (parent, data, generator), got {found}. {advice}")
    for text in part.texts if inner else ():
        if not HOP_LAST.search(text):
            raise InputError(
                f"part {part.name!r}: expected a path that ends in -> or ~>, to the part that it is in, got {text!r}. Leave its reader out."
            )


def _takes_three(sampler: Any) -> bool:
    try:
        inspect.signature(sampler).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # no signature to look at
        return True
    return True


def _of(node: Part | Hypothesis) -> str:
    return f"{node.sampler}, other {node.other}" if node.parts else str(node.sampler)
