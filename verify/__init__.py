"""Does a rewritten program compute the same function, and are its terms what they say?"""

from verify.equivalence import equivalence
from verify.report import Report, Verdict

__all__ = ["Report", "Verdict", "equivalence"]
