"""Ablation: what a metric loses when parts of a program are taken out, together or each by itself."""

from analysis.ablation.measure import ablate, sweep

__all__ = ["ablate", "sweep"]
