"""What lies on this machine: concepts, bases, and what a user names to sample. Imports no torch."""
