"""A program in which what every part says for a word can be taken away, on the direct path to the output alone or on all paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.standing import Standing, standing
from examples.fire.language import Language, Text
from passes import gates, paths, subspace
from rewrite import Program

READER = "transformer.ln_f@in"
EMBEDDINGS = ("transformer.wte", "transformer.wpe")
Setting = dict[str, dict[str, Any]]  # what gates are set to for one run


def says(program: Program, forms: Sequence[int]) -> Any:
    """What speaks for the tokens `forms` against the average token, before the final norm: an expression of the weights.

    Shapes: [form, d_model].
    """
    unembed, gain = program.weight("lm_head.weight"), program.weight("transformer.ln_f.weight")
    rows = (unembed[list(forms)] - unembed.mean(0)) * gain
    return rows - rows.mean(-1, keepdim=True)  # the norm takes the mean out


def writers(program: Program) -> dict[str, tuple[str, ...]]:
    """The groups of writers to the residual stream: all of them, each kind, each one of a layer."""
    attention, mlps = (program.select(f"transformer.h.*.{kind}") for kind in ("attn", "mlp"))
    kinds = {"everything": (*EMBEDDINGS, *attention, *mlps), "embeddings": EMBEDDINGS, "all attention": attention, "all MLPs": mlps}
    layers = {f"{kind} {i}": (site,) for kind, sites in (("attention", attention), ("MLP", mlps)) for i, site in enumerate(sites)}
    return {**kinds, **layers}


def split_for(program: Program, word: str, forms: Sequence[int]) -> Program:
    """The program with each writer as `word` and the rest, gated, and gated once more on the direct path to the final norm."""
    sites = writers(program)["everything"]
    terms = [f"{site}/{word}{rest}" for site in sites for rest in ("", ".rest")]
    direct = [f"{term} -> {READER}" for term in terms]
    # the gates of terms come first: a path starts at what its term's gate lets through
    return program.apply(subspace.at(*sites, basis=says(program, forms), name=word), gates.at(*terms), paths.at(*direct), gates.at(*direct))


@dataclass(frozen=True)
class Batch:
    """Texts of one length: their numbers, token ids, and every term's value in the unedited program."""

    numbers: list[int]
    ids: Tensor
    terms: dict[str, Tensor]


def batches(program: Program, texts: Sequence[Text], terms: Sequence[str]) -> list[Batch]:
    """The texts by length, so that none is padded."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    found = []
    for _, group in groupby(order, key=lambda i: len(texts[i].ids)):
        numbers = list(group)
        ids = torch.tensor([texts[i].ids for i in numbers])
        with torch.no_grad():
            found.append(Batch(numbers, ids, program.values(terms, input_ids=ids)))
    return found


@dataclass(frozen=True)
class Said:
    """By text: was its word the first guess, the log-probability of its word, was the first guess the word that the language is about."""

    right: np.ndarray
    log_probability: np.ndarray
    guessed: np.ndarray


class Study:
    """A program split for a word, and what it says under edits of some writers. `mean=False` takes away by zeros."""

    def __init__(self, program: Program, word: str, subject: Language):
        self.word, self.subject = word, subject
        self.program = split_for(program, word, subject.forms[word])
        self.standing: Standing = standing(self.program)
        self.writers = writers(program)
        terms = [f"{site}/{word}{rest}" for site in self.writers["everything"] for rest in ("", ".rest")]
        self.batches = batches(self.program, subject.texts, terms)
        known = batches(self.program, subject.reference, terms)
        self.means = {term: (_mean(b.terms[term][:, :-1] for b in known), _mean(b.terms[term][:, -1:] for b in known)) for term in terms}
        basis = says(self.program, subject.forms[word]).value.detach()
        self.frame = torch.linalg.qr(basis.mT).Q.mT

    # -------------------------------------------------------------------------------------------------- edits

    def filler(self, term: str, batch: Batch, mean: bool) -> Tensor:
        """What stands in for a term: its mean where the next word is asked for, its mean elsewhere. Shapes: [position, d_model]."""
        elsewhere, asked = self.means[term]
        rows = torch.cat([elsewhere.expand(batch.ids.shape[1] - 1, -1), asked[None]])
        return rows if mean else torch.zeros_like(rows)

    def term(self, site: str, rest: bool = False) -> str:
        """The address of what a writer says for the word, or of the rest."""
        return f"{site}/{self.word}{'.rest' if rest else ''}"

    def direct(self, sites: Iterable[str], batch: Batch, mean: bool) -> Setting:
        """The word's direction is taken away on the direct path alone."""
        return {_direct(term): put for term, put in self.all_paths(sites, batch, mean).items()}

    def all_paths(self, sites: Iterable[str], batch: Batch, mean: bool) -> Setting:
        """The word's direction is taken away from all that reads the writers."""
        return {self.term(site): _put(self.filler(self.term(site), batch, mean)) for site in sites}

    def rest(self, sites: Iterable[str], batch: Batch, mean: bool) -> Setting:
        """All but the word's direction is taken away, on the direct path alone."""
        terms = [self.term(site, rest=True) for site in sites]
        return {_direct(term): _put(self.filler(term, batch, mean)) for term in terms}

    def whole(self, sites: Iterable[str], batch: Batch, mean: bool) -> Setting:
        """All that the writers write is taken away, on all paths."""
        terms = [self.term(site, rest) for site in sites for rest in (False, True)]
        return {term: _put(self.filler(term, batch, mean)) for term in terms}

    def all_but_direct(self, sites: Iterable[str], batch: Batch, mean: bool) -> Setting:
        """All is taken away but the word's direction on the direct path, which is what it was."""
        own = {_direct(self.term(site)): _put(batch.terms[self.term(site)]) for site in sites}
        return {**self.whole(sites, batch, mean), **own}

    def random(self, seed: int, on_direct_path: bool) -> Callable[[Iterable[str], Batch, bool], Setting]:
        """What would be taken away is turned into random directions first: as long, position by position, but not the word's."""
        draw = torch.randn(self.frame.mT.shape, generator=torch.Generator().manual_seed(seed))
        turned = self.frame.mT @ torch.linalg.qr(draw).Q.mT  # Shapes: [d_model, d_model]

        def edit(sites: Iterable[str], batch: Batch, mean: bool) -> Setting:
            lost = {t: batch.terms[t] - self.filler(t, batch, mean) for t in map(self.term, sites)}
            return {_direct(t) if on_direct_path else t: {"h": 1.0, "r": -(value @ turned)} for t, value in lost.items()}

        return edit

    @property
    def edits(self) -> dict[str, Callable[[Iterable[str], Batch, bool], Setting]]:
        """What is taken away, by name."""
        return {
            "direct path": self.direct,
            "all paths": self.all_paths,
            "rest": self.rest,
            "whole": self.whole,
            "all but direct path": self.all_but_direct,
        }

    # ------------------------------------------------------------------------------------------------ answers

    def said(self, edit: Callable[..., Setting] | None = None, group: str = "everything", mean: bool = True) -> Said:
        """What is said of every text, with a group of writers edited."""
        found = np.zeros((3, len(self.subject.texts)))
        for batch in self.batches:
            setting = edit(self.writers[group], batch, mean) if edit else {}
            with torch.no_grad():
                output, _ = self.program.run({"input_ids": batch.ids}, gates=setting)
            logp = output.logits[:, -1].log_softmax(-1)
            for number, row in zip(batch.numbers, logp, strict=True):
                forms, first = self.subject.forms[self.subject.texts[number].word], int(row.argmax())
                found[:, number] = first in forms, row[forms].logsumexp(0), first in self.subject.forms[self.subject.word]
        return Said(*found)


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.cat([value.flatten(0, 1) for value in values]).mean(0)


def _direct(term: str) -> str:
    return f"{term} -> {READER}"


def _put(value: Tensor) -> dict[str, Any]:
    return {"g": 0.0, "h": 1.0, "r": value}
