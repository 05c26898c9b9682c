"""Values that show a difference: searched for, made smaller, described, kept and run again. A witness stands on float64 runs alone."""
