"""Figures with intervals: accuracies and log-probabilities of every edit, and the shares that the linear claim explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.extras import needed
from analysis.standing import Standing
from analysis.table import LEVEL, RESAMPLES
from examples.fire.language import Language
from examples.fire.study import Said, Study
from rewrite import Program


Row = dict[str, Any]
SHARES = {  # of what is lost, or kept, in terms of the losses under edits
    "direct / all paths": lambda loss: (loss["direct path"], loss["all paths"]),
    "needed": lambda loss: (loss["direct path"], loss["whole"]),
    "enough": lambda loss: (loss["whole"] - loss["all but direct path"], loss["whole"]),
}


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The interval of the mean over texts: Wilson's if they are truth values, else the bootstrap's."""
    stats = needed("scipy.stats")
    if np.isin(values, (0, 1)).all():
        found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(LEVEL, method="wilson")
    else:
        found = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=seed)
        found = found.confidence_interval
    return float(found.low), float(found.high)


def share(part: np.ndarray, whole: np.ndarray, seed: int) -> tuple[float, float, float] | None:
    """Mean of `part` over mean of `whole`, with its bootstrap interval over texts; None if the whole may be nothing."""
    bootstrap = needed("scipy.stats").bootstrap
    settings = {"n_resamples": RESAMPLES, "confidence_level": LEVEL, "method": "percentile", "rng": seed}
    if (whole == whole[0]).all():
        low = whole[0]
    else:
        low = bootstrap((whole,), np.mean, **settings).confidence_interval.low
    if low <= 0:
        return None

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) / np.maximum(b.mean(axis), 1e-12)

    found = float(ratio(part, whole))
    if (part == part[0]).all() and (whole == whole[0]).all():
        return found, found, found
    between = bootstrap((part, whole), ratio, paired=True, vectorized=True, **settings).confidence_interval
    return found, float(between.low), float(between.high)


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
        """Each share, of accuracy and of log-probability, on the studied word's texts; left out where nothing is lost."""
        word = self.subject.word
        for measure in ("right", "log_probability"):
            loss = {edit: (getattr(intact, measure) - getattr(said, measure))[self.of[word]] for edit, said in edited.items()}
            for name, parts in SHARES.items():
                found = share(*parts(loss), self.seed)
                if found:
                    unit = "accuracy" if measure == "right" else "log-probability"
                    self.add(f"{name} ({unit})", found, word, int(self.of[word].sum()), edit="", direction=word, filled="mean", **what)

    def get(self, measure: str, texts: str, **what: str) -> Row | None:
        """The row of that measure and edit, if there is one."""
        wanted = {"measure": measure, "texts": texts, **what}
        return next((row for row in self.rows if all(row[key] == value for key, value in wanted.items())), None)


def mean_of(draws: Sequence[Said]) -> Said:
    """The mean over draws, text by text."""
    return Said(*(np.mean([getattr(one, name) for one in draws], 0) for name in ("right", "log_probability", "guessed")))


def study_word(study: Study, results: Results, draws: int) -> None:
    """All edits of the studied word's direction, in every group of writers; random directions in the groups of many."""
    word, intact = study.word, study.said()
    results.said(intact, writers="", edit="none", direction="", filled="")
    edits = {"direct path": study.direct, "all paths": study.all_paths, "whole": study.whole, "all but direct path": study.all_but_direct}
    for group, sites in study.writers.items():
        edited = {name: study.said(edit, group) for name, edit in edits.items()}
        for name, said in edited.items():
            results.said(said, writers=group, edit=name, direction=word, filled="mean")
        results.shares(intact, edited, writers=group)
        for name in ("direct path", "all paths"):
            results.said(study.said(edits[name], group, mean=False), writers=group, edit=name, direction=word, filled="zero")
            if len(sites) > 1:
                random = [study.said(study.random(results.seed + i, name == "direct path"), group) for i in range(draws)]
                results.said(mean_of(random), writers=group, edit=name, direction=f"random, {draws} draws", filled="mean")


def other_words(program: Program, results: Results) -> dict[str, Standing]:
    """What every other word's direction does when it is taken out of everything; with the verdict on each one's program."""
    verdicts = {}
    for word in list(results.subject.forms)[1:]:
        study = Study(program, word, results.subject)
        verdicts[word] = study.standing
        for name, edit in (("direct path", study.direct), ("all paths", study.all_paths)):
            results.said(study.said(edit), writers="everything", edit=name, direction=word, filled="mean")
    return verdicts
