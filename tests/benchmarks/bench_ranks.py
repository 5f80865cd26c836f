"""Two processes (gloo) against one on the same training: relative difference of dW; bars 1e-4 in fp32, 0.05 in bf16.

    python -m tests.benchmarks.bench_ranks mini

The numbers are read from the checkpoint after the last step, where they stand in float32. On mini the photos and prior
pictures are its own, elsewhere random. The two have a thread each. Where the one makes two passes of half the batch on
one thread, every kernel meets the same numbers. Products of other shapes or over more threads are summed up in another
order, and AdamW divides by the size of a gradient however small, so that the keys of a head that hardly looks at the
text go their own way: every --seed has figures of its own.
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

from cdtool.cli.output import quiet_libraries
from cdtool.models import initializers, pipelines
from cdtool.models.pipelines import Base
from cdtool.settings import TrainSettings
from cdtool.store import bases
from cdtool.tokens import Token
from cdtool.training import examples, job, loop, processes
from cdtool.training.batches import ConceptImages
from tests.benchmarks import shapes
from tests.benchmarks.bench_step import subject

PRECISIONS = ("fp32", "bf16")
ALONE = {
    "two passes, one thread": (2, 1),
    "one pass, one thread": (1, 1),
    "one pass, every thread": (1, os.cpu_count() or 1),
}
PRIORS = 40


def main() -> None:
    """Measure and print; as a worker, train and leave the checkpoint."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", help="a base, or tiny: a small random one")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--passes", type=int, default=1, help=argparse.SUPPRESS)
    options.add_argument("--worker", nargs=2, metavar=("PRECISION", "FILE"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    quiet_libraries()
    if chosen.worker:
        precision, file = chosen.worker
        train(chosen.base, precision, settings_of(chosen), Path(file))
        return
    rows = [row for precision in PRECISIONS for row in compare(chosen.base, precision, settings_of(chosen))]
    about = (
        f"{shapes.base(chosen.base)}, {chosen.steps} steps of {chosen.batch}, seed {chosen.seed}; {shapes.machine()}"
    )
    head = ["precision", "the one makes", "relative difference of dW", "of the rows", "norm of dW"]
    shapes.report("Two processes against one", rows, head, about)


def settings_of(chosen: argparse.Namespace) -> TrainSettings:
    """A training whose last checkpoint is the one to read."""
    return TrainSettings(steps=chosen.steps + 1, batch=chosen.batch, seed=chosen.seed, save_every=chosen.steps,
                         accumulate=chosen.passes)  # fmt: skip


def train(name: str, precision: str, settings: TrainSettings, file: Path) -> None:
    """Train past the checkpoint that is read, alone or as one of several."""
    with processes.distributed("cpu") as group:
        base = pipelines.load(shapes.base(name), precision=precision, device="cpu")
        tokens = initializers.assign(base.tokenizers, (Token("dog"),))
        learned = dogs(base) if name == "mini" else [subject(base, PRIORS)]
        for _ in loop.fit(base, learned, tokens, settings, checkpoint=file, ranks=group):
            pass


def dogs(base: Base) -> Sequence[ConceptImages]:
    """What `cdtool train` would learn from mini's photos of a dog, its class images included."""
    work = job.job([bases.MINI.parent / "photos" / "dog"], ["V* dog"], name="dog", base=base.name, flags={})
    return examples.concept_images(work, examples.class_images(work, base.folder))


def compare(name: str, precision: str, settings: TrainSettings) -> list[list[object]]:
    """The rows of the table in a precision."""
    base = pipelines.load(shapes.base(name), parts=("text",), device="cpu")
    tokens = initializers.assign(base.tokenizers, (Token("dog"),))
    began = [weight.float() for weight in base.kv.values()]
    start = initializers.initial_embeddings(base, tokens)[0][0]

    def changes(count: int, passes: int, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
        *found, row = learned(name, precision, settings, count, passes, threads)
        return torch.cat([(new - old).flatten() for new, old in zip(found, began, strict=True)]), row - start

    two = changes(2, 1, 1)
    rows: list[list[object]] = []
    for told, (passes, threads) in ALONE.items():
        one = changes(1, passes, threads)
        apart = [f"{float((other - own).norm() / own.norm()):.1e}" for own, other in zip(one, two, strict=True)]
        rows.append([precision, told, *apart, float(one[0].norm())])
    return rows


def learned(
    name: str, precision: str, settings: TrainSettings, count: int, passes: int, threads: int
) -> list[torch.Tensor]:
    """The parameters after a run in `count` processes: K/V, then the row."""
    own = ["-m", "tests.benchmarks.bench_ranks", name, "--steps", str(settings.save_every), "--passes", str(passes)]
    own += ["--batch", str(settings.batch), "--seed", str(settings.seed)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.pt"
        command = [sys.executable, *launcher, *own, "--worker", precision, str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        parameters: list[torch.Tensor] = torch.load(file, weights_only=True)["parameters"]
    return parameters


if __name__ == "__main__":
    main()
