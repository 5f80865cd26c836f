"""Closed-form erasure: concepts that make a base forget."""
