"""The embedded base: a small world, the recipe that learned to draw it, and everything special about it."""
