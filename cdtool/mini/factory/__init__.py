"""The recipe that made the embedded base; in the repository, not in the wheel."""
