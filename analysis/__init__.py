"""What one does with terms: ablate, attribute, scrub; with the command line, the pytest plugin and the bundled demonstration."""

from analysis.ablation import ablate, sweep
from analysis.attribution import Agreement, agreement, attribute, direct_logit_attribution
from analysis.scrubbing import Hypothesis, Part, by, exact, scrub, unconditional
from analysis.standing import Standing, standing
from analysis.table import Table

__all__ = [
    "Agreement",
    "Hypothesis",
    "Part",
    "Standing",
    "Table",
    "ablate",
    "agreement",
    "attribute",
    "by",
    "direct_logit_attribution",
    "exact",
    "scrub",
    "standing",
    "sweep",
    "unconditional",
]
