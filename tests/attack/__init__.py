"""Hostile input for all that cdtool reads, faults for all it writes; `python -m tests.attack` runs it at length."""
