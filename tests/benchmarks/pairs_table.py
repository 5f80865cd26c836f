"""Two concepts in one picture, five ways, on pairs the base never saw: the lower part of the paper's table 1, and 8.

    CDTOOL_HOME=~/pairs python -m tests.benchmarks.pairs_table -n 8

Trains what is missing in CDTOOL_HOME, or was trained on other weights, with the base's defaults: each concept alone,
each pair jointly (steps times two) and one after the other. Draws 8 prompts x n samples per pair for merge, routed
(dog+moongate), joint, sequential and the base with class nouns; writes the tables to stdout and to OUT/pairs.json, and
two sheets, OUT/pairs.png and OUT/sets.png (three things, and two things in a style: figure 16). A finished cell is not
drawn again, so it can be stopped and started. With mini, as it stands: 9 trainings of 250 steps, 5 of 500, 5 of 250 and
2 of 750, half an hour on one quiet core, and 1,856 pictures; fewer with -n, --pairs, --methods, --steps, --no-sets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdtool import base as bases
from cdtool import catalog, composition, evaluation, features, measuring, photos, registry, sampling
from cdtool.base import Base
from cdtool.cli import main as cdtool
from cdtool.composition import Composition
from cdtool.features import Encoder
from cdtool.settings import SampleSettings, resolve
from cdtool.sheets import Row, contact_sheet
from cdtool.tokens import bind, parse_specs
from tests.benchmarks import shapes

FOLDER = catalog.MINI.parent
ABOUT = {entry["name"]: entry for entry in json.loads((FOLDER / "photos" / "concepts.json").read_text())}
# As near to the paper's five as the world has: it has no table and no wooden pot.
PAIRS = (("dog", "moongate"), ("cat", "chair"), ("teapot", "cat"), ("teapot", "flower"), ("house", "tree"))
METHODS = ("base", "merge", "routed", "joint", "sequential")
SETS = {
    ("dog", "house", "tree"): (
        "photo of a {0}, a {1} and a {2}",
        "a {0} in front of a {1} and a {2}",
        "a {0} next to a {1} and a {2} on the beach",
        "a {0}, a {1} and a {2} in the snow",
    ),
    ("cat", "chair", "sepia"): (
        "painting of a {0} and a {1} in the style of {2}",
        "painting of a {0} in front of a {1} in the style of {2}",
        "painting of a {0} next to a {1} on the beach in the style of {2}",
        "painting of a {0} on top of a {1} in the style of {2}",
    ),
}
SET_METHODS = ("base", "merge", "routed", "joint")


@dataclass(frozen=True)
class Bench:
    """What every cell needs."""

    base: Base
    encoder: Encoder
    settings: SampleSettings
    out: Path

    def concept(self, name: str, *command: str, made_of: Sequence[str] = ()) -> None:
        """Make a concept unless it is there, made on these weights and after those it is made of."""
        if name in registry.names():
            manifest = registry.find(name).manifest
            newest = max((registry.find(part).manifest.created for part in made_of), default="")  # type: ignore[union-attr]
            if manifest and manifest.base.fingerprint == self.base.fingerprint and manifest.created >= newest:
                return
        begun = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            code = cdtool([*command, "-o", name, "--force"])
        assert code == 0, f"cdtool {' '.join(command)} ended with {code}"
        print(f"{name}: made in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)

    def subject(self, members: Sequence[str], method: str) -> Composition:
        """What draws a cell; trains and merges what it needs."""
        if method == "base":
            return composition.find(self.base.name)
        together = f"{'-'.join(members)}-{method}"
        if method == "joint":
            self.concept(together, "train", *self._photos(members), *self._tokens(members), "--base", self.base.name)
            return composition.find(together)
        for name in members if method != "sequential" else members[:1]:
            self.concept(name, "train", *self._photos([name]), *self._tokens([name]), "--base", self.base.name)
        if method == "routed":
            return composition.find("+".join(members))
        if method == "merge":
            self.concept(together, "merge", *members, made_of=members)
        else:
            first, second = members
            self.concept(
                together, "train", *self._photos([second]), *self._tokens([second]), "--from", first, made_of=[first]
            )
        return composition.find(together)

    def _photos(self, members: Sequence[str]) -> list[str]:
        return [str(FOLDER / "photos" / name) for name in members]

    def _tokens(self, members: Sequence[str]) -> list[str]:
        return [part for name in members for part in ("--token", ABOUT[name]["token"])]

    def cell(self, members: Sequence[str], method: str, prompts: Sequence[str]) -> dict[str, Any]:
        """Scores of a cell: text [n] and, for each member's photos, image [n]; read where they were made before."""
        subject = self.subject(members, method)
        path = self.out / "cells" / f"{'+'.join(members)}.{method}.json"
        made = [entry.manifest.created for entry in subject.concepts if entry.manifest]
        key = {**asdict(self.settings), "prompts": list(prompts), "base": self.base.fingerprint, "made": made}
        if path.is_file() and (kept := json.loads(path.read_text()))["key"] == key:
            return dict(kept)
        begun = time.perf_counter()
        scores = self.scored(subject, members, prompts, path.with_suffix(".png"))
        scores |= {"key": key, "seconds": time.perf_counter() - begun}
        path.write_text(json.dumps(scores))
        print(f"{path.stem}: {scores['seconds']:.0f} s", file=sys.stderr, flush=True)
        return scores

    def scored(
        self, subject: Composition, members: Sequence[str], prompts: Sequence[str], strip: Path
    ) -> dict[str, Any]:
        """Draw a cell, keep each prompt's first picture, and score them all."""
        tokens = parse_specs([ABOUT[name]["token"] for name in members])
        asked = [measuring.fill(prompt, tokens) for prompt in prompts]
        plain = [bind(prompt, tokens).plain() for prompt in asked]
        if subject.concepts:
            drawn = sampling.draw(self.base, subject.concepts, asked, self.settings, weights=subject.weights)
        else:
            drawn = sampling.draw(self.base, (), plain, self.settings)
        images = [item.image for item in drawn]
        strip.parent.mkdir(parents=True, exist_ok=True)
        _beside(images[:: self.settings.count]).save(strip)
        found = features.image_features(self.encoder, images)
        texts = np.repeat(features.text_features(self.encoder, plain), self.settings.count, axis=0)
        return {
            "text": evaluation.text_alignment(found, texts).tolist(),
            "image": [evaluation.image_alignment(found, self.targets(name)).tolist() for name in members],
        }

    def targets(self, name: str) -> np.ndarray[Any, Any]:
        """Features of a concept's photos."""
        return features.image_features(self.encoder, [photos.read(photo) for photo in _photos_of(name)])

    def sheet(self, cells: Sequence[tuple[str, ...]], methods: Sequence[str], name: str) -> None:
        """Photos, and for each method the first picture of each prompt, of some pairs or sets."""
        rows = []
        for members in cells:
            shown = [photos.read(photo) for name in members for photo in _photos_of(name)[:3]]
            rows.append(Row(f"{' + '.join(members)}: photos", shown))
            for method in methods:
                with Image.open(self.out / "cells" / f"{'+'.join(members)}.{method}.png") as strip:
                    rows.append(Row(f"{' + '.join(members)}: {method}", [strip.convert("RGB")]))
        contact_sheet(rows, side=96).save(self.out / name)


def _photos_of(name: str) -> list[photos.Photo]:
    return photos.find([FOLDER / "photos" / name])[0]


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width
    return strip


def means(found: dict[tuple[str, ...], dict[str, Any]]) -> tuple[float, float]:
    """Mean text alignment, and image alignment to all targets, over the cells of a method."""
    text = np.mean([np.mean(cell["text"]) for cell in found.values()])
    image = np.mean([np.mean(values) for cell in found.values() for values in cell["image"]])
    return float(text), float(image)


def change(found: dict[tuple[str, ...], Any], base: dict[tuple[str, ...], Any], column: str, count: int) -> str:
    """The difference from the base over all pairs, with its 95% interval; prompts are resampled."""
    values, groups = [], []
    for pair, cell in found.items():
        one, other = (np.mean(np.atleast_2d(table[column]), axis=0) for table in (cell, base[pair]))
        values.append(one - other)
        groups += [(pair, place // count) for place in range(len(one))]
    told = evaluation.bootstrap(np.concatenate(values), groups)
    return f"{told.mean:+.3f} [{told.low:+.3f}, {told.high:+.3f}]"


def report(cells: dict[str, dict[tuple[str, ...], Any]], pairs: Sequence[tuple[str, ...]], count: int) -> None:
    """The two tables."""
    about = f"{len(pairs)} pairs x 8 prompts x {count} samples; {shapes.machine()}"
    rows = [[method, *(f"{mean:.3f}" for mean in means(found)), change(found, cells["base"], "text", count),
             change(found, cells["base"], "image", count)] for method, found in cells.items()]  # fmt: skip
    head = ("method", "text", "image", "text, against base [95 %]", "image, against base [95 %]")
    shapes.report("Two concepts in one picture (the paper's table 1)", rows, head, about)
    named = ("text", *(f"image, target {place}" for place in (1, 2)))
    rows = []
    for place, column in enumerate(named):
        for method, found in cells.items():
            per_pair = [np.mean(cell["image"][place - 1] if place else cell["text"]) for cell in found.values()]
            rows.append([column, method, *(f"{mean:.3f}" for mean in (*per_pair, np.mean(per_pair)))])
    shapes.report("By pair (table 8)", rows, ("", "method", *(" + ".join(pair) for pair in pairs), "mean"), about)


def main() -> None:
    """Train, draw, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("-n", "--count", type=int, default=8, help="samples of each prompt")
    options.add_argument("--steps", type=int, help="denoising steps; the base's own unless given")
    options.add_argument("--base", default="mini")
    options.add_argument("--device", default="auto")
    options.add_argument("--pairs", nargs="*", default=["+".join(pair) for pair in PAIRS], help="like dog+moongate")
    options.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    options.add_argument("--no-sets", action="store_true", help="leave the sets of three out")
    options.add_argument("--out", type=Path, default=Path("pairs"), help="where results go; finished cells are kept")
    chosen = options.parse_args()
    pairs = [tuple(pair.split("+")) for pair in chosen.pairs]
    drawing, _ = resolve(SampleSettings, {"count": chosen.count, "steps": chosen.steps}, catalog.locate(chosen.base))
    base = bases.load(chosen.base, device=chosen.device)
    encoder = features.load(features.encoder_for(catalog.locate(chosen.base)), str(base.device))
    bench = Bench(base, encoder, drawing, chosen.out)
    prompts = measuring.read_prompts((FOLDER / "prompts" / "pair.txt").read_text())
    methods = ["base", *(method for method in chosen.methods if method != "base")]
    ways = [] if chosen.no_sets else [method for method in SET_METHODS if method in methods]
    asked = len(pairs) * len(methods) * len(prompts) + len(ways) * sum(map(len, SETS.values()))
    print(f"{asked * chosen.count} pictures in all, less what is there", file=sys.stderr, flush=True)
    cells = {method: {pair: bench.cell(pair, method, prompts) for pair in pairs} for method in methods}
    bench.sheet(pairs, methods, "pairs.png")
    told = [
        {"members": pair, "method": method, **cell} for method, found in cells.items() for pair, cell in found.items()
    ]
    if ways:
        told += [{"members": members, "method": method, **bench.cell(members, method, asked)}
                 for members, asked in SETS.items() for method in ways]  # fmt: skip
        bench.sheet(list(SETS), ways, "sets.png")
    (chosen.out / "pairs.json").write_text(json.dumps({"schema": 1, "encoder": encoder.spec.name, "cells": told}))
    report(cells, pairs, chosen.count)


if __name__ == "__main__":
    main()
