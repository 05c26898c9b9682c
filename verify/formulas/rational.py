"""Does an expression vanish? Decided for quotients of polynomials in symbols, roots, exponentials and functions taken as they are.

exp(a + b) is exp a exp b, so what follows from that alone vanishes too; a root is known by what is under it, expanded. Anything else
that is zero for a deeper reason is not seen to be: the answer errs on the side of what is left.
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy.polys.rings import ring

from verify.formulas.symbols import written_out


def remainder(e: Any) -> Any:
    """Zero if `e` vanishes wherever it is defined, with activations as they are or written out; else `e`."""
    for form in (e, written_out(e, {})):
        atoms: dict[Any, sympy.Dummy] = {}
        numerator = sympy.fraction(sympy.together(_rational(form, atoms, {})))[0]
        letters = sorted(numerator.free_symbols, key=str)
        if numerator == 0 or (letters and ring(letters, sympy.QQ)[0].from_expr(numerator) == 0):
            return sympy.Integer(0)
    return e


def _rational(e: Any, atoms: dict[Any, sympy.Dummy], known: dict[Any, Any]) -> Any:
    """`e` with one symbol for each root, exponential and function; what is shared is done once."""
    if e.is_Symbol or e.is_Number:
        return e
    if e not in known:
        known[e] = _with_symbols(e, atoms, known)
    return known[e]


def _with_symbols(e: Any, atoms: dict[Any, sympy.Dummy], known: dict[Any, Any]) -> Any:
    if isinstance(e, sympy.exp):
        return sympy.Mul(*(_exponential(term, atoms) for term in sympy.Add.make_args(sympy.expand(e.exp))))
    if e.is_Add or e.is_Mul or (e.is_Pow and e.exp.is_Integer):
        return e.func(*(_rational(part, atoms, known) for part in e.args))
    if e.is_Pow and e.exp.is_Rational:
        root = sympy.expand(e.base) ** (sympy.Integer(1) / e.exp.q)
        return _atom(root, atoms) ** e.exp.p
    return _atom(e.func(*(sympy.expand(part) for part in e.args)) if e.args else e, atoms)


def _exponential(term: Any, atoms: dict[Any, sympy.Dummy]) -> Any:
    """exp of a term: of n t with a whole number n, the power n of exp t."""
    factor, rest = term.as_coeff_Mul()
    if not factor.is_Rational or rest == 1:
        factor, rest = sympy.Integer(1), term
    return _atom(sympy.exp(rest / factor.q), atoms) ** factor.p


def _atom(e: Any, atoms: dict[Any, sympy.Dummy]) -> Any:
    if e.is_Number or e.is_Symbol:
        return e
    return atoms.setdefault(e, sympy.Dummy(f"a{len(atoms)}"))
