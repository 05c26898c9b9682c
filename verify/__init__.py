"""Does a rewritten program compute the same function, and are its terms what they say?"""

from verify.equivalence import equivalence
from verify.liveness import Liveness, liveness, raise_unless_alive
from verify.replay import Replay, replay
from verify.report import Report, Verdict
from verify.witness import Witness

__all__ = ["Liveness", "Replay", "Report", "Verdict", "Witness", "equivalence", "liveness", "raise_unless_alive", "replay"]
