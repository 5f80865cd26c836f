"""Sampling through a concept against diffusers' own pipeline: same scheduler, steps, batch, precision; bar: no slower.

    python -m tests.benchmarks.bench_sample mini
    python -m tests.benchmarks.bench_sample sd15-random

Both are timed from prompts to pictures in memory and take turns. The pipeline draws with the bare base, so what a
concept costs is in cdtool's time alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from typing import Any

import torch

from cdtool.cli.output import quiet_libraries
from cdtool.models import initializers, pipelines
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest, row_name, weight_name
from cdtool.tokens import Token
from tests.benchmarks import plain, shapes

SIZES = {"tiny": (2, 5, 4), "mini": (4, 50, 4), "sd15-random": (2, 2, 1)}  # name: (rounds, steps, pictures)
ETA, GUIDANCE = 1.0, 6.0


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", help="a base, or tiny or sd15-random: a random one of that shape")
    options.add_argument("--rounds", type=int)
    options.add_argument("--steps", type=int)
    options.add_argument("--count", type=int, help="pictures of a batch")
    options.add_argument("--precision", default="auto")
    chosen = options.parse_args()
    quiet_libraries()
    asked, usual = (chosen.rounds, chosen.steps, chosen.count), SIZES.get(chosen.base, SIZES["mini"])
    rounds, steps, count = (given or default for given, default in zip(asked, usual, strict=True))
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        measure(chosen.base, rounds, steps, count, chosen.precision)


def measure(name: str, rounds: int, steps: int, count: int, precision: str) -> None:
    """Time `rounds` batches of both after a short one."""
    base = pipelines.load(shapes.base(name), precision=precision)
    entry = concept(base)
    pipe = plain.pipeline(base.folder, base.dtype, base.device)
    settings = SampleSettings(count=count, batch=count, steps=steps, guidance=GUIDANCE, eta=ETA, scheduler="ddim")

    def ours(settings: SampleSettings = settings) -> list[Any]:
        return list(sample.generate(base, [entry], ["photo of a V* dog on the beach"], settings))

    def theirs(steps: int = steps) -> Any:
        prompts = ["photo of a dog on the beach"] * count
        return pipe(prompts, num_inference_steps=steps, guidance_scale=GUIDANCE, eta=ETA)

    theirs(1)
    ours(replace(settings, steps=1))
    their_seconds, our_seconds = (
        shapes.median(times) for times in shapes.alternate([theirs, ours], rounds, base.device.type)
    )
    row = [base.name, f"{base.resolution} px x {count}", steps, their_seconds, our_seconds, our_seconds / their_seconds]
    head = ["base", "batch", "steps", "diffusers s", "cdtool s", "ratio of times"]
    about = f"{rounds} batches each; {shapes.machine(str(base.dtype).removeprefix('torch.'))}"
    shapes.report("Sampling through a concept", [row], head, about)


def concept(base: pipelines.Base) -> registry.Concept:
    """A concept of random changes."""
    rng = torch.Generator().manual_seed(0)
    tokens = initializers.assign(base.tokenizers, (Token("dog"),))
    changes = {name: 1e-3 * torch.randn(weight.shape, generator=rng) for name, weight in base.kv.items()}
    tensors = {weight_name(name): change.half() for name, change in changes.items()}
    for encoder, rows in zip(base.family.encoders, initializers.initial_embeddings(base, tokens), strict=True):
        tensors[row_name(0, encoder)] = rows[0].float().cpu()
    return registry.save(Manifest("random", BaseRef(base.name, base.family.name, base.fingerprint), tokens), tensors)


if __name__ == "__main__":
    main()
