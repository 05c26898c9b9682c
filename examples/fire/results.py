"""Figures with intervals: accuracies and log-probabilities of every edit, and the shares that the linear claim explains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from analysis.extras import needed
from analysis.standing import Standing
from analysis.table import LEVEL, RESAMPLES
from examples.fire.language import Language
from examples.fire.study import Said, Study
from rewrite import Program

Row = dict[str, Any]
CONTROLLED = ("direct path", "all paths")  # the edits that are made with random directions and other words' too
FILLED = ("zero", "mean")
RANDOM, ANOTHER = "random", "another word"
SHARES = {  # of what is lost, or kept, in terms of the losses under edits
    "direct / all paths": lambda loss: (loss["direct path"], loss["all paths"]),
    "needed": lambda loss: (loss["direct path"], loss["whole"]),
    "enough": lambda loss: (loss["whole"] - loss["all but direct path"], loss["whole"]),
}


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The interval of the mean over texts: Wilson's if they are truth values, else the bootstrap's."""
    if np.isin(values, (0, 1)).all():
        found = needed("scipy.stats").binomtest(int(values.sum()), len(values)).proportion_ci(LEVEL, method="wilson")
        return float(found.low), float(found.high)
    return resampled((values,), np.mean, seed)


def share(part: np.ndarray, whole: np.ndarray, seed: int) -> tuple[float, float, float] | None:
    """Mean of `part` over mean of `whole`, with its bootstrap interval over texts; None if the whole is not known to within a half."""
    if (whole == whole[0]).all() or resampled((whole,), np.mean, seed)[0] <= max(0.0, whole.mean() / 2):
        return None
    return float(_ratio(part, whole)), *resampled((part, whole), _ratio, seed)


def _ratio(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> np.ndarray:
    return part.mean(axis) / np.maximum(whole.mean(axis), 1e-12)


def resampled(values: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray], seed: int) -> tuple[float, float]:
    """The percentile interval of a statistic over resampled texts."""
    settings = {"n_resamples": RESAMPLES, "confidence_level": LEVEL, "method": "percentile", "rng": seed}
    found = needed("scipy.stats").bootstrap(values, statistic, paired=len(values) > 1, vectorized=True, **settings).confidence_interval
    return float(found.low), float(found.high)


class Results:
    """The long table: one row for each measure of each edit."""

    def __init__(self, subject: Language, seed: int):
        self.subject, self.seed, self.rows = subject, seed, []
        self.of = {word: np.array([text.word == word for text in subject.texts]) for word in subject.forms}

    def add(self, measure: str, values: tuple[float, float, float], texts: str, count: int, **what: str) -> None:
        """A row: what was measured, value and interval, on which texts, under which edit."""
        value, low, high = values
        self.rows.append({**what, "texts": texts, "measure": measure, "value": value, "low": low, "high": high, "n": count})

    def said(self, found: Said, **what: str) -> None:
        """Accuracy, log-probability and false guesses of the studied word: on its own texts, on all others, on each other word's."""
        word = self.subject.word
        chosen = {word: self.of[word], "others": ~self.of[word], **{other: mask for other, mask in self.of.items() if other != word}}
        for texts, mask in chosen.items():
            for measure, values in (("accuracy", found.right), ("log-probability", found.log_probability), ("says it", found.guessed)):
                if measure != "says it" or texts == "others":
                    own = values[mask]
                    self.add(measure, (float(own.mean()), *interval(own, self.seed)), texts, len(own), **what)

    def shares(self, intact: Said, edited: dict[str, Said], **what: str) -> None:
        """Each share, of accuracy and of log-probability, on the studied word's texts; left out where too little is lost."""
        word = self.subject.word
        for measure, unit in (("right", "accuracy"), ("log_probability", "log-probability")):
            loss = {edit: (getattr(intact, measure) - getattr(said, measure))[self.of[word]] for edit, said in edited.items()}
            for name, parts in SHARES.items():
                found = share(*parts(loss), self.seed)
                if found:
                    self.add(f"{name} ({unit})", found, word, int(self.of[word].sum()), edit="", direction=word, **what)

    def get(self, measure: str, texts: str, **what: str) -> Row | None:
        """The row of that measure and edit, if there is one."""
        wanted = {"measure": measure, "texts": texts, **what}
        return next((row for row in self.rows if all(row[key] == value for key, value in wanted.items())), None)


def mean_of(draws: Sequence[Said]) -> Said:
    """The mean over draws, text by text."""
    return Said(*(np.mean([getattr(one, name) for one in draws], 0) for name in ("right", "log_probability", "guessed")))


def study_word(study: Study, results: Results, draws: int) -> None:
    """All edits of the studied word's direction, in every group of writers; random directions in the groups of many."""
    intact = study.said()
    results.said(intact, writers="", edit="none", direction="", filled="")
    for (group, sites), filled in product(study.writers.items(), FILLED):
        edited = {name: study.said(edit, group, filled == "mean") for name, edit in study.edits.items()}
        for name, said in edited.items():
            results.said(said, writers=group, edit=name, direction=study.word, filled=filled)
        results.shares(intact, edited, writers=group, filled=filled)
        for name in CONTROLLED if len(sites) > 1 else ():
            random = [study.said(study.random(results.seed + i, name == "direct path"), group, filled == "mean") for i in range(draws)]
            results.said(mean_of(random), writers=group, edit=name, direction=RANDOM, filled=filled)


def other_words(program: Program, results: Results, count: int) -> dict[str, Standing]:
    """What other words' directions do when taken out of everything, for the first `count`; with the verdict on each one's program."""
    verdicts, found = {}, {case: [] for case in product(CONTROLLED, FILLED)}
    for word in list(results.subject.forms)[1 : 1 + count]:
        study = Study(program, word, results.subject)
        verdicts[word] = study.standing
        for (name, filled), so_far in found.items():
            so_far.append(study.said(study.edits[name], mean=filled == "mean"))
            results.said(so_far[-1], writers="everything", edit=name, direction=word, filled=filled)
    for (name, filled), said in found.items() if verdicts else ():
        results.said(mean_of(said), writers="everything", edit=name, direction=ANOTHER, filled=filled)
    return verdicts
