"""The memory a training takes against what its plan foretells: peak of the process, SD 1.5's size at 512 px.

    python -m tests.benchmarks.bench_memory sd15-random

`LIBRARY_BYTES`, `AT_HAND` and `RECOMPUTED` of cdtool/plan.py were set by these rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile

from tests.benchmarks import shapes

ROWS = (
    ["--batch", "1"],
    ["--batch", "4"],
    ["--batch", "4", "--checkpointing"],
    ["--batch", "8", "--checkpointing"],
    ["--batch", "1", "--precision", "fp32"],
)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", help="a base, or sd15-random: a random one of real size")
    base = shapes.base(options.parse_args().base)
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        rows = [row(base, flags) for flags in ROWS]
    head = ["flags", "foretold GB", "measured GB", "ratio"]
    shapes.report("Memory of a training", rows, head, f"{base}, 1 step; {shapes.machine()}")


def row(base: str, flags: list[str]) -> list[object]:
    """A row of the table."""
    told = json.loads(train(base, flags, "--dry-run", "--json")[0])["memory"]
    taken = train(base, flags)[1]
    return [" ".join(flags), f"{told / 1e9:.2f}", f"{taken / 1e9:.2f}", told / taken]


def train(base: str, flags: list[str], *more: str) -> tuple[str, int]:
    """What a training of one step prints, and the peak bytes of its process."""
    photos = str(shapes.photos(5, 512))
    settled = ["--token", "V* dog", "--base", base, "--prior", "none", "--steps", "1", "--force"]
    command = [sys.executable, "-m", "cdtool", "train", photos, *settled, "--precision", "bf16", *flags, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, command
    return said, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
