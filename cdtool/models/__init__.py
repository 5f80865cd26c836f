"""Pipelines, their text encoders and denoisers, and concepts acting on them."""
