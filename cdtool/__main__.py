"""`python -m cdtool` is `cdtool`."""

from __future__ import annotations

import sys

from cdtool.cli import main

sys.exit(main())
