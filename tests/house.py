"""The import rule of the house, on one line."""

from __future__ import annotations

# A package may import only what stands before it, and itself.
ORDER = "errors methods schema files paths settings sources tokens cache store images models priors training sampling merging erasure compression interop evaluation reports sharing research cli".split()  # noqa: E501, SIM905
