"""What one does with terms: the command line, and the bundled demonstration."""
