"""The meaning of every op: one table per class of ops. What is in none of them is refused by name."""

from verify.rules import elementwise, movement, norms, ring, rows, select
from verify.rules.table import Rule, Table

RULES: Table = {**ring.TABLE, **norms.TABLE, **movement.TABLE, **elementwise.TABLE, **rows.TABLE, **select.TABLE}

__all__ = ["RULES", "Rule", "Table"]
