"""Trainings beyond the paper beside today's default: ten concepts alone, and five pairs of them composed.

    python -m tests.benchmarks.beyond [concepts | pairs] [--variants focus text ...] [--json FILE]

Of concepts: text and image alignment, rank (how often a sample's nearest folder, among all photo folders and the
look-alikes of its class, is its own), KID of plain class images against real ones (x1000), how far these moved from the
base's, and the CPU seconds of the training's steps. Of pairs, routed and merged: text, image, and how often a sample's
two nearest folders are the pair's. A cell that is in the JSON file already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import cdtool
from cdtool import files, sources
from cdtool.cli.output import quiet_libraries
from cdtool.evaluation import alignment, distances, identity, references, samples
from cdtool.evaluation.alignment import bootstrap
from cdtool.models import pipelines, vision
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.tokens import article, bind
from cdtool.training import job as jobs
from cdtool.training import run
from tests.benchmarks import shapes
from tests.benchmarks.learnability import FAR, NEAR, Judge
from tests.benchmarks.tune_methods import FOLDER, token_of

# Settings of each variant's training; those of `full` and DreamBooth are the base's own best.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no prior": {"prior": "none"},
    "generated": {"prior": "generated"},
    "text": {"prior": "text"},
    "self": {"prior": "self"},
    "focus": {"focus": True},
    "focus+lock": {"focus": True, "lock": 1.0},
    "align": {"align": 1.0},
    "focus+align": {"focus": True, "align": 1.0},
    "text+align": {"prior": "text", "align": 1.0},
    "full": {"method": "full"},
    "dreambooth": {"method": "dreambooth"},
}
PAIRS = (("dog", "moongate"), ("cat", "chair"), ("horse", "castle"), ("teapot", "flower"), ("house", "tree"))
KID_COUNT = 16


@dataclass(frozen=True)
class Context:
    """A base, its judge, and what is sampled."""

    base: pipelines.Base
    judge: Judge
    drawing: SampleSettings
    lines: Sequence[str]
    kept: Path | None

    def cell(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A result that is kept, or made now."""
        done = json.loads(self.kept.read_text()) if self.kept and self.kept.is_file() else {}
        key = f"{self.base.fingerprint[:8]} {key}"
        if key not in done:
            done[key] = make()
            told = " ".join(f"{name} {value:.3f}" for name, value in done[key].items() if isinstance(value, float))
            print(f"{key}: {told}", file=sys.stderr, flush=True)
            if self.kept:
                self.kept.write_text(json.dumps(done) + "\n")
        found: dict[str, Any] = done[key]
        return found

    def draw(self, entries: Sequence[cdtool.Concept], prompts: Sequence[str], count: int = 0) -> np.ndarray:
        """Features [n, d] of samples."""
        drawing = replace(self.drawing, count=count) if count else self.drawing
        return self.judge.seen([one.image for one in sample.generate(self.base, entries, prompts, drawing)])


def trained(context: Context, concept: str, flags: Mapping[str, Any]) -> tuple[cdtool.Concept, float]:
    """A concept of one of mini's photo folders, and the CPU seconds of its training once its crops are encoded."""
    work = jobs.job([FOLDER / "photos" / concept], [token_of(concept)], name=concept, base=context.base.name,
                    flags=flags)  # fmt: skip
    begun, entry = 0.0, None
    for event in run.train_job(work, context.base, force=True):
        begun = time.process_time() if event.kind == "latents" else begun
        entry = event.concept or entry
    assert entry is not None
    return entry, time.process_time() - begun


def alone(context: Context, concept: str, flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """Every score of a concept; those of the base's own samples where there are no flags."""
    entries, seconds = [], 0.0
    if flags is not None:
        entry, seconds = trained(context, concept, flags)
        entries = [entry]
    tokens = jobs.parse_specs([token_of(concept)])
    asked = [samples.fill(line, tokens) for line in context.lines]
    plain = [bind(prompt, tokens).plain() for prompt in asked]
    made = context.draw(entries, asked if entries else plain)
    texts = np.repeat(context.judge.told(plain), context.drawing.count, 0)
    own = context.judge.folders[concept]
    noun = tokens[0].noun
    images = context.draw(entries, [f"photo of {article(noun)}"], KID_COUNT)
    real = list(references.images(references.of_class(None, context.base.folder, noun, distances.FEWEST)))
    encoder = context.judge.encoder
    kid = distances.kid(vision.set_features(encoder, images), vision.set_features(encoder, context.judge.seen(real)))
    return {
        "text": float(alignment.text_alignment(made, texts).mean()),
        "image": float(alignment.image_alignment(made, own).mean()),
        "rank": float(identity.own_first(made, own, context.judge.rivals(concept)).mean()),
        "kid": 1000 * kid,
        "class": images.tolist(),
        "seconds": seconds,
    }


def concepts(context: Context, names: Sequence[str], variants: Sequence[str]) -> None:
    """Print every concept's scores by every variant, and the means."""
    bare = {name: context.cell(f"{name} base", lambda name=name: alone(context, name, None)) for name in names}
    rows: list[list[object]] = []
    every: dict[str, dict[str, list[float]]] = {}
    for variant in variants:
        cells = {name: context.cell(f"{name} {variant} {VARIANTS[variant]}",
                                    lambda name=name, variant=variant: alone(context, name, VARIANTS[variant]))
                 for name in names}  # fmt: skip
        every[variant] = {score: [cells[name][score] for name in names] for score in ("text", "image", "rank")}
        kept = [cells[name]["text"] / bare[name]["text"] for name in names]
        moved = [float(((np.array(cells[name]["class"]) - np.array(bare[name]["class"])) ** 2).sum(1).mean() / 2)
                 for name in names]  # fmt: skip
        means = [float(np.mean([cell[score] for cell in cells.values()])) for score in ("image", "rank", "kid")]
        seconds = float(np.median([cell["seconds"] for cell in cells.values()]))
        enough = f"{sum(share >= 0.9 for share in kept)} of {len(names)}"
        rows.append([variant, float(np.mean(kept)), enough, *means, float(np.mean(moved)), seconds])
    bases = [float(np.mean([cell[score] for cell in bare.values()])) for score in ("image", "rank", "kid")]
    rows.insert(0, ["the base", 1.0, "", *bases, 0.0, 0.0])
    about = f"{len(names)} concepts, {len(context.lines)} prompts x {context.drawing.count}; {shapes.machine()}"
    head = ("variant", "text kept", "nine tenths kept", "image", "rank", "KID", "class moved", "CPU s")
    shapes.report("Beyond the paper", rows, head, about)
    for variant, gains in every.items():
        if variant != variants[0]:
            for score in ("text", "image", "rank"):
                apart = bootstrap(np.array(gains[score]) - np.array(every[variants[0]][score]), list(names))
                print(f"{variant} - {variants[0]}: {score} {apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]")


def together(context: Context, pair: tuple[str, str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Both ways to compose a pair: text, image to each, and how often both are found."""
    entries = [trained(context, name, flags)[0] for name in pair]
    merged = cdtool.merge(*entries, name="merged", force=True)
    tokens = tuple(token for entry in entries for token in (entry.manifest.tokens if entry.manifest else ()))
    asked = [samples.fill(line, tokens) for line in context.lines]
    texts = np.repeat(context.judge.told([bind(line, tokens).plain() for line in asked]), context.drawing.count, 0)
    folders = [context.judge.folders[name] for name in pair]
    others = [found for name, found in context.judge.folders.items() if name not in pair]
    found: dict[str, Any] = {}
    for way, subject in (("routed", entries), ("merged", [merged])):
        made = context.draw(subject, asked)
        found |= {
            f"{way} text": float(alignment.text_alignment(made, texts).mean()),
            f"{way} image": float(np.mean([alignment.image_alignment(made, own).mean() for own in folders])),
            f"{way} both": float((identity.collapsed(made, folders, others) == 0).mean()),
            f"{way} found": float(1 - identity.collapsed(made, folders, others).mean()),
        }
    return found


def pairs(context: Context, variants: Sequence[str]) -> None:
    """Print the means of both ways over the pairs, by every variant."""
    columns = [f"{way} {score}" for way in ("routed", "merged") for score in ("text", "image", "found", "both")]
    rows: list[list[object]] = []
    for variant in variants:
        cells = [context.cell(f"{'+'.join(pair)} {variant} {VARIANTS[variant]}",
                              lambda pair=pair, variant=variant: together(context, pair, VARIANTS[variant]))
                 for pair in PAIRS]  # fmt: skip
        rows.append([variant, *(float(np.mean([cell[column] for cell in cells])) for column in columns)])
    about = f"{len(PAIRS)} pairs, {len(context.lines)} prompts x {context.drawing.count}; {shapes.machine()}"
    shapes.report("Pairs", rows, ("variant", *columns), about)


def main() -> None:
    """Train, draw, measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", nargs="?", choices=("concepts", "pairs"), default="concepts")
    options.add_argument("--base", default="mini")
    options.add_argument("--concepts", nargs="+", default=[*NEAR, *FAR])
    options.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options.add_argument("--set", type=json.loads, default={}, help="more settings of all variants, as JSON")
    options.add_argument("--prompts", type=int, default=10)
    options.add_argument("-n", "--count", type=int, default=4, help="samples of each prompt")
    options.add_argument("--steps", type=int, default=25, help="of sampling")
    options.add_argument("--json", type=Path, help="where results are kept")
    chosen = options.parse_args()
    quiet_libraries()
    for name in VARIANTS:
        VARIANTS[name] |= chosen.set
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        base = pipelines.load(chosen.base)
        given = {"count": chosen.count, "steps": chosen.steps, "batch": 20}
        drawing, _ = sources.resolve(SampleSettings, given, base.folder)
        lines = files.read_prompts(FOLDER / "prompts" / ("object.txt" if chosen.what == "concepts" else "pair.txt"))
        context = Context(base, Judge(base, FOLDER / "photos"), drawing, lines[: chosen.prompts], chosen.json)
        if chosen.what == "concepts":
            concepts(context, chosen.concepts, chosen.variants)
        else:
            pairs(context, chosen.variants)


if __name__ == "__main__":
    main()
