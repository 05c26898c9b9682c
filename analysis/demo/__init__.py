"""The bundled real model: a parentheses balancer, its data, and the story that `tautomer demo` tells."""

from analysis.demo.data import is_balanced, labels, strings, tokens
from analysis.demo.model import ParenBalancer, load_balancer

__all__ = ["ParenBalancer", "is_balanced", "labels", "load_balancer", "strings", "tokens"]
