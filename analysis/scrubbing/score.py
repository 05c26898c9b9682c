"""Scores: what a scrubbed loss is worth, against named baselines, with intervals, and example by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from analysis.scrubbing.hypothesis import Hypothesis
from analysis.scrubbing.samplers import Batch, rows
from analysis.standing import Standing
from rewrite import InputError

if TYPE_CHECKING:
    from analysis.scrubbing.run import Run

RESAMPLES, LEVEL, KEY = 2000, 95, 0
FAR = 1000  # times the way from the mean output to the best one, where a loss without bound is much lower still
MATTERS, CANCELLED = 0.1, 0.5  # the alarm: at least that part of what random inputs change, and more than that part of it cancelled


@dataclass(frozen=True)
class Runs:
    """The same examples under several seeds. Shapes: loss, correct [seed, example]. Units: those of the loss."""

    loss: Tensor
    correct: Tensor | None

    @staticmethod
    def of(runs: Sequence[Run]) -> Runs:
        """Several runs together."""
        rights = [run.correct for run in runs]
        known = [right for right in rights if right is not None]
        return Runs(torch.stack([run.loss for run in runs]), torch.stack(known) if len(known) == len(rights) else None)

    @property
    def accuracy(self) -> float | None:
        """The fraction judged rightly."""
        return None if self.correct is None else self.correct.mean().item()


@dataclass(frozen=True)
class Constant:
    """A model that says the same whatever it reads: the output that does best on average. Shapes: loss [example]."""

    loss: Tensor
    accuracy: float | None = None


@dataclass(frozen=True)
class Interval:
    """A figure, and where it lies in 95 of 100 resamples of examples and seeds."""

    value: float
    low: float
    high: float

    def __format__(self, how: str) -> str:
        return f"{self.value:{how}} [{self.low:{how}}, {self.high:{how}}]"


@dataclass(frozen=True)
class Result:
    """What scrubbing a hypothesis showed; prints as a table under the verdict of the rewrite."""

    hypothesis: Hypothesis
    standing: Standing
    seeds: tuple[int, ...]
    scrubbed: Runs
    exact: Runs
    baselines: Mapping[str, Runs]
    given: Mapping[str, float] = field(default_factory=dict)
    constant: Constant | None = None
    alone: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def loss(self) -> Interval:
        """The mean loss of the scrubbed model. Units: those of the loss."""
        return self._interval(self.scrubbed, lambda mean: mean(self.scrubbed.loss))

    @property
    def losses(self) -> dict[int, float]:
        """The mean loss for each seed. Units: those of the loss."""
        return dict(zip(self.seeds, self.scrubbed.loss.mean(1).tolist(), strict=True))

    def recovered(self, baseline: str = "random") -> Interval:
        """How far the loss has come from a baseline's to the model's: 1 is all of the way, below 0 is worse than the baseline.

        Raises: InputError for a baseline that there is not.
        """

        def fraction(mean: Callable[[Tensor], Any]) -> Any:
            base = self.given[baseline] if baseline in self.given else mean(self._baseline(baseline))
            return (base - mean(self.scrubbed.loss)) / (base - mean(self.exact.loss))

        return self._interval(self.scrubbed, fraction)

    def _baseline(self, name: str) -> Tensor:
        if name == "constant" and self.constant is not None:
            return self.constant.loss[None]
        if name not in self.baselines:
            raise InputError(f"recovered: expected a baseline of {', '.join(self.names)}, got {name!r}.")
        return self.baselines[name].loss

    @property
    def names(self) -> list[str]:
        """The baselines."""
        return [*self.baselines, *(["constant"] if self.constant else []), *self.given]

    def _interval(self, runs: Runs, figure: Callable[[Callable[[Tensor], Any]], Any]) -> Interval:
        """The figure of means, and its percentiles over resampled seeds and examples, the same for every mean in it."""
        seeds, examples = runs.loss.shape
        rng = np.random.default_rng(KEY)
        by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
        by_example = rng.multinomial(examples, np.full(examples, 1 / examples), RESAMPLES) / examples

        def resampled(loss: Tensor) -> Any:
            held = loss.numpy()
            return ((by_seed if len(held) == seeds else np.full((RESAMPLES, len(held)), 1 / len(held))) @ held * by_example).sum(1)

        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.asarray(figure(resampled), dtype=float)
        known = found[np.isfinite(found)]
        low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]) if known.size else (np.nan, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = figure(lambda loss: np.float64(loss.mean().item()))
        return Interval(float(value), float(low), float(high))

    # Example by example

    @property
    def changed(self) -> float:
        """How much the loss of a single example changes, either way, in parts of what random inputs change: 0 is not at all."""
        random = (self.baselines["random"].loss - self.exact.loss).abs().mean().item()
        return (self.scrubbed.loss - self.exact.loss).abs().mean().item() / random if random else 0.0

    @property
    def cancelled(self) -> float:
        """The part of these changes that the mean does not show, because examples got better and worse: 0 none, 1 all."""
        change = self.scrubbed.loss - self.exact.loss
        return 1 - change.mean().abs().item() / change.abs().mean().item() if bool(change.any()) else 0.0

    @property
    def alarm(self) -> bool:
        """True if the mean hides that examples are far from the model's: they change by a tenth of what random inputs change or more,
        and more than half of that cancels."""
        return self.changed >= MATTERS and self.cancelled > CANCELLED

    def __str__(self) -> str:
        from analysis.scrubbing.show import text

        return text(self)


def constant_model(output: Any, batch: Batch, loss: Callable[[Any, Batch], Tensor]) -> Constant | None:
    """The output that is best for all examples together, found by descent from the mean output.

    None where the loss has no gradient there, or no bound.
    Of several values of the output, those that are floats of one row an example are constant, the others as they are.
    """
    count = rows(batch)
    leaves, spec = tree_flatten(output)
    free = [isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[:1] == (count,) for leaf in leaves]
    means = [leaf.double().mean(0).requires_grad_() for leaf, is_free in zip(leaves, free, strict=True) if is_free]

    def measured() -> Tensor:
        values = iter(means)
        wide = [next(values).expand(leaf.shape).to(leaf.dtype) if is_free else leaf for leaf, is_free in zip(leaves, free, strict=True)]
        return loss(tree_unflatten(wide, spec), batch).double()

    with torch.enable_grad():
        if not means or not measured().requires_grad:
            return None
        search = torch.optim.LBFGS(means, max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> float:
            search.zero_grad()
            value = measured().mean()
            value.backward()
            return value  # type: ignore[return-value]

        first, at = measured().mean().item(), [mean.detach().clone() for mean in means]
        search.step(closure)
    with torch.no_grad():
        best, here = measured().detach().cpu(), [mean.clone() for mean in means]
        for mean, start, end in zip(means, at, here, strict=True):
            mean.copy_(start + FAR * (end - start))
        farther = measured().mean().item()
        for mean, end in zip(means, here, strict=True):
            mean.copy_(end)
    reached = best.mean().item()
    if not math.isfinite(reached) or farther < reached - abs(first - reached):  # the farther the better: there is no best
        return None
    return Constant(best, _constant_accuracy(means, spec, batch))


def _constant_accuracy(means: list[Tensor], spec: Any, batch: Batch) -> float | None:
    labels = batch.get("labels")
    if not spec.is_leaf() or means[0].dim() != 1 or not isinstance(labels, Tensor) or labels.dim() != 1:
        return None
    return (labels == means[0].argmax()).double().mean().item()
