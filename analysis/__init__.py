"""What one does with terms: ablate them, alone or together; the command line, and the bundled demonstration."""

from analysis.ablation import ablate, sweep

__all__ = ["ablate", "sweep"]
