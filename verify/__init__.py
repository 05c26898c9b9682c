"""Does a rewritten program compute the same function, and are its terms what they say?"""

from verify.equivalence import equivalence
from verify.formulas.formula import Formula, formula
from verify.formulas.identities import Identity, identities
from verify.liveness import Liveness, liveness, raise_unless_alive
from verify.report import Report, Verdict
from verify.witnesses.replay import Replay, replay
from verify.witnesses.witness import Witness

__all__ = [
    "Formula",
    "Identity",
    "Liveness",
    "Replay",
    "Report",
    "Verdict",
    "Witness",
    "equivalence",
    "formula",
    "identities",
    "liveness",
    "raise_unless_alive",
    "replay",
]
