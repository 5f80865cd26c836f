"""Giving concepts to others: cards, a gallery, and the hub."""
