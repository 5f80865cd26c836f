"""What waiting threads cost on idle and on busy cores: `python -m tests.benchmarks.bench_threads [--shape sd15]`.

Times training steps on mini (or a denoiser's passes of SD 1.5's shape, 512 px, bfloat16) with one and two threads and
several turns of a waiting thread, alone and beside one busy process a core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parents[2]
TURNS = ("", "0", "1000", "10000", "60000")  # "": the library's own
STEPS = {"mini": 10, "sd15": 2}


def measure(shape: str) -> None:
    """Print the seconds of a step; run in a process of its own, whose environment says how its threads wait."""
    if shape == "mini":
        import cdtool

        photos = HERE / "cdtool" / "mini" / "photos" / "dog"
        events = cdtool.iter_train(photos, token="V* dog", base="mini", steps=STEPS[shape], force=True)
        times = [time.perf_counter() for event in events if event.kind == "step"]
    else:
        import torch

        from cdtool.models import pipelines
        from tests.benchmarks import shapes

        base = pipelines.load(shapes.base("sd15-random"), precision="bf16", parts=("unet",))
        sample = torch.randn(1, 4, 64, 64, dtype=torch.bfloat16)
        text = torch.randn(1, 77, 768, dtype=torch.bfloat16)
        times = []
        for _ in range(STEPS[shape] + 1):
            with torch.no_grad():
                base.unet(sample, 500, text)
            times.append(time.perf_counter())
    print(f"{(times[-1] - times[0]) / (len(times) - 1):.3f}")


@contextmanager
def busy(processes: int):
    """While open, so many processes compute for nothing."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", choices=STEPS, default="mini")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        measure(chosen.shape)
        return
    for threads, turns in [(1, ""), *((2, turns) for turns in TURNS)]:
        told = {"OMP_NUM_THREADS": str(threads)} | ({"GOMP_SPINCOUNT": turns} if turns else {})
        idle, beside = (step(chosen.shape, told, others) for others in (0, 1))
        print(f"{threads} threads, {turns or 'own'} turns: {idle:.3f} s a step idle, {beside:.3f} busy", flush=True)


def step(shape: str, told: dict[str, str], others: int) -> float:
    """Seconds of a step in a process of its own beside `others` busy ones."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_threads", "--one", "--shape", shape]
    with tempfile.TemporaryDirectory() as home, busy(others):
        environment = os.environ | {"CDTOOL_HOME": home} | told
        done = subprocess.run(command, env=environment, cwd=HERE, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
