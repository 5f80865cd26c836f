"""Merging many concepts: fidelity and drift, time and memory, by today's rule and by others.

    python -m tests.benchmarks.merge_many mini --counts 2 4 8 16 32
    python -m tests.benchmarks.merge_many sd15 --counts 2 8 32 101

Concepts are random changes of rank 8, a twentieth of the base's own spread, whose modifier tokens begin as different
words, rare ones as far as there are, and moved a little. `sd15` is a random network of SD 1.5's shape with CLIP's real
vocabulary. Fidelity is measured on prompts that bind nothing, drift on regularization captions, both relative to the
concepts' own changes. Pairs that would not fit are tried up to eight concepts, where they are few enough to encode.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from cdtool.errors import CdtoolError
from cdtool.merging import inputs, merge
from cdtool.models import initializers, pipelines
from cdtool.models.pipelines import Base
from cdtool.priors import captions
from cdtool.settings import MergeRule
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest, row_name, weight_name
from cdtool.store.subject import Composition, Part
from cdtool.tokens import Token
from tests.benchmarks import merge_initializers, shapes

EQUAL = MergeRule(exact=1e9, pairs=0.5)  # what a merge asked for before
RULES = {
    "equalities": EQUAL,
    "equalities, no pairs": replace(EQUAL, pairs=0.0),
    "equalities, all pairs": replace(EQUAL, pairs=1e9),
    "equalities, start and padding held": replace(EQUAL, held=0.05),
    "soft .01, all pairs": MergeRule(exact=0.0, softness=0.01, pairs=1e9),
    "soft .1, all pairs": MergeRule(exact=0.0, softness=0.1, pairs=1e9),
    "soft 1, all pairs": MergeRule(exact=0.0, softness=1.0, pairs=1e9),
    "soft .1, no pairs": MergeRule(exact=0.0, softness=0.1, pairs=0.0),
    "default": MergeRule(),
}
RANK = 8
FEW = 8  # concepts, up to which pairs are tried that do not fit


def concepts(base: Base, count: int) -> list[registry.Concept]:
    """Random concepts in the registry, of different nouns as far as there are enough."""
    table = cast("nn.Embedding", base.text_encoders[0].get_input_embeddings()).weight
    nouns = captions.class_nouns(base.folder)
    tokens = [Token(nouns[at % len(nouns)], initializer=word) for at, word in enumerate(words(base, count))]
    tokens = list(initializers.assign(base.tokenizers, tokens))
    made = []
    for seed, token in enumerate(tokens):
        draw = torch.Generator().manual_seed(seed)
        tensors = {}
        for module, weight in base.kv.items():
            up, down = (
                torch.randn(weight.shape[0], RANK, generator=draw),
                torch.randn(RANK, weight.shape[1], generator=draw),
            )
            tensors[f"{weight_name(module)}.up"] = (0.05 * float(weight.std()) / RANK**0.5 * up).half()
            tensors[f"{weight_name(module)}.down"] = down.half()
        moved = 0.05 * float(table.std()) * torch.randn(table.shape[1], generator=draw)
        tensors[row_name(0, base.family.encoders[0])] = table[token.ids[0]].float() + moved
        where = BaseRef(base.name, base.family.name, base.fingerprint)
        made.append(registry.save(Manifest(f"c{seed}", where, (token,)), tensors))
    return made


def words(base: Base, count: int) -> list[str]:
    """Different words to begin as: rare ones, and where there are too few others from the end of the vocabulary."""
    vocabulary = base.tokenizers[0].get_vocab()
    rare = initializers.words([vocabulary])
    whole = [entry.removesuffix("</w>") for entry in sorted(vocabulary, key=vocabulary.__getitem__, reverse=True)
             if entry.endswith("</w>") and len(entry) > 7 and entry[:-4].isalpha()]  # fmt: skip
    return list(dict.fromkeys([*rare, *whole]))[:count]


def row(
    base: Base, stats: captions.RegularizationStats, entries: Sequence[registry.Concept], name: str
) -> list[object]:
    """A merge by a rule: its fidelity, drift and cost."""
    parts = tuple(Part(entry.name) for entry in entries)
    parents = inputs.load(base, Composition("", base.name, parts, tuple(entries)))
    begun = time.process_time()
    try:
        made = merge.merge(base, parents, "many", stats, RULES[name])
    except CdtoolError as error:
        return [len(entries), name, str(error)]
    report, kept = made.report, np.array(list(made.report.fidelity.values()))
    size = sum(tensor.numel() * tensor.element_size() for tensor in made.tensors.values())
    line = [len(entries), name, report.rows, f"{report.condition:.1e}", f"{kept.mean():.2f}", f"{kept.min():.2f}",
            f"{report.drift:.2f}", f"{time.process_time() - begun:.1f}", f"{size / 1e6:.1f}"]  # fmt: skip
    print("#", *line, flush=True)
    return line


def main() -> None:
    """Merge and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", choices=("mini", "sd15"), nargs="?", default="mini")
    options.add_argument("--counts", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    options.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    options.add_argument("--captions", type=int, default=1000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["CDTOOL_HOME"] = home
        if chosen.base == "mini":
            base = pipelines.load("mini", precision="fp32", device="cpu", parts=("text",))
        else:
            base = merge_initializers.random_base(Path(home))
        stats = captions.known(base, captions.read(captions.find(None, base.folder))[: chosen.captions])
        entries = concepts(base, max(chosen.counts))
        rows = [row(base, stats, entries[:count], name) for count in chosen.counts for name in chosen.rules
                if count <= FEW or RULES[name].pairs <= 2]  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    head = ("N", "rule", "rows", "condition", "fidelity", "least", "drift", "CPU s", "MB")
    about = f"text width {stats.width}, {stats.captions} captions, peak memory {peak:.1f} GB; {shapes.machine()}"
    shapes.report(f"Merging many on {chosen.base}", rows, head, about)


if __name__ == "__main__":
    main()
