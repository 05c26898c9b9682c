"""Does a rewritten program compute the same function, and are its terms what they say?"""

from verify.equivalence import equivalence
from verify.liveness import Liveness, liveness, raise_unless_alive
from verify.report import Report, Verdict

__all__ = ["Liveness", "Report", "Verdict", "equivalence", "liveness", "raise_unless_alive"]
