"""Two processes (gloo) against one on the same training: relative difference of dW; bars 1e-4 in fp32, 0.05 in bf16.

    python -m tests.benchmarks.bench_ranks mini

The numbers are read from the checkpoint after the last step, where they stand in float32. On mini the photos and prior
pictures are its own, elsewhere random. Kernels round a picture's numbers differently in a batch of eight and of four,
and AdamW divides by the size of a gradient however small, so that the keys of a head that hardly looks at the text go
their own way: every --seed has a figure of its own, and the second one leaves out the thousandth of the numbers that
differ most.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from cdtool import base as bases
from cdtool import catalog, jobs, ranks, studies, text, training
from cdtool.bank import Subject
from cdtool.base import Base
from cdtool.cli.output import quiet_libraries
from cdtool.settings import TrainSettings
from cdtool.tokens import Token
from tests.benchmarks import shapes
from tests.benchmarks.bench_step import subject

PRECISIONS = ("fp32", "bf16")
PRIORS = 40


def main() -> None:
    """Measure and print; as a worker, train and leave the checkpoint."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", help="a base, or tiny: a small random one")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--worker", nargs=2, metavar=("PRECISION", "FILE"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    quiet_libraries()
    if chosen.worker:
        precision, file = chosen.worker
        train(chosen.base, precision, settings_of(chosen), Path(file))
        return
    rows = [compare(chosen.base, precision, settings_of(chosen)) for precision in PRECISIONS]
    about = (
        f"{shapes.base(chosen.base)}, {chosen.steps} steps of {chosen.batch}, seed {chosen.seed}; {shapes.machine()}"
    )
    head = ["precision", "relative difference of dW", "but for a thousandth", "of the rows", "norm of dW"]
    shapes.report("Two processes against one", rows, head, about)


def settings_of(chosen: argparse.Namespace) -> TrainSettings:
    """A training whose last checkpoint is the one to read."""
    return TrainSettings(steps=chosen.steps + 1, batch=chosen.batch, seed=chosen.seed, save_every=chosen.steps)


def train(name: str, precision: str, settings: TrainSettings, file: Path) -> None:
    """Train past the checkpoint that is read, alone or as one of several."""
    with ranks.joined("cpu") as group:
        base = bases.load(shapes.base(name), precision=precision, device="cpu")
        tokens = text.initialised(base.tokenizers, (Token("dog"),))
        learned = dogs(base) if name == "mini" else [subject(base, PRIORS)]
        for _ in training.fit(base, learned, tokens, settings, checkpoint=file, ranks=group):
            pass


def dogs(base: Base) -> Sequence[Subject]:
    """What `cdtool train` would learn from mini's photos of a dog, its prior pictures included."""
    work = jobs.job([catalog.MINI.parent / "photos" / "dog"], ["V* dog"], name="dog", base=base.name, flags={})
    return studies.subjects(work, base)[0]


def compare(name: str, precision: str, settings: TrainSettings) -> list[object]:
    """A row of the table."""
    base = bases.load(shapes.base(name), parts=("text",), device="cpu")
    tokens = text.initialised(base.tokenizers, (Token("dog"),))
    began = [weight.float() for weight in base.kv.values()]
    rows = text.initial_rows(base, tokens)[0]
    with tempfile.TemporaryDirectory() as folder:
        found = [learned(name, precision, settings, Path(folder) / f"{count}.pt", count) for count in (1, 2)]
    changes = [torch.cat([(new - old).flatten() for new, old in zip(one, began, strict=False)]) for one in found]
    moved = [one[-1] - rows[0] for one in found]
    told = [_relative(*changes), _relative(*changes, share=0.999), _relative(*moved)]
    return [precision, *told, float(changes[0].norm())]


def _relative(one: torch.Tensor, two: torch.Tensor, share: float = 1.0) -> str:
    """The norm of the difference over that of `one`, of the `share` of numbers that differ least."""
    apart = (two - one).abs()
    kept = apart <= apart.sort().values[int(share * (len(apart) - 1))]
    return f"{float(apart[kept].norm() / one[kept].norm()):.1e}"


def learned(name: str, precision: str, settings: TrainSettings, file: Path, count: int) -> list[torch.Tensor]:
    """The parameters after a run in `count` processes: K/V, then the row."""
    own = ["-m", "tests.benchmarks.bench_ranks", name, "--steps", str(settings.save_every)]
    own += ["--batch", str(settings.batch), "--seed", str(settings.seed), "--worker", precision, str(file)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    done = subprocess.run([sys.executable, *launcher, *own], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parameters: list[torch.Tensor] = torch.load(file, weights_only=True)["parameters"]
    return parameters


if __name__ == "__main__":
    main()
