"""What one does with terms: attribution and what it agrees with, the command line, and the bundled demonstration."""

from analysis.attribution.agreement import Agreement, agreement
from analysis.attribution.attribute import attribute
from analysis.attribution.logits import direct_logit_attribution
from analysis.standing import Standing, standing
from analysis.table import Table

__all__ = ["Agreement", "Standing", "Table", "agreement", "attribute", "direct_logit_attribution", "standing"]
