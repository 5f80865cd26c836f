"""Regularization images: sets of them, how they are made, chosen and retrieved."""
