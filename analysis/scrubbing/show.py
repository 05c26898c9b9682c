"""Showing what scrubbing a hypothesis found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.scrubbing.score import Result, Runs


def text(result: Result) -> str:
    """The result in one screenful."""
    return "\n".join(_lines(result))


def _lines(result: Result) -> Iterator[str]:
    examples = result.scrubbed.loss.shape[1]
    yield f"scrubbed: {result.standing}"
    yield f"  {examples} examples, seeds {', '.join(map(str, result.seeds))}; intervals: 95 of 100 resamples of examples and seeds"
    yield f"  loss         {result.loss:.4f}   by seed: {', '.join(f'{loss:.4f}' for loss in result.losses.values())}"
    yield f"  {'':<12} {'loss':>8} {'accuracy':>9}   recovered from it"
    yield _row("scrubbed", result.scrubbed.loss.mean().item(), result.scrubbed.accuracy, "")
    yield _row("model", result.exact.loss.mean().item(), result.exact.accuracy, "")
    for name in result.names:
        yield _row(name, *_baseline(result, name), f"{result.recovered(name):.1%}")
    yield (
        f"  by example   loss changes by {result.changed:.1%} of what random inputs change"
        f" ({_worse(result):.1%} of examples get worse); {result.cancelled:.1%} of that cancels in the mean"
    )
    if result.alarm:
        yield "  ALARM        the mean hides that single examples are far from the model: do not trust the recovered fraction"
    for name, (alone, drawn) in result.alone.items():
        yield f"  warning      {name}: {alone} of {drawn} examples share their feature with no other: nothing is exchanged there"


def _row(name: str, loss: float, accuracy: float | None, recovered: str) -> str:
    return f"  {name:<12} {loss:8.4f} {'' if accuracy is None else f'{accuracy:9.2%}':>9}   {recovered}".rstrip()


def _baseline(result: Result, name: str) -> tuple[float, float | None]:
    if name == "constant" and result.constant is not None:
        return result.constant.loss.mean().item(), result.constant.accuracy
    if name in result.given:
        return result.given[name], None
    runs: Runs = result.baselines[name]
    return runs.loss.mean().item(), runs.accuracy


def _worse(result: Result) -> float:
    """The part of examples whose loss goes up by more than a tenth of what random inputs change on average."""
    random = (result.baselines["random"].loss - result.exact.loss).abs().mean().item()
    return (result.scrubbed.loss - result.exact.loss > 0.1 * random).double().mean().item()
