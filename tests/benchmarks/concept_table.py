"""The table of held-out concepts: text and image alignment of the base's and the tuned samples, 5 prompts x 8 samples.

    python -m tests.benchmarks.concept_table

Runs `cdtool train` with the base's defaults and `cdtool eval` on the photo folders of mini, in a home of its own; about
a minute a concept on two cores. Image alignment should clearly rise, text alignment fall by less than a tenth.

The last column is what to expect of a perfect concept: how far the text alignment of the photos themselves to "photo of
a NOUN" lies from that of the base's pictures of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from cdtool import sources
from cdtool.cli.output import quiet_libraries
from cdtool.evaluation import alignment
from cdtool.images import photos
from cdtool.models import encoders, pipelines
from cdtool.models.encoders import Encoder
from cdtool.models.pipelines import Base
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.store import bases
from cdtool.tokens import article
from cdtool.training import job
from tests.benchmarks import shapes

NAMES = ("dog", "moongate", "house", "flower", "chair", "dinosaur", "tree", "cat", "castle", "teapot")
PHOTOS = bases.MINI.parent / "photos"
HEAD = ("concept", "text base", "text", "change", "image base", "image", "change [95 %]", "train s", "eval s", "photos")


class Judge(NamedTuple):
    """The base and the encoder that measures with it."""

    base: Base
    encoder: Encoder


def main() -> None:
    """Train, measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=NAMES)
    options.add_argument("--count", type=int, default=8, help="samples of each prompt")
    options.add_argument("--base", default="mini")
    options.add_argument("--train", default="", help="more arguments of cdtool train, in one string")
    options.add_argument("--eval", default="", help="more arguments of cdtool eval, in one string")
    chosen = options.parse_args()
    quiet_libraries()
    base = pipelines.load(chosen.base)
    judge = Judge(base, encoders.load(encoders.encoder_for(base.folder)))
    rows, last = [], {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        for name in chosen.names:
            row, last = measured(name, chosen, judge)
            rows.append(row)
            print(f"{name}: {row[1:]}", file=sys.stderr, flush=True)
    about = f"{last['prompts']} prompts x {chosen.count} samples, measured with {last['encoder']}; {shapes.machine()}"
    shapes.report("Held-out concepts", rows, HEAD, about)


def measured(name: str, chosen: argparse.Namespace, judge: Judge) -> tuple[list[object], dict[str, Any]]:
    """A row of the table, and all that `cdtool eval` told."""
    spec = next(entry["token"] for entry in json.loads((PHOTOS / "concepts.json").read_text()) if entry["name"] == name)
    train = ["train", str(PHOTOS / name), "--token", spec, "-o", name, "--base", chosen.base, "-q"]
    _, trained = cdtool(*train, *chosen.train.split())
    told, evaluated = cdtool("eval", name, "-n", str(chosen.count), "--json", *chosen.eval.split())
    scores = json.loads(told)
    base, tuned, gain = scores["base"], scores["concept"], scores["difference"]["image"]
    change = f"{tuned['text'] / base['text'] - 1:+.1%}" if base["text"] else "-"
    row: list[object] = [
        name, base["text"], tuned["text"], change, base["image"], tuned["image"],
        f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]", round(trained), round(evaluated),
        f"{possible(name, spec, chosen.count, judge):+.1%}",
    ]  # fmt: skip
    return row, scores


def possible(name: str, spec: str, count: int, judge: Judge) -> float:
    """How far the photos' own text alignment lies from that of the base's pictures, relative to the latter."""
    base, encoder = judge
    prompt = f"photo of {article(job.parse_specs([spec])[0].noun)}"
    wanted, _ = sources.resolve(SampleSettings, {"count": count}, base.folder)
    drawn = [one.image for one in sample.generate(base, [], [prompt], wanted)]
    own = [photos.read(photo) for photo in photos.find([PHOTOS / name])[0]]
    mine, its = (
        alignment.score([alignment.Sample(image, prompt) for image in images], {"": own}, encoder).concept["text"]
        for images in (own, drawn)
    )
    return mine / its - 1


def cdtool(*arguments: str) -> tuple[str, float]:
    """Run a command: what it printed, and its seconds."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "cdtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, time.perf_counter() - begun


if __name__ == "__main__":
    main()
