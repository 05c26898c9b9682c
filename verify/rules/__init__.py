"""The meaning of every op: one table per class of ops. What is in none of them is refused by name."""

from verify.rules import choose, convolutions, elementwise, losses, movement, norms, pools, recurrent, ring, rows, select
from verify.rules.table import Rule, Table

CLASSES = (ring, convolutions, norms, movement, elementwise, rows, select, choose, losses, pools, recurrent)
RULES: Table = {op: rule for ops in CLASSES for op, rule in ops.TABLE.items()}
# ops whose rules call random functions
FUNCTIONS = frozenset((*elementwise.TABLE, *norms.TABLE, *rows.TABLE, *losses.TABLE)) - frozenset(elementwise.CHOOSING)

__all__ = ["FUNCTIONS", "RULES", "Rule", "Table"]
