"""Closed-form composition of concepts."""
