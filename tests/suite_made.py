"""A whole benchmark on the tiny base: one pair, all compositions, one-step images, and an encoder of mean colours."""

from __future__ import annotations

import numpy as np
import tiny_pipelines

from cdtool.evaluation import metrics
from cdtool.models import encoders
from cdtool.priors import captions

TEXT = """
name = "tiny"
about = "a try"
[sample]
count = 1
steps = 1
size = "16x16"
[train]
steps = 2
batch = 2
prior = "none"
crops = 2
lr = 1e-2
[[concept]]
name = "dog"
token = "V* dog"
photos = "dog"
prompts = "one.txt"
[[concept]]
name = "cat"
token = "V* cat"
photos = "cat"
prompts = "one.txt"
[[pair]]
members = ["dog", "cat"]
prompts = "two.txt"
[[method]]
name = "Base"
mode = "base"
[[method]]
name = "Ours"
[[composition]]
name = "Bases"
mode = "base"
[[composition]]
name = "Routed"
mode = "routed"
[[composition]]
name = "Merge"
mode = "merge"
[[composition]]
name = "Sequential"
mode = "sequential"
[[composition]]
name = "Joint"
mode = "joint"
[[table]]
title = "All"
published = "1"
"""
CELLS = ("base.dog", "ours.dog", "base.cat", "ours.cat", "bases.dog+cat", "routed.dog+cat", "merge.dog+cat",
         "sequential.dog+cat", "joint.dog+cat")  # fmt: skip


def write(folder):
    """The suite's file, its photos and prompts."""
    for name in ("dog", "cat"):
        tiny_pipelines.photos(folder / name, count=2)
    (folder / "one.txt").write_text("a {} on the beach\nphoto of a {}\n")
    (folder / "two.txt").write_text("a {0} in front of a {1}\n")
    path = folder / "tiny.toml"
    path.write_text(TEXT)
    return path


def _seen(images):
    made = np.array([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) + 1 for image in images])
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _told(texts):
    return np.tile(np.float32([[1, 0, 0]]), (len(texts), 1))


def see_colours(monkeypatch):
    """Measure with mean colours, and merge with a few captions."""
    spec = encoders.EncoderSpec("colour", "colour", 0.0)
    monkeypatch.setattr(encoders, "load", lambda *_: encoders.Encoder(spec, _told, _seen))
    monkeypatch.setattr(metrics, "find_encoders", lambda *_: None)
    monkeypatch.setattr(captions, "read", lambda _: ["a cat on the beach", "photo of a dog", "in front of the cat"])
