"""cdtool: teach a text-to-image model new concepts from a handful of photos, and compose them."""

__version__ = "0.1.0"
