"""Attribution: what ablating many addresses would do, from gradients at their gates; and what each writer says to the logits directly."""

from analysis.attribution.gradients import attribute
from analysis.attribution.logits import direct_logit_attribution
from analysis.attribution.oracle import Agreement, agreement

__all__ = ["Agreement", "agreement", "attribute", "direct_logit_attribution"]
