"""How the threads of a computation wait for each other, settled before torch is imported.

A waiting thread spins: it is there at once, but on a core that another process wants it holds up what it waits for. On
two cores beside two busy processes, a training step on mini took 7.5 s with the library's own 300,000 spins and 0.1 s
with none; on idle cores none costs twice the time (docs/speed.md). The number of threads stays as it is, because sums
depend on it in their last digit.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

IDLE, BUSY = 10_000, 0  # spins of a waiting thread before it sleeps, where cores are free and where they are not
OF_THE_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def set_wait_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell the thread library (GNU's, as torch brings it on Linux) how long to spin, unless the user has told it."""
    if not any(name in environment for name in OF_THE_USER):
        environment["GOMP_SPINCOUNT"] = str(BUSY if _is_contended() else IDLE)


def _is_contended(load: Path = Path("/proc/loadavg")) -> bool:
    """Whether other processes run now, and did for the last minute, on cores that ours will want."""
    try:
        average, _, _, running, _ = load.read_text().split()
        others, lately = int(running.split("/")[0]) - 1, float(average)
    except (OSError, ValueError):
        return False
    free = (os.cpu_count() or 1) - _usable()
    return others > free and lately > free + 0.5


def _usable() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
