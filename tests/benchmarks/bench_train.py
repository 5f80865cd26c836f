"""Wall time of a default `cdtool train` on mini, from a cold shell to the saved concept; bar 90 s on 2 cores.

    python -m tests.benchmarks.bench_train

More arguments of the command go behind --, like `-- --base FOLDER`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cdtool.store import bases
from tests.benchmarks import shapes


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--photos", type=Path, default=bases.MINI.parent / "photos" / "dog")
    options.add_argument("--token", default="V* dog")
    options.add_argument("more", nargs="*", help="further arguments of cdtool train, after --")
    chosen = options.parse_args()
    command = ["train", os.path.relpath(chosen.photos), "--token", chosen.token, *chosen.more]
    runs = [run(command) for _ in range(chosen.rounds)]
    rows = [[number, taken, told] for number, (taken, told) in enumerate(runs, 1)]
    about = f"`cdtool {' '.join(command)}`, a fresh CDTOOL_HOME each time; {shapes.machine()}"
    shapes.report("A whole training", rows, ["run", "seconds", "encoding"], about)


def run(arguments: list[str]) -> tuple[float, str]:
    """Seconds of one command in a fresh home, and what it said of its bank."""
    with tempfile.TemporaryDirectory() as home:
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "cdtool", *arguments],
            env=os.environ | {"CDTOOL_HOME": home}, capture_output=True, text=True,
        )  # fmt: skip
        taken = time.perf_counter() - begun
        saved = list(Path(home).rglob("*.safetensors"))
    assert done.returncode == 0, done.stderr
    assert len(saved) == 1, "no concept was saved"
    return taken, next((line for line in done.stderr.splitlines() if line.startswith("Encoded")), "")


if __name__ == "__main__":
    main()
