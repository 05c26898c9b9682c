"""Causal scrubbing: is a model's behaviour what a hypothesis says it is? Everything that it calls unimportant is exchanged."""

from analysis.scrub.draws import draw
from analysis.scrub.hypothesis import Hypothesis, Part
from analysis.scrub.run import scrub, unshared
from analysis.scrub.samplers import by, exact, unconditional
from analysis.scrub.score import Result

__all__ = ["Hypothesis", "Part", "Result", "by", "draw", "exact", "scrub", "unconditional", "unshared"]
