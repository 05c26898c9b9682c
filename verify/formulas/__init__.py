"""Values of toy programs as sympy expressions, and laws proved on them. No verdict rests on anything here."""
