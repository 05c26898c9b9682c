"""The bundled parentheses balancer as a command line takes it: `tautomer trace examples/balancer.py:balancer -o balancer`."""

from analysis.demo import ParenBalancer, load_balancer, strings, tokens


def balancer() -> tuple[ParenBalancer, dict]:
    """The model, and an example of eight strings to trace it on."""
    return load_balancer(), {"input_ids": tokens(strings(8, seed=0))}
