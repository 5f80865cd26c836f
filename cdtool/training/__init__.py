"""Photos to a concept."""
