"""Processes that are killed at random moments, stopped by SIGTERM, and sixteen at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(("mode", "rounds"), [("kill", 4), ("stop", 4), ("together", 4)])
def test_nothing_is_lost_or_half(mode, rounds):
    words = [sys.executable, "-m", "tests.attack.crowd", mode, "--rounds", str(rounds), "--seed", "1"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
