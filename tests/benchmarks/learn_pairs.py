"""How well merged pairs show both things: `python -m tests.benchmarks.learn_pairs [--json FILE] [--sheet FILE]`.

The five pairs of the suite mini, trained with the base's defaults and merged, or joined as they are sampled: of every
sample each thing's half, in three square crops; found is a thing whose own photo folder is, of all, the nearest to one
of them. The base's own samples of the class nouns stand beside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cdtool import sources
from cdtool.cli.output import quiet_libraries
from cdtool.merging import run as merging
from cdtool.models import pipelines
from cdtool.models.pipelines import Base
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.store import registry
from cdtool.tokens import bind
from cdtool.training import job as jobs
from tests.benchmarks import shapes
from tests.benchmarks.learnability import ITSELF, Judge
from tests.benchmarks.thing_itself import scene
from tests.benchmarks.tune_methods import FOLDER, token_of, train

PAIRS = (("moongate", "dog"), ("cat", "chair"), ("teapot", "cat"), ("teapot", "flower"), ("house", "tree"))
PROMPTS = ("a {} on the left of a {} on the grass", "a {} next to a {} on the beach")
HEAD = ("pair", "how", "first found", "second found", "both found")


def crops(image: Image.Image, right: bool) -> list[Image.Image]:
    """Three squares of a half, from above to below."""
    side, left = image.width // 2, image.width // 2 if right else 0
    tops = (0, (image.height - side) // 2, image.height - side)
    return [image.crop((left, top, left + side, top + side)) for top in tops]


def found(judge: Judge, images: Sequence[Image.Image], concept: str, right: bool) -> np.ndarray:
    """Of each image, whether the folder nearest to one of the crops is the concept's [n]."""
    names = list(judge.folders)
    seen = judge.seen([crop for image in images for crop in crops(image, right)])
    near = np.stack([(seen @ judge.folders[name].T).mean(1).reshape(len(images), -1).max(1) for name in names], 1)
    return near.argmax(1) == names.index(concept)


def rows_of(base: Base, judge: Judge, pair: tuple[str, str], drawing: SampleSettings) -> list[tuple[list, list]]:
    """The pair merged, joined and as the base draws its nouns: a row and the images of each."""
    entries = [registry.find(f"kv-{name}") for name in pair]
    tokens = jobs.parse_specs([token_of(name).replace("V*", f"V{place}") for place, name in enumerate(pair, 1)])
    words = [token.words(place) for place, token in enumerate(tokens, 1)]
    prompts = [prompt.format(*words) for prompt in PROMPTS]
    plain = [bind(prompt, tokens).plain() for prompt in prompts]
    merged = merging.merge(*entries, name="-".join(pair))
    shown = {
        how: [one.image for one in sample.generate(base, concepts, asked, drawing)]
        for how, concepts, asked in (("merged", [merged], prompts), ("joined", entries, prompts), ("base", [], plain))
    }
    shown["themselves"] = [scene(prompt, pair, ITSELF + at) for prompt in PROMPTS for at in range(drawing.count)]
    made = []
    for how, images in shown.items():
        first, second = (found(judge, images, name, right) for name, right in zip(pair, (False, True), strict=True))
        shares = [float(one.mean()) for one in (first, second, first & second)]
        made.append((["-".join(pair), how, *shares], images))
        print(made[-1][0], file=sys.stderr, flush=True)
    return made


def main() -> None:
    """Train, merge, draw, measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--base", default="mini")
    options.add_argument("--judge", type=Path, help="folder of another base whose encoder measures")
    options.add_argument("--count", type=int, default=8, help="samples of each of the two prompts")
    options.add_argument("--json", type=Path, help="write the rows to this file")
    options.add_argument("--sheet", type=Path, help="write the first samples to this picture")
    chosen = options.parse_args()
    quiet_libraries()
    begun, photos = time.perf_counter(), FOLDER / "photos"
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        base = pipelines.load(chosen.base)
        judge = Judge(base, photos, chosen.judge)
        drawing, _ = sources.resolve(SampleSettings, {"count": chosen.count, "steps": 25, "batch": 16}, base.folder)
        for name in sorted({name for pair in PAIRS for name in pair}):
            work = jobs.job([photos / name], [token_of(name)], name=f"kv-{name}", base=base.name, flags={})
            train(base, work)
        made = [one for pair in PAIRS for one in rows_of(base, judge, pair, drawing)]
    rows = [row for row, _ in made]
    for how in dict.fromkeys(row[1] for row in rows):
        some = [row[2:] for row in rows if row[1] == how]
        rows.append(["mean", how, *(round(float(value), 3) for value in np.mean(some, 0))])
    if chosen.json:
        chosen.json.write_text(json.dumps([dict(zip(HEAD, row, strict=True)) for row in rows], indent=1) + "\n")
    if chosen.sheet:
        page = Image.new("RGB", (96 * 2 * chosen.count, 96 * len(made)), "white")
        for at, (_, images) in enumerate(made):
            for x, image in enumerate(images):
                page.paste(image.resize((96, 96), Image.Resampling.NEAREST), (96 * x, 96 * at))
        page.save(chosen.sheet)
    about = f"{len(PROMPTS)} prompts x {chosen.count} samples, base {chosen.base}; "
    shapes.report("Pairs", rows, HEAD, about + f"{time.perf_counter() - begun:.0f} s; {shapes.machine()}")


if __name__ == "__main__":
    main()
