"""One script for each peer, run by the Python of the peer's own environment: only what that peer needs is imported there."""
