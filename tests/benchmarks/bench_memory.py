"""The memory that training and sampling take against what is planned: peaks of processes on full-size random bases.

    python -m tests.benchmarks.bench_memory
    python -m tests.benchmarks.bench_memory --only "SDXL sample"

`AT_HAND` and `RECOMPUTED` of training/estimate.py and `AT_HAND` of models/memory.py were set by such rows.
Each row takes minutes and up to 12 GB; their bases are written once under build/bench (SDXL's is 7 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from tests.benchmarks import shapes


class Row(NamedTuple):
    """A command on a base, and the most it may take."""

    base: str
    verb: str
    flags: list[str]
    bar: str  # GB, "" for none

    @property
    def name(self) -> str:
        """What the row is called."""
        label = {"sd15-random": "SD 1.5", "sdxl-random": "SDXL"}.get(self.base, self.base)
        return f"{label} {self.verb} {' '.join(self.flags)}".strip()


SAMPLE = ["-n", "1", "--steps", "1"]
ROWS = (
    Row("sd15-random", "train", ["--batch", "2"], "6"),
    Row("sd15-random", "train", ["--batch", "8", "--memory", "6GB"], "6"),
    Row("sd15-random", "sample", SAMPLE, "4"),
    Row("sdxl-random", "sample", SAMPLE, "10"),
    Row("sdxl-random", "sample", [*SAMPLE, "--memory", "8GB"], "8"),
    Row("sdxl-random", "train", ["--batch", "2", "--memory", "12GB"], "12"),
)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", metavar="REGEX", default="", help="the rows to run, all by default")
    chosen = re.compile(options.parse_args().only)
    lines = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        for row in ROWS:
            if chosen.search(row.name):
                lines.append(line(row))
                print("#", *lines[-1], flush=True)
    head = ["command", "planned GB", "measured GB", "planned / measured", "bar GB", "chosen"]
    shapes.report("Memory", lines, head, f"bf16, one step; {shapes.machine()}")


def line(row: Row) -> list[object]:
    """A line of the table."""
    base = shapes.base(row.base)
    planned = sampling_peak(base) if row.verb == "sample" else training_peak(base, row.flags)
    said, taken = measured(command(base, row))
    chosen = [text for text in said.splitlines() if "To fit into memory" in text]
    note = chosen[0].rpartition(": ")[2].rstrip(".") if chosen else ""
    return [row.name, f"{planned / 1e9:.2f}", f"{taken / 1e9:.2f}", planned / taken, row.bar, note]


def command(base: str, row: Row) -> list[str]:
    """The command line of a row."""
    if row.verb == "sample":
        given = [base, "a dog on the beach", "--out", str(Path(os.environ["CDTOOL_HOME"]) / "out")]
    else:
        photos = str(shapes.photos(2, 1024 if "xl" in base else 512))
        given = [photos, "--token", "V* dog", "--base", base, "--prior", "none", "--steps", "1", "--force"]
    return [row.verb, *given, "--precision", "bf16", *row.flags]


def training_peak(base: str, flags: list[str]) -> int:
    """What the plan of a training counts."""
    said, _ = measured([*command(base, Row(base, "train", flags, "")), "--dry-run", "--json"])
    return int(json.loads(said[said.index("{") :])["memory"])


def sampling_peak(base: str) -> int:
    """What is counted of sampling one image."""
    from cdtool.sampling import memory
    from cdtool.settings import SampleSettings

    return memory.peak(Path(base), SampleSettings(), 1, torch.bfloat16)


def measured(arguments: list[str]) -> tuple[str, int]:
    """What a command prints, and the peak bytes of its process."""
    full = [sys.executable, "-m", "cdtool", *arguments]
    with subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, said
    return said, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
