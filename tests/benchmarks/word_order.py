"""What a word is to the base's text encoder where another thing is named before it: cosines of its text features.

    python -m tests.benchmarks.word_order moongate

Against those in "photo of a WORD", as it is trained on: K/V learn for these.
"""

from __future__ import annotations

import argparse

import torch

from cdtool.cli.output import quiet_libraries
from cdtool.models import pipelines, text
from cdtool.models.pipelines import Base
from cdtool.tokens import Prompt
from tests.benchmarks import shapes

PROMPTS = (
    "a {} on the beach",
    "a {} on the left of a dog on the grass",
    "a dog next to a {} on the grass",
    "a dog in front of a {} on the beach",
    "a house in front of a {} in the snow",
    "a cup next to a {}",
)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("word", help="a word of the base's vocabulary")
    options.add_argument("--base", default="mini")
    chosen = options.parse_args()
    quiet_libraries()
    base = pipelines.load(shapes.base(chosen.base), precision="fp32", device="cpu", parts=("text",))
    trained = features(base, "photo of a {}", chosen.word)
    found = [features(base, prompt, chosen.word) for prompt in PROMPTS]
    rows = [[prompt.format(chosen.word), float(torch.cosine_similarity(one, trained, 0))]
            for prompt, one in zip(PROMPTS, found, strict=True)]  # fmt: skip
    shapes.report("A word behind others", rows, ["prompt", "cosine"], f"{chosen.base}; {shapes.machine()}")


def features(base: Base, prompt: str, word: str) -> torch.Tensor:
    """The text features [d] at the word in a prompt."""
    said = text.tokenize(base, Prompt((prompt.format(word),), frozenset()), ())
    (own,) = base.tokenizers[0](word, add_special_tokens=False).input_ids
    place = base.tokenizers[0](prompt.format(word)).input_ids.index(own)
    with torch.no_grad():
        return text.encode(base, [said], ((),)).features[0, place]


if __name__ == "__main__":
    main()
