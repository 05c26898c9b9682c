"""Running a hypothesis: the program with one copy of its inputs for each part, on the examples that were drawn, in chunks of rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from analysis.checks import check_functions
from analysis.data import arguments, batches, measured, picked
from analysis.data import inputs as own_inputs
from analysis.scrubbing.chunks import bytes_a_row, fixed_rows
from analysis.scrubbing.draws import Draw, draw, generator
from analysis.scrubbing.hypothesis import Hypothesis
from analysis.scrubbing.pool import pooled
from analysis.scrubbing.samplers import Batch, rows, unconditional
from analysis.scrubbing.score import Result, Runs, constant_model
from analysis.standing import standing
from passes import inputs
from rewrite import InputError, Program
from rewrite.nested import join, tensors_in
from rewrite.routes import parse_route

Metric = Callable[[Any, Batch], Tensor]
MEMORY, LONG = 2**26, 20  # bytes of values alive at a time in one chunk; chunks from which progress is shown
_unshared: WeakKeyDictionary[Program, dict[str, Program]] = WeakKeyDictionary()


def scrub(
    program: Program,
    hypothesis: Hypothesis,
    data: Iterable[Batch] | Batch,
    loss: Metric,
    *,
    examples: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    correct: Metric | None = None,
    baselines: Mapping[str, float | Hypothesis] | None = None,
    memory: int = MEMORY,
    unproved: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """How much of the loss is left when everything that the hypothesis calls unimportant is exchanged, and what that is worth.

    `data` are the examples to draw from, `examples` how many of them (drawn by the first seed; all if left out) are scored; each seed draws
    anew. `loss(output, batch)` and `correct(output, batch)` give one number an example; without `correct`, tensor outputs are held against
    the batch's `labels` if there are any. Tensors and lists of the data have a row for each example; arguments without an axis of
    examples are the same in all batches. `baselines` are more losses, or hypotheses, to measure the recovered fraction from. `memory`
    bounds what a chunk of rows holds at a time. `progress` is told what is being proved, and of every chunk that is done.
    Units: `memory` bytes.
    Raises: PassError for paths that are not there or overlap, InputError for samplers or losses that do not fit, both before the long part;
    TautomerError for a rewrite that is another function, unless `unproved`.
    """
    _check(examples, seeds, baselines or {}, loss=loss, correct=correct, progress=progress)
    pool, shared = pooled(program, batches(program, data, "scrub"))
    others = {name: h for name, h in (baselines or {}).items() if isinstance(h, Hypothesis)}
    named: dict[str, Hypothesis] = {"": hypothesis, "random": Hypothesis(sampler=unconditional), **others}
    job = Job(program, {name: unshared(program, h) for name, h in named.items()}, pool, loss, correct, memory, shared)
    reference = job.reference(examples, seeds[0])
    check_positions(program, named.values(), {**reference, **shared})
    draws = {(name, seed): draw(h, reference, pool, seed) for name, h in named.items() for seed in seeds}
    job.check(draws["", seeds[0]], reference)
    shown, *_ = [standing(job.programs[name], unproved=unproved, progress=progress) for name in ("", *others)]
    with _progress(job.chunks(reference) * (len(draws) + 1), progress) as tell:
        exact = job.run(program, Draw({"": reference}, {}), reference, tell)
        made = {key: job.run(job.programs[key[0]], one, reference, tell) for key, one in draws.items()}
    runs = {name: Runs.of([made[name, seed] for seed in seeds]) for name in named}
    given = {name: float(value) for name, value in (baselines or {}).items() if not isinstance(value, Hypothesis)}
    return Result(
        hypothesis=hypothesis,
        standing=shown,
        seeds=tuple(seeds),
        scrubbed=runs.pop(""),
        exact=Runs.of([exact]),
        baselines=runs,
        given=given,
        constant=constant_model(exact.output, reference, loss),
        alone={name: (count, rows(reference)) for name, count in draws["", seeds[0]].alone.items() if count},
    )


def _check(examples: int | None, seeds: Any, baselines: Mapping[str, float | Hypothesis], **functions: Any) -> None:
    """Raises: InputError for seeds, a number of examples, baselines or functions that mean nothing."""
    check_functions("scrub", **functions)
    whole = isinstance(seeds, Sequence) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"scrub: expected seeds of their own, whole numbers from 0, at least one, got seeds={seeds!r}.")
    if examples is not None and examples < 1:
        raise InputError(f"scrub: expected at least one example, got examples={examples!r}.")
    for name, value in baselines.items():
        if name in ("", "random", "constant"):
            raise InputError(f"scrub: expected a baseline of a name of its own, got {name!r}, which is taken. Rename it.")
        if not isinstance(value, Hypothesis) and not (isinstance(value, int | float) and math.isfinite(value)):
            raise InputError(f"scrub: expected baseline {name!r} to be a number or a Hypothesis, got {value!r}.")


def unshared(program: Program, hypothesis: Hypothesis) -> Program:
    """The program with a copy of its inputs for each part of the hypothesis; the same one for the same paths.

    Raises: PassError for paths that are not there, or that overlap.
    """
    copies = hypothesis.copies
    known = _unshared.setdefault(program, {})
    key = repr(copies)
    if key not in known:
        known[key] = program.apply(inputs.at(copies)) if copies else program
    return known[key]


def check_positions(program: Program, hypotheses: Iterable[Hypothesis], batch: Batch) -> None:
    """Raises: SiteError or InputError for a stop of a path at positions that the data do not have."""
    routes = [parse_route(path) for one in hypotheses for paths in one.copies.values() for path in paths]
    texts = sorted({stop.text for route in routes for stop in route.stops if stop.slice is not None})
    few = torch.arange(fixed_rows(program) or 2).clamp(max=rows(batch) - 1)
    with torch.no_grad():
        found = program.run(own_inputs(program, _cut(batch, few)), read=texts)[1] if texts else {}
    for text, value in found.items():
        if not value.numel():
            raise InputError(f"{text}: expected positions that the data have, got none of them. They are counted from 0.")


@dataclass(frozen=True)
class Run:
    """One run: the loss of each example, whether it was judged rightly if that is known, and the model's output."""

    loss: Tensor
    correct: Tensor | None
    output: Any


@dataclass(frozen=True)
class Job:
    """One question: the programs for all hypotheses, the data, and how an output is measured."""

    program: Program
    programs: Mapping[str, Program]
    data: Batch
    loss: Metric
    correct: Metric | None
    memory: int
    shared: Batch = field(default_factory=dict)  # arguments without an axis of examples

    def reference(self, examples: int | None, seed: int) -> Batch:
        """The examples that are scored.

        Raises: InputError for more than there are.
        """
        count = rows(self.data)
        if examples is None:
            return self.data
        if examples > count:
            raise InputError(f"scrub: expected at most {count} examples, as many as there are data, got {examples}.")
        return _cut(self.data, torch.randperm(count, generator=generator(seed, "", "reference"))[:examples])

    def check(self, one: Draw, reference: Batch) -> None:
        """A run of the first examples, which raises what there is to raise about the loss."""
        few = torch.arange(min(2, rows(reference)))
        self.run(self.programs[""], Draw({name: _cut(batch, few) for name, batch in one.batches.items()}, {}), _cut(reference, few), None)

    def chunks(self, reference: Batch) -> int:
        """How many chunks one run takes."""
        return math.ceil(rows(reference) / self._size(self.programs[""]))

    def _size(self, program: Program) -> int:
        """How many rows a chunk has: what a static program is for, else what the memory allows."""
        fixed = fixed_rows(program)
        return fixed or max(1, self.memory // bytes_a_row(program))

    def run(self, program: Program, one: Draw, reference: Batch, tell: Callable[[], None] | None) -> Run:
        """The program on the examples drawn, chunk by chunk; the losses are the reference's."""
        count, size, fixed = rows(reference), self._size(program), fixed_rows(program)
        losses, rights, outputs = [], [], []
        for start in range(0, count, size):
            here = torch.arange(start, min(start + size, count))
            wide = torch.cat([here, here[-1:].expand(fixed - len(here))]) if fixed else here
            with torch.no_grad():
                output = program.run(self._arguments(program, {name: _cut(batch, wide) for name, batch in one.batches.items()}))[0]
            output = _first(output, len(here)) if len(wide) > len(here) else output
            batch = _cut(reference, here)
            losses.append(measured(self.loss, output, batch, len(here), "loss").detach().cpu())
            right = self._right(output, batch)
            rights += [] if right is None else [measured(lambda *_, found=right: found, output, batch, len(here), "correct").cpu()]
            outputs.append(output)
            if tell:
                tell()
        return Run(torch.cat(losses), torch.cat(rights) if rights else None, _joined_outputs(outputs))

    def _arguments(self, program: Program, drawn: Mapping[str, Batch]) -> dict[str, Any]:
        """The arguments of the program: its own inputs, and each copy's under its name.

        Raises: InputError for an argument that a sampler's own examples do not have.
        """
        found: dict[str, Any] = {}
        for copy, batch in drawn.items():
            given = {**self.shared, **batch}
            missing = [name for name in arguments(program) if name not in given]
            if missing:
                who = f"sampler of {copy!r}" if copy else "sampler"
                raise InputError(f"{who}: expected examples with the program's arguments, got none of {missing[0]!r}.")
            own = own_inputs(program, given)
            copied = {f"{join(name, below)}@{copy}": tensor for name, value in own.items() for below, tensor in tensors_in(value)}
            found |= copied if copy else own
        return found

    def _right(self, output: Any, batch: Batch) -> Tensor | None:
        if self.correct is not None:
            return self.correct(output, batch).double()
        labels = batch.get("labels")
        if not isinstance(output, Tensor) or not isinstance(labels, Tensor) or output.dim() != 2 or labels.shape != output.shape[:1]:
            return None
        return (output.argmax(-1) == labels.to(output.device)).double()


def _cut(batch: Batch, some: Tensor) -> dict[str, Any]:
    """Some rows of a batch."""
    return {name: picked(value, some) for name, value in batch.items()}


def _first(output: Any, count: int) -> Any:
    """The first rows of every tensor of an output."""
    return tree_map(lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() else leaf, output)


def _joined_outputs(outputs: list[Any]) -> Any:
    flat = [tree_flatten(output) for output in outputs]
    leaves = [
        torch.cat(list(parts)) if isinstance(parts[0], Tensor) and parts[0].dim() else parts[0]
        for parts in zip(*(f[0] for f in flat), strict=True)
    ]
    return tree_unflatten(leaves, flat[0][1])


@contextmanager
def _progress(chunks: int, progress: Callable[[str], None] | None) -> Iterator[Callable[[], None]]:
    """Something to tell after every chunk, which tells `progress`; without one a bar on a terminal, if it will take long."""
    console, done = Console(stderr=True), itertools.count(1)
    quiet = progress is not None or chunks < LONG or not console.is_terminal
    with Progress(console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("scrubbing", total=chunks)

        def tell() -> None:
            bar.advance(task)
            if progress:
                progress(f"chunk {next(done)} of {chunks}")

        yield tell
