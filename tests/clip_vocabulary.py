"""CLIP's real vocabulary, which the public bases share: 49,408 entries of byte-level byte-pair encoding."""

from __future__ import annotations

import gzip
from pathlib import Path

MERGES = Path(__file__).parent.parent / "cdtool" / "assets" / "clip_merges.txt.gz"


def write(folder: Path) -> Path:
    """Write `vocab.json` and `merges.txt` as the public bases have them."""
    from cdtool.mini.factory import words

    lines = gzip.decompress(MERGES.read_bytes()).decode().splitlines()[1:]
    words.write([tuple(line.split()) for line in lines], folder)
    return folder


def tokenizer(folder: Path, pad: str = "<|endoftext|>"):
    from transformers import CLIPTokenizer

    write(folder)
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, pad_token=pad)
