"""Concepts trained by one command against a shell loop: `python -m tests.benchmarks.bench_many [COUNT] [--steps N]`.

Both begin from a cold shell with an empty CDTOOL_HOME, one after the other; the saved tensors must be equal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cdtool.store.concept import read_tensors

HERE = Path(__file__).parents[2]
PHOTOS = HERE / "cdtool" / "mini" / "photos"
NAMES = ("dog", "cat", "castle", "teapot", "tree", "house", "flower", "chair")


def run(home: Path, commands: Sequence[Sequence[str]]) -> float:
    """Seconds that commands take one after the other."""
    environment = os.environ | {"CDTOOL_HOME": str(home), "PYTHONPATH": str(HERE)}
    began = time.perf_counter()
    for words in commands:
        subprocess.run([sys.executable, "-m", "cdtool", "train", *words, "-q"], env=environment, cwd=home, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("count", type=int, nargs="?", default=3, choices=range(1, len(NAMES) + 1))
    options.add_argument("--steps", type=int)
    chosen = options.parse_args()
    more = ["--base", "mini", *(["--steps", str(chosen.steps)] if chosen.steps else [])]
    names = NAMES[: chosen.count]
    tokens = [word for name in names for word in ("--token", f"V* {name}")]
    loop = [[str(PHOTOS / name), "--token", f"V* {name}", *more] for name in names]
    together = [[*(str(PHOTOS / name) for name in names), *tokens, "--separate", *more]]
    with tempfile.TemporaryDirectory() as temporary:
        homes = [Path(temporary, name) for name in ("loop", "together")]
        for home in homes:
            home.mkdir()
        alone, once = run(homes[0], loop), run(homes[1], together)
        for name in names:
            one, other = (read_tensors(home / "concepts" / f"{name}.safetensors") for home in homes)
            assert all((one[key] == other[key]).all() for key in one | other), name
    print(
        f"{chosen.count} concepts: a loop {alone:.1f} s, one command {once:.1f} s, {alone / once:.2f}x; equal tensors"
    )


if __name__ == "__main__":
    main()
