"""What the words and positions of nobody's own get in a routed picture: rules beside one another, on pairs of concepts.

    CDTOOL_HOME=~/pairs python -m tests.benchmarks.routing_rules dog+castle cat+chair -n 4

A concept's own words take its change whole under every rule. The others differ in what the words behind them, the
end-of-text and the padding take. The concepts must be in the registry. The figures behind `routing.shares`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
import torch

from cdtool import files
from cdtool.evaluation import alignment, samples
from cdtool.images import photos
from cdtool.models import encoders, pipelines, text
from cdtool.sampling import routing, sample
from cdtool.settings import SampleSettings
from cdtool.sources import resolve
from cdtool.store import bases
from cdtool.store import subject as composition
from cdtool.tokens import bind
from tests.benchmarks import shapes

Share = Callable[[list[int], int | None], list[float]]  # the concepts named, and the one before -> each one's share


def _nothing(named: list[int], _: int | None) -> list[float]:
    return [0.0] * len(named)


def _mean(named: list[int], _: int | None) -> list[float]:
    return [1 / len(named)] * len(named)


def _sum(named: list[int], _: int | None) -> list[float]:
    return [1.0] * len(named)


def _before(named: list[int], before: int | None) -> list[float]:
    return [float(place == before) for place in named]


# What the words of nobody, the end-of-text and the padding take.
RULES: dict[str, tuple[Share, Share, Share]] = {
    "all the base's": (_nothing, _nothing, _nothing),
    "end of text: mean": (_nothing, _mean, _nothing),
    "padding: mean": (_nothing, _nothing, _mean),
    "end of text and padding: mean": (_nothing, _mean, _mean),
    "end of text and padding: sum": (_nothing, _sum, _sum),
    "end of text and padding: the last named": (_nothing, _before, _before),
    "words: the one before, the rest: the base's": (_before, _nothing, _nothing),
    "words: the one before, the rest: mean": (_before, _mean, _mean),
    "words: the one before, the rest: sum": (_before, _sum, _sum),
    "everything: mean": (_mean, _mean, _mean),
}


def rule(words: Share, end_of_text: Share, padding: Share) -> Callable[..., torch.Tensor]:
    """A stand-in for `routing.shares`."""

    def shares(base, prompt, tokens, concepts, reach):  # type: ignore[no-untyped-def]
        own, end = text.owners(base, prompt, tokens)
        share, before = torch.zeros(len(own), max(concepts, default=-1) + 1), None
        named = sorted({concepts[token] for token in own if token is not None})
        for position, token in enumerate(own):
            if token is not None:
                before = concepts[token]
                share[position, before] = 1.0
            elif named and position:
                told = words if position < end else end_of_text if position == end else padding
                share[position, named] = torch.tensor(told(named, before))
        return share

    return shares


def scores(joined: Sequence[str], chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Text alignment and image alignment to each concept's photos, a column a pair, under every rule."""
    base = pipelines.load("mini", device=chosen.device)
    drawing, _ = resolve(SampleSettings, {"count": chosen.count, "steps": chosen.steps}, bases.MINI)
    encoder = encoders.load(encoders.encoder_for(bases.MINI), str(base.device))
    lines = files.read_prompts(bases.MINI.parent / "prompts" / "pair.txt")
    found: dict[str, list[float]] = {}
    for composed in joined:
        subject = composition.find(composed)
        folders = [bases.MINI.parent / "photos" / part.name for part in subject.parts]
        targets = [encoders.image_features(encoder, [photos.read(photo) for photo in photos.find([folder])[0]])
                   for folder in folders]  # fmt: skip
        asked = [samples.fill(line, subject.tokens) for line in lines]
        plain = [bind(prompt, subject.tokens).plain() for prompt in asked]
        texts = np.repeat(encoders.text_features(encoder, plain), chosen.count, axis=0)
        ways = {"the base with class nouns": None, **{name: rule(*parts) for name, parts in RULES.items()}}
        for name, shares in ways.items():
            with patch.object(routing, "shares", shares or routing.shares):
                concepts, prompts = (subject.concepts, asked) if shares else ((), plain)
                images = [item.image for item in sample.generate(base, concepts, prompts, drawing)]
            made = encoders.image_features(encoder, images)
            row = [float(alignment.text_alignment(made, texts).mean())]
            row += [float(alignment.image_alignment(made, target).mean()) for target in targets]
            found.setdefault(name, []).extend(row)
            print(f"{composed}: {name}: {' '.join(f'{value:.3f}' for value in row)}", flush=True)
    return found


def main() -> None:
    """Draw, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("joined", nargs="+", help="like dog+castle")
    options.add_argument("-n", "--count", type=int, default=4, help="samples of each prompt")
    options.add_argument("--steps", type=int, help="denoising steps; the base's own unless given")
    options.add_argument("--device", default="auto")
    chosen = options.parse_args()
    found = scores(chosen.joined, chosen)
    each = len(next(iter(found.values()))) // len(chosen.joined)
    rows = [[name, *(f"{value:.3f}" for value in row), f"{np.mean(row[::each]):.3f}",
             f"{np.mean([value for place, value in enumerate(row) if place % each]):.3f}"]
            for name, row in found.items()]  # fmt: skip
    head = [f"{text}: {column}" for text in chosen.joined
            for column in ("text", *(f"image {place}" for place in range(1, each)))]  # fmt: skip
    about = f"8 prompts x {chosen.count} samples; {shapes.machine()}"
    shapes.report("What is nobody's own", rows, ["", *head, "mean text", "mean image"], about)


if __name__ == "__main__":
    main()
