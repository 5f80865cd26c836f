"""Smaller concepts: their deltas truncated to the ranks that matter."""
