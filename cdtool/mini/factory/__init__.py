"""The recipe that makes the embedded base; not in the wheel."""
