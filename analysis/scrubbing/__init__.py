"""Causal scrubbing: is a model's behaviour what a hypothesis says it is? Everything that it calls unimportant is exchanged."""

from analysis.scrubbing.draws import draw
from analysis.scrubbing.hypothesis import Hypothesis, Part
from analysis.scrubbing.run import scrub, unshared
from analysis.scrubbing.samplers import by, exact, unconditional
from analysis.scrubbing.score import Result

__all__ = ["Hypothesis", "Part", "Result", "by", "draw", "exact", "scrub", "unconditional", "unshared"]
