"""How a base names its things before and after `cdtool forget`: the judge's right names, of the forgotten and of all.

    python -m tests.benchmarks.erasure [NOUN...] [--together] [--as WHAT]

Each noun is forgotten by itself, or all at once. The judge is the base's own encoder: a picture of "photo of a dog" has
its right name where "photo of a dog" is its nearest text among those of all the base's nouns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence

import numpy as np

import cdtool
from cdtool.cli.output import quiet_libraries
from cdtool.models import encoders, pipelines
from cdtool.priors.captions import class_nouns
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.sources import resolve
from cdtool.tokens import article
from tests.benchmarks import shapes

TEMPLATES = ("photo of {}", "{} on the beach")


def right(
    base: pipelines.Base, entries: Sequence[cdtool.Concept], asked: Sequence[str], count: int
) -> dict[str, float]:
    """The share of right names of each noun's pictures, over both prompts."""
    nouns = class_nouns(base.folder)
    judge = encoders.load(encoders.encoder_for(base.folder))
    texts = encoders.text_features(judge, [f"photo of {article(noun)}" for noun in nouns])
    drawing, _ = resolve(SampleSettings, {"count": count, "steps": 20, "batch": 40}, base.folder)
    prompts = [template.format(article(noun)) for noun in asked for template in TEMPLATES]
    images = [one.image for one in sample.generate(base, entries, prompts, drawing)]
    first = [nouns[at] for at in (encoders.image_features(judge, images) @ texts.T).argmax(axis=1)]
    each = len(TEMPLATES) * count
    return {noun: float(np.mean([name == noun for name in first[at * each : (at + 1) * each]]))
            for at, noun in enumerate(asked)}  # fmt: skip


def main() -> None:
    """Forget, draw, judge and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("nouns", nargs="*", default=["dog", "castle", "fish"])
    options.add_argument("--together", action="store_true")
    options.add_argument("--as", dest="instead", default="")
    options.add_argument("--base", default="mini")
    options.add_argument("--count", type=int, default=4, help="pictures of each of two prompts")
    options.add_argument("--others", type=int, default=25, help="how many of the other nouns are asked for")
    chosen = options.parse_args()
    quiet_libraries()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        base = pipelines.load(chosen.base)
        for gone in [chosen.nouns] if chosen.together else [[noun] for noun in chosen.nouns]:
            others = [noun for noun in class_nouns(base.folder) if noun not in gone]
            asked = [*gone, *others[:: max(1, len(others) // chosen.others)]]
            entry = cdtool.forget(*gone, instead=chosen.instead, base=chosen.base)
            before, after = (right(base, entries, asked, chosen.count) for entries in ((), (entry,)))
            shares = [np.mean([found[noun] for noun in part])
                      for part in (gone, asked[len(gone) :]) for found in (before, after)]  # fmt: skip
            rank = entry.manifest.report["rank"] if entry.manifest else 0
            rows.append(["+".join(gone), *(f"{share:.3f}" for share in shares), rank, f"{entry.bytes / 1e3:.0f} kB"])
    head = ("forgotten", "its right names", "after", "others' right names", "after", "rank", "file")
    shapes.report("Forgetting", rows, head, shapes.machine())


if __name__ == "__main__":
    main()
