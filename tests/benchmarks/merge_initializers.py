"""The paper's ten concepts merged in pairs: modifier tokens that began as the same word against words of their own.

    python -m tests.benchmarks.merge_initializers
    python -m tests.benchmarks.merge_initializers --moved 0.002 --captions 200

CLIP's real vocabulary, a random text encoder of SD 1.x's size and random K/V of its shapes; each concept is a random
change of 5 % of every K/V, and an embedding moved by `--moved` (standard deviation; the table's own is .02) from the
word it began as. "Before" is the rule of the first versions: four words, dealt by noun. Bar: no condition above 5e3.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import nn

from cdtool.merging import inputs, merge
from cdtool.models import clip, initializers
from cdtool.models.pipelines import Base
from cdtool.priors import captions
from cdtool.priors.captions import RegularizationStats
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest, row_name, weight_name
from cdtool.store.families import FAMILIES
from cdtool.store.subject import Composition, Part
from cdtool.tokens import Token
from tests import clip_vocabulary
from tests.benchmarks import shapes

NOUNS = ("barn", "tortoise plushy", "teddybear", "wooden pot", "dog", "cat", "flower", "table", "chair")
FORMER = ("ktn", "pll", "ucd", "sks")
SIZES = (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320)  # K and V of each block


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--moved", type=float, default=0.01, help="standard deviation of an embedding's change")
    options.add_argument("--captions", type=int, default=1000, help="regularization captions that are read")
    options.add_argument("--shared", action="store_true", help="only the pairs that shared a word before")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        base = random_base(Path(home))
        texts = captions.read(captions.SHIPPED)[: chosen.captions]
        known = captions.known(base, texts)
        before = save(base, "before", [former(noun) for noun in NOUNS], chosen.moved)
        words = initializers.words([base.tokenizers[0].get_vocab()])
        after = save(base, "after", initializers.choose(words, NOUNS), chosen.moved)
        pairs = [pair for pair in itertools.combinations(range(len(NOUNS) + 1), 2) if shared(pair) or not chosen.shared]
        rows = [row(base, known, before, after, pair) for pair in pairs]
    worst = max(float(line[4]) for line in rows)
    rows.sort(key=lambda line: -float(line[2]))
    head = ["pair", "shared before", "condition before", "fidelity before", "condition after", "fidelity after"]
    about = f"embeddings moved by {chosen.moved:g}, {len(texts)} captions; largest condition after: {worst:.2g}"
    shapes.report("Merging the paper's concepts pairwise", rows, head, f"{about}; {shapes.machine()}")


def random_base(folder: Path) -> Base:
    """What a merge needs of an SD 1.x base, with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    (folder / "model_index.json").write_text("{}")  # what an empty prompt means is asked of it
    tokenizer = clip_vocabulary.tokenizer(folder / "tokenizer")
    made = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    encoder = clip.TextEncoder(clip.TextConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, eos_token_id=int(tokenizer.eos_token_id),
    ))  # fmt: skip
    known = encoder.state_dict()
    weights = {name.removeprefix("text_model."): value for name, value in made.state_dict().items()}
    encoder.load_state_dict({name: value for name, value in weights.items() if name in known})
    kv = {f"block{number}.attn2.{leaf}": 0.036 * torch.randn(size, 768)
          for number, size in enumerate(SIZES) for leaf in ("to_k", "to_v")}  # fmt: skip
    return Base("random", folder, FAMILIES[0], torch.device("cpu"), torch.float32, {}, {}, kv=kv, fingerprint="f00d",
                text_encoders=(encoder.requires_grad_(False).eval(),), tokenizers=(tokenizer,))  # fmt: skip


def former(noun: str) -> str:
    """The word a noun began as by the rule of the first versions."""
    return FORMER[int(hashlib.sha256(noun.encode()).hexdigest(), 16) % len(FORMER)]


def shared(pair: tuple[int, int]) -> str:
    """The word that both of a pair began as by that rule; "" for different words."""
    words = [former(NOUNS[index]) for index in pair if index < len(NOUNS)]
    return words[0] if len(words) == 2 and len(set(words)) == 1 else ""


def save(base: Base, kind: str, words: list[str], moved: float) -> list[registry.Concept]:
    """The ten concepts in the registry, their modifier tokens begun as `words`; moongate has none."""
    table = cast("nn.Embedding", base.text_encoders[0].get_input_embeddings()).weight
    tokens = [Token(noun, initializer=word) for noun, word in zip(NOUNS, words, strict=True)]
    saved = []
    for seed, token in enumerate(initializers.assign(base.tokenizers, [*tokens, Token("moongate", modifier=False)])):
        generator = torch.Generator().manual_seed(seed)
        tensors = {weight_name(module): (0.05 * weight.std() * torch.randn(weight.shape, generator=generator)).half()
                   for module, weight in base.kv.items()}  # fmt: skip
        if token.modifier:
            noise = torch.randn(table.shape[1], generator=generator)
            tensors[row_name(0, base.family.encoders[0])] = table[token.ids[0]] + moved * noise
        name = f"{registry.slug(token.noun)}-{kind}"
        where = BaseRef(base.name, base.family.name, base.fingerprint)
        saved.append(registry.save(Manifest(name, where, (token,)), tensors))
    return saved


def row(
    base: Base, known: RegularizationStats, before: list[registry.Concept], after: list[registry.Concept],
    pair: tuple[int, int],
) -> list[object]:  # fmt: skip
    """One pair by both rules."""
    names = " + ".join((*NOUNS, "moongate")[index] for index in pair)
    figures: list[object] = []
    for concepts in (before, after):
        chosen = tuple(concepts[index] for index in pair)
        parts = tuple(Part(concept.name) for concept in chosen)
        parents = inputs.load(base, Composition("", base.name, parts, chosen))
        report = merge.merge(base, parents, "pair", known).report
        figures += [report.condition, " / ".join(f"{kept:.2f}" for kept in report.fidelity.values())]
    line = [names, shared(pair), *figures]
    print("#", *line, flush=True)
    return line


if __name__ == "__main__":
    main()
