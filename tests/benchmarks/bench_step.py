"""One training step of cdtool against a plain loop, same base, batch and precision; bars 1.1x on mini, 1.4x on SD 1.x.

    python -m tests.benchmarks.bench_step mini
    python -m tests.benchmarks.bench_step sd15-random

Both train in one process and take turns. cdtool's bank is filled first; its time stands beside the ratio, and the last
column is that of a whole default training (250 steps of 8 pictures, 5 photos, 200 class images), bank included.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cdtool.cli.output import quiet_libraries
from cdtool.images import augmentation
from cdtool.models import diffusion, initializers, pipelines
from cdtool.settings import TrainSettings
from cdtool.tokens import Token
from cdtool.training import loop
from cdtool.training.batches import ConceptImages, Example, crop_key, samples_of
from tests.benchmarks import plain, shapes

PHOTOS = 5
CLASS_IMAGES_PER_SAMPLE = 1 / 5  # a default training draws 1000 class images out of 200
SIZES = {"tiny": (2, 1, 8), "mini": (4, 10, 8), "sd15-random": (2, 1, 2)}  # name: (rounds, steps of a round, batch)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", help="a base, or tiny or sd15-random: a random one of that shape")
    options.add_argument("--rounds", type=int)
    options.add_argument("--steps", type=int, help="steps of a round")
    options.add_argument("--batch", type=int)
    options.add_argument("--precision", default="auto")
    options.add_argument("--compile", action="store_true", help="cdtool's denoiser compiled")
    chosen = options.parse_args()
    quiet_libraries()
    asked, usual = (chosen.rounds, chosen.steps, chosen.batch), SIZES.get(chosen.base, SIZES["mini"])
    rounds, steps, batch = (given or default for given, default in zip(asked, usual, strict=True))
    measure(chosen.base, rounds, steps, batch, chosen.precision, compile_blocks=chosen.compile)


def measure(name: str, rounds: int, steps: int, batch: int, precision: str, *, compile_blocks: bool = False) -> None:
    """Time `rounds` rounds of both after a warm-up round of half as many steps."""
    base = pipelines.load(shapes.base(name), precision=precision)
    warm = max(1, steps // 2)
    settings = TrainSettings(steps=warm + rounds * steps, batch=batch, save_every=10**6, compile=compile_blocks)
    one = subject(base, max(2, round(settings.steps * batch / 2 * CLASS_IMAGES_PER_SAMPLE)))
    device, dtype = base.device.type, base.dtype
    ours = fitting(base, one, settings)
    begun = time.perf_counter()
    crops_banked = next(ours)
    bank_seconds = time.perf_counter() - begun
    theirs = plain.loop(base.folder, dtype, base.device)
    batches = itertools.cycle(plain_batches(base, one, settings))

    def run_ours(count: int = steps) -> None:
        for _ in range(count):
            next(ours)

    def run_plain(count: int = steps) -> None:
        for _ in range(count):
            theirs.step(next(batches))

    run_ours(warm)
    run_plain(warm)
    plain_seconds, our_seconds = (
        shapes.median(times) / steps for times in shapes.alternate([run_plain, run_ours], rounds, device)
    )
    whole = default_crops() * bank_seconds / crops_banked
    pictures = 2000 / batch
    row = [
        base.name, f"{base.resolution} px x {batch}", plain_seconds, our_seconds, plain_seconds / our_seconds,
        f"{crops_banked} crops in {bank_seconds:.1f} s", pictures * plain_seconds / (pictures * our_seconds + whole),
    ]  # fmt: skip
    head = ["base", "batch", "plain s/step", "cdtool s/step", "ratio", "latents", "ratio of a whole training"]
    about = f"{rounds} x {steps} steps each; {shapes.machine(str(dtype).removeprefix('torch.'))}"
    shapes.report("One training step", [row], head, about)


def subject(base: pipelines.Base, priors: int) -> ConceptImages:
    """Random photos with a caption of the template, and class images with captions of their own."""
    folder = shapes.photos(PHOTOS, base.resolution)
    openers = [functools.partial(_open, path) for path in sorted(folder.iterdir())]
    return ConceptImages(
        tuple(Example("photo of a V* dog", opener) for opener in openers),
        tuple(Example(f"a dog on the beach {number}", openers[number % PHOTOS]) for number in range(priors)),
    )


def _open(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def fitting(base: pipelines.Base, one: ConceptImages, settings: TrainSettings) -> Iterator[int]:
    """cdtool's loop: first the number of crops in the bank, then each step's number."""
    tokens = initializers.assign(base.tokenizers, (Token("dog"),))
    banked = 0
    for event in loop.fit(base, [one], tokens, settings, checkpoint=shapes.FOLDER / "step.pt"):
        if event.kind == "latents" and event.step == event.of:
            yield (banked := event.step)
        if event.kind == "step":
            assert banked
            yield event.step


def plain_batches(
    base: pipelines.Base, one: ConceptImages, settings: TrainSettings, count: int = 8
) -> list[plain.Batch]:
    """Batches of the same photos and augmentations, ready for the plain loop."""
    size, side = base.resolution, base.resolution // base.latent_factor
    made = []
    for step in range(min(count, settings.steps)):
        cut, prompts = [], []
        for sample in samples_of(settings, [one], step):
            example = (one.class_images if sample.is_class else one.photos)[sample.image]
            if sample.is_class:
                crop = augmentation.class_crop(example.open(), size, side, flipped=bool(sample.crop))
            else:
                crop = augmentation.crop(example.open(), size, side, seed=0, photo=sample.image, index=sample.crop)
            cut.append(crop)
            prompts.append(augmentation.prefixed(crop.prefix, example.caption).replace("V*", plain.NEW))
        mask = torch.from_numpy(np.stack([crop.mask for crop in cut])).float()
        made.append(plain.Batch(diffusion.pixels([crop.pixels for crop in cut]), prompts, mask, settings.batch // 2))
    return made


def default_crops() -> int:
    """How many crops a default training on `PHOTOS` photos banks."""
    settings = replace(TrainSettings(), prior_count=200)
    example = Example("", _open)  # type: ignore[arg-type]
    one = ConceptImages((example,) * PHOTOS, (example,) * settings.prior_count)
    return len({crop_key(sample) for step in range(settings.steps) for sample in samples_of(settings, [one], step)})


if __name__ == "__main__":
    main()
