"""The search for a witness: values on which two programs, run in float64, differ by more than rounding explains.

Only a witness makes an inequality of the exact tier a refutation. The search looks at the model's inputs first, then at the inputs of the
first region that differs; it knows what either graph treats apart (`harvest.py`), and scales.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

import torch
from torch import Tensor

from verify.cases import redrawn, rows_read
from verify.gap import Gap
from verify.ladder import Sides
from verify.roles import Role
from verify.runs import FAILURES, Place, Setting
from verify.shadow import Case, sweep
from verify.witnesses.harvest import MOST_IDS, Harvest, Wish, harvest, rows_apart, wishes

SCALES = (1.0, 2.0**-10, 2.0**10, 2.0**-20, 2.0**20)
ASCENT, MOST_LISTS = 24, 48


@dataclass(frozen=True)
class Witness:
    """Values on which the two differ: of the model's inputs by name, or of the inputs of a region by address (`reachable` False).

    `inputs` are the model's inputs that go with the values of a region. `left` says what is left after making it smaller. `site`, `key`,
    `subject` and `any_weights` say of which comparison it is.
    """

    values: Mapping[str, Tensor]
    gap: Gap
    how: str
    reachable: bool = True
    region: str = ""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    site: str = ""
    key: str = ""
    subject: str = ""
    any_weights: bool = False

    @property
    def of_gradients(self) -> bool:
        """True if the outputs are the same function, and their gradients differ."""
        return self.how.startswith("gradients")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the witness to one safetensors file, whole or not at all. Raises: FileError if it cannot be written."""
        from verify.witnesses.keep import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Witness:
        """The witness in a file; nothing of it is run. Raises: FileError for a file that is missing, broken or none of ours."""
        from verify.witnesses.keep import load

        return load(path)


def search(sides: Sides, cases: Sequence[Case], roles: Mapping[str, Role], seed: int) -> Witness | None:
    """A witness at the model's inputs, or None. Meta tensors have no values and so no witness."""
    if _on_meta(sides):
        return None
    known = harvest(sides.a) | harvest(sides.b)
    generator = torch.Generator().manual_seed(seed)
    setting = Setting(sides, cases[0])
    for how, case in _tries(sides, cases, roles, known, generator):
        values = setting.values(case)
        found = replace(setting, case=case).parts(values)
        if found:
            return Witness(values, found, how)
    return _climb(setting, roles, generator)


def _on_meta(sides: Sides) -> bool:
    return any(t.is_meta for p in (sides.a, sides.b) for t in p.tensors.values())


def _tries(
    sides: Sides, cases: Sequence[Case], roles: Mapping[str, Role], known: Harvest, generator: torch.Generator
) -> Iterator[tuple[str, Case]]:
    program = sides.a
    for case in cases:
        yield "the inputs given", case
    for case in cases:
        for scale in SCALES:
            yield f"random inputs of scale {scale:g}", redrawn(program, case, roles, generator, scale)
    for node, leaf in program.leaves.items():
        if roles.get(leaf.name) == "ids":
            yield from _with_ids(sides, node, cases[0], known)
        elif roles.get(leaf.name) == "values":
            for value in sorted(known.numbers, key=abs):
                for drawn in _around(cases[0][node], value, generator):
                    yield f"{leaf.name} around {value:g}, a number of the graphs", {**cases[0], node: drawn}


def _with_ids(sides: Sides, node: str, case: Case, known: Harvest) -> Iterator[tuple[str, Case]]:
    like: Tensor = case[node]
    name, rows, many = sides.a.leaves[node].name, rows_read(sides.a, node, like), max(1, like.numel())
    theirs = sides.matching.inputs.get(node, node)
    for wish in wishes([(sides.a, node, case), (sides.b, theirs, sides.of_b(case))], rows):
        yield f"{name} with the ids that comparisons ask for", {**case, node: _granted(like, wish)}
    first = [i for i in rows_apart(sides) if i < rows]
    wanted = [*first, *sorted(i for i in (known.ids | {0, rows - 1}) - set(first) if 0 <= i < rows)][:MOST_IDS]
    whole = [*wanted, *(i for i in range(rows) if i not in set(wanted))][: max(MOST_IDS, many)]
    for start in range(0, len(whole), many):
        some = whole[start : start + many]
        yield f"{name} through ids {some[0]}, ...", {**case, node: _filled(like, some)}
    for value in wanted[:64]:
        yield f"{name} all {value}", {**case, node: torch.full_like(like, value)}
    for ids in islice(_lists(known, like, rows), MOST_LISTS):
        yield f"{name} from a list of the graphs", {**case, node: ids}


def _granted(like: Tensor, wish: Wish) -> Tensor:
    ids = like.flatten().clone()
    ids[torch.tensor(list(wish), device=like.device)] = torch.tensor(list(wish.values()), dtype=like.dtype, device=like.device)
    return ids.view(like.shape)


def _filled(like: Tensor, ids: Sequence[int]) -> Tensor:
    """The ids over and over again, in the shape of `like`."""
    row = torch.tensor(ids, dtype=like.dtype, device=like.device)
    return row.repeat(like.numel() // len(ids) + 1)[: like.numel()].view(like.shape)


def _lists(known: Harvest, like: Tensor, rows: int) -> Iterator[Tensor]:
    """Each list of ids of either graph over and over again, begun at every place of it, as many of these at a time as there are rows."""
    long = like.shape[-1] if like.dim() else 1
    batch = max(1, like.numel() // max(1, long))
    for row in sorted(known.lists):
        steps = {b - a for a, b in pairwise(row)}
        if 1 < len(row) <= long and set(row) <= set(range(rows)) and steps - {0} not in ({1}, set()):  # positions are lists, too
            starts = [row[i:] + row[:i] for i in range(len(row))]
            for i in range(0, len(starts), batch):
                yield torch.stack([_filled(like.new_empty(long), s) for s in (starts[i : i + batch] * batch)[:batch]]).view(like.shape)


def _around(like: Tensor, value: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers around `value`, and the same ones mirrored there: each entry is on either side of it once."""
    off = value * torch.randn(like.shape, generator=generator, dtype=torch.float64)
    off = off + 0.1 * torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (value + off).to(like), (value - off).to(like)


def _climb(setting: Setting, roles: Mapping[str, Role], generator: torch.Generator) -> Witness | None:
    """Gradient ascent on the size of the float64 difference, where there is any."""
    sides, case = setting.sides, setting.case
    names = [n for n, leaf in sides.a.leaves.items() if leaf.kind == "input" and roles.get(leaf.name) == "values"]
    now = redrawn(sides.a, case, roles, generator)
    for _ in range(ASCENT if names else 0):
        try:
            slopes = _slopes(sides, now, names)
        except FAILURES:
            return None
        if slopes is None:
            return None
        now = dict(now)
        for name, slope in slopes.items():
            value = now[name].detach().double()
            step = slope / slope.square().mean().sqrt().clamp(min=1e-300) * value.square().mean().sqrt()
            now[name] = (value + 0.3 * step).to(case[name])
        values = setting.values(now)
        found = setting.parts(values)
        if found:
            return Witness(values, found, "gradient ascent")
    return None


def _slopes(sides: Sides, now: Case, names: Sequence[str]) -> dict[str, Tensor] | None:
    """The gradient of the squared difference with respect to some inputs, where it is finite; None if there is no difference to climb."""
    inputs = {n: now[n].detach().double().requires_grad_() for n in names}
    with_inputs = {**now, **inputs}
    ours = sweep(sides.a, [with_inputs], [x for _, x, _ in sides.outputs], torch.float64, keep=True)[0]
    theirs = sweep(sides.b, [sides.of_b(with_inputs)], [y for _, _, y in sides.outputs], torch.float64, tensors=sides.override, keep=True)[
        0
    ]
    floats = [(x, y) for _, x, y in sides.outputs if isinstance(ours[x], Tensor) and ours[x].is_floating_point()]
    total = sum(((theirs[y] - ours[x]).square().sum() for x, y in floats), torch.zeros((), dtype=torch.float64))
    if not total.requires_grad or not 0 < float(total.detach()) < math.inf:
        return None
    slopes = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    return {n: slope for n, slope in zip(names, slopes, strict=True) if slope is not None and bool(slope.isfinite().all())}


def search_region(sides: Sides, name: str, places: Sequence[Place], case: Case, seed: int) -> Witness | None:
    """A witness at the inputs of the region `name`: values of `places` on which outputs differ.

    It is not shown that the model's inputs can reach these values.
    """
    if _on_meta(sides):
        return None
    generator = torch.Generator().manual_seed(seed)
    setting = Setting(sides, case, tuple(places))
    read = setting.read()
    setting = replace(setting, places=read)
    numbers = sorted((harvest(sides.a) | harvest(sides.b)).numbers, key=abs)
    tries = [(f"scale {s:g}", s, 0.0) for s in SCALES] + [(f"size {v:g}, a number of the graphs", abs(v), v) for v in numbers if v]
    for how, scale, centre in tries if read else ():
        drawn = {p.address: centre + scale * torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in read}
        found = setting.parts(drawn)
        if found:
            return Witness(drawn, found, f"random values of {how}", False, name, setting.values(case))
    return None
