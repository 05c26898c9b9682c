"""Effects: what a metric is with each target ablated, computed with as little running as that takes.

For each batch the program is run once without edits. Then, for targets whose values are edited at the same addresses, only what
depends on these is run again, for several targets side by side, each in its own copy of the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from analysis.ablation.checkpoint import Checkpoint
from analysis.ablation.edits import edit
from analysis.ablation.reference import Reference
from analysis.ablation.targets import Target
from analysis.data import Metric, inputs, measured, size
from rewrite import InputError, Program
from rewrite.call import bind
from rewrite.layout import Layout
from rewrite.resume import Resume, Start, work_behind

Positions = int | Sequence[int] | Tensor | str
MEMORY = 2**30  # bytes
ROWS = 1024  # positions of all copies side by side: more are not faster, and take memory


@dataclass(frozen=True)
class Effects:
    """The metric without edits, and with each target ablated. Shapes: clean [example], ablated [target, example]."""

    clean: Tensor
    ablated: Tensor


@dataclass
class Plan:
    """A sweep made ready: what is ablated, on what data, read how, in how much memory."""

    program: Program
    data: Sequence[Mapping[str, Any]]
    targets: Sequence[Target]
    metric: Metric
    positions: Positions | None = None
    memory: int = MEMORY
    _first: dict[int, tuple[Start, Tensor]] = field(default_factory=dict)  # of the first batch, run when it is checked

    def __post_init__(self) -> None:
        self.groups = self._by_depth()
        self.each = any(_places(self.positions, batch) is not None and _each(self.positions, batch) for batch in self.data)
        self.parts = list(self._fitting(list(self.groups)))

    def check(self) -> None:
        """Runs the first batch without edits, and the metric on it.

        Raises: InputError for inputs, positions or a metric that do not fit, of any batch where that shows without running it.
        """
        for batch in self.data:
            Layout.of(self.program, bind(self.program, (), inputs(self.program, batch)), _places(self.positions, batch))
        start = self._start(self.parts[0], 0)
        self._first[0] = start, self._measured(start.output, 0, "metric")

    def run(
        self,
        references: Callable[[int], Reference],
        checkpoint: Checkpoint | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Effects:
        """The metric of every example without edits and with each target ablated; what `checkpoint` holds is not computed again."""
        clean: list[Tensor] = []
        ablated = [torch.full((len(self.targets), size(self.program, batch)), torch.nan, dtype=torch.float64) for batch in self.data]
        for number in range(len(self.data)):
            done = 0
            known = checkpoint.known(number) if checkpoint else {}
            for target in known.keys() - {Checkpoint.CLEAN}:
                ablated[number][target] = known[target]
            done += len(known.keys() - {Checkpoint.CLEAN})
            if Checkpoint.CLEAN in known:
                clean.append(known[Checkpoint.CLEAN])
            for numbers, values in self._batch(number, references(number) if len(known) <= len(self.targets) else None, known):
                if numbers == [Checkpoint.CLEAN]:
                    clean.append(values[0])
                else:
                    ablated[number][numbers] = values
                    done += len(numbers)
                if checkpoint:
                    checkpoint.keep(number, numbers, values)
                if progress:
                    progress(f"batch {number + 1} of {len(self.data)}: {done} of {len(self.targets)} targets done")
        return Effects(torch.cat(clean), torch.cat(ablated, 1))

    # ------------------------------------------------------------------------------------------------ one batch

    def _batch(self, number: int, reference: Reference | None, known: Mapping[int, Tensor]) -> Iterator[tuple[list[int], Tensor]]:
        """What is not known yet of one batch: the numbers of targets and their metric, [target, example]."""
        for part in self.parts:
            left = {group: [one for one in self.groups[group] if one not in known] for group in part.groups}
            needs_clean = part is self.parts[0] and Checkpoint.CLEAN not in known
            if not needs_clean and not any(left.values()):
                continue
            first = self._first.pop(number, None) if part is self.parts[0] else None
            start = first[0] if first else self._start(part, number)
            if needs_clean:
                clean = first[1] if first else self._measured(start.output, number, f"metric, batch {number}")
                yield [Checkpoint.CLEAN], clean.unsqueeze(0)
            for at, group in enumerate(part.groups):
                for stack in self._stacks(part, start, at, left[group]):
                    assert reference is not None
                    yield stack, self._ablated(part, start, at, number, stack, reference)

    def _start(self, part: Resume, number: int) -> Start:
        batch = self.data[number]
        with torch.no_grad():
            return part.start(inputs(self.program, batch), _places(self.positions, batch))

    def _ablated(self, part: Resume, start: Start, at: int, number: int, stack: list[int], reference: Reference) -> Tensor:
        targets = [self.targets[one] for one in stack]
        edits = {address: edit(address, targets, reference, part.axis(address)) for address in part.groups[at]}
        with torch.no_grad():
            outputs = part.finish(start, at, edits, len(stack))
            where = [f"metric, {target.address} ablated, batch {number}" for target in targets]
            return torch.stack([self._measured(output, number, text) for output, text in zip(outputs, where, strict=True)])

    def _measured(self, output: Any, number: int, where: str) -> Tensor:
        batch = self.data[number]
        with torch.no_grad():
            return measured(self.metric, output, batch, size(self.program, batch), where)

    def _by_depth(self) -> dict[tuple[str, ...], list[int]]:
        """The numbers of the targets by the addresses edited in one run: those with the same work behind them together."""
        work: dict[tuple[str, ...], frozenset[str]] = {}
        alike: dict[frozenset[str], list[int]] = {}
        for number, target in enumerate(self.targets):
            if target.edited not in work:
                work[target.edited] = work_behind(self.program, target.edited)
            alike.setdefault(work[target.edited], []).append(number)
        groups = [
            list(dict.fromkeys(address for number in numbers for address in self.targets[number].edited)) for numbers in alike.values()
        ]
        return dict(zip(map(tuple, groups), alike.values(), strict=True))

    # ------------------------------------------------------------------------------------------------ memory

    def _stacks(self, part: Resume, start: Start, at: int, numbers: list[int]) -> Iterator[list[int]]:
        """Targets that run side by side: as many as memory allows, at least one."""
        copies = 1
        if len(numbers) > 1 and part.apart(start, at):
            room = (self.memory - part.kept(start.layout)) // max(1, part.peak(at, start.layout))
            copies = max(1, min(room, ROWS // max(1, start.layout.rows)))
        pieces = -(-len(numbers) // copies)  # of nearly the same number
        for piece in range(pieces):
            yield numbers[piece * len(numbers) // pieces : (piece + 1) * len(numbers) // pieces]

    def _fitting(self, groups: list[tuple[str, ...]]) -> Iterator[Resume]:
        """The groups in as few parts as keep what they take from the plain run in half of the memory."""
        part = self.program.resume(groups, positions=self.positions is not None, each=self.each)
        largest = max(part.kept(Layout.of(self.program, bind(self.program, (), inputs(self.program, batch)))) for batch in self.data)
        if largest <= self.memory // 2 or len(groups) == 1:
            yield part
        else:
            yield from self._fitting(groups[: len(groups) // 2])
            yield from self._fitting(groups[len(groups) // 2 :])


def _places(positions: Positions | None, batch: Mapping[str, Any]) -> Any:
    """The positions of a batch, as `Resume.start` takes them.

    Raises: InputError for a name that the batch does not have.
    """
    if not isinstance(positions, str):
        return positions
    found = batch.get(positions)
    if not isinstance(found, Tensor):
        raise InputError(f"positions: expected a tensor {positions!r} in every batch, got {type(found).__name__}. Add it to the data.")
    return found.unsqueeze(1) if found.dim() == 1 else found


def _each(positions: Positions | None, batch: Mapping[str, Any]) -> bool:
    found = _places(positions, batch)
    return isinstance(found, Tensor) and found.dim() == 2
