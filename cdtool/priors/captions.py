"""Regularization captions, and the second moment R of their text features, which must stay as it is (Eq. 4)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from cdtool import cache, settings, sources
from cdtool.errors import NotFoundError, ResourceError
from cdtool.images import corpora
from cdtool.models import denoiser, text
from cdtool.tokens import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.models.text import Tokenized

SHIPPED = Path(__file__).parent.parent / "assets" / "captions.txt"
MOST = 1000  # captions that are read, evenly chosen
PADDED = 24  # of them are encoded with their padding, which costs several times as much and hardly varies
SHOWN = 24  # of them on whose words the drift is measured
BATCH = 32
_FORMAT = 1  # counts up when what is cached changes its meaning


class RegularizationStats(NamedTuple):
    """A base's text features of the regularization captions: the second moment R of [c; 1], and some words."""

    moment: Tensor  # [d + 1, d + 1] float64: the mean over positions of [c; 1] [c; 1]'
    words: Tensor  # [n, d] float64
    positions: int  # whose features the mean is over
    captions: int

    @property
    def width(self) -> int:
        """The text width d."""
        return int(self.words.shape[1])


def find(given: Path | None, base_folder: Path) -> Path:
    """The file of captions: the one given, else the one the base's cdtool.toml names under [merge], else the shipped.

    Raises NotFoundError for one that is not there.
    """
    named = sources.read_toml(base_folder / "cdtool.toml").get("merge", {}).get("captions")
    path = given or (base_folder / str(named) if named else SHIPPED)
    if not path.is_file():
        raise NotFoundError(f"There is no file of captions {path}.", "Check the path given with --captions.")
    return path


def read(path: Path) -> list[str]:
    """The different captions of a text file, one a line, or of a corpus; evenly chosen if above MOST.

    Raises InputError where it holds none, or cannot be read.
    """
    return corpora.evenly(list(dict.fromkeys(corpora.captions(path))), MOST)


def class_nouns(base_folder: Path) -> list[str]:
    """Nouns of common classes: those in the file the base's [eval] names, or the shipped ones."""
    own = sources.read_toml(base_folder / "cdtool.toml").get("eval", {}).get("nouns")
    path = base_folder / str(own) if own else SHIPPED.with_name("nouns.txt")
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def names(caption: str, noun: str) -> bool:
    """Whether a caption has the noun as words of its own, in the singular or with an s."""
    return re.search(rf"(?<!\w){re.escape(noun)}s?(?!\w)", caption, re.IGNORECASE) is not None


def key_of(base: Base, captions: Sequence[str]) -> str:
    """A key of what R depends on: the text encoders' weights and the captions."""
    weights = {f"{part}.{name}": tensor.cpu() for part, encoder in zip(base.family.encoders, base.text_encoders,
               strict=True) for name, tensor in encoder.state_dict().items()}  # fmt: skip
    said = hashlib.sha256("\n".join([str(_FORMAT), *captions]).encode()).hexdigest()
    return f"{denoiser.fingerprint(weights)[:20]}-{said[:20]}"


def stored(key: str) -> RegularizationStats | None:
    """The statistics that an earlier run cached under a `key`; None where there are none, or not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = cache.read(_path(key))
    if content is None:
        return None
    try:
        found = load(content)
        return RegularizationStats(found["moment"], found["words"].double(), *found["counts"].tolist())
    except (SafetensorError, KeyError, ValueError, TypeError):
        return None


def known(base: Base, captions: Sequence[str]) -> RegularizationStats:
    """The statistics of captions, encoded now if they were not before; `encode` shows how far that is.

    Raises ResourceError where the cache cannot be written.
    """
    key = key_of(base, captions)
    if stored(key) is None:
        for _ in encode(base, captions, key):
            pass
    found = stored(key)
    if found is None:
        raise ResourceError("The statistics of the captions are no longer in the cache.", "Run it again.")
    return found


def encode(base: Base, captions: Sequence[str], key: str) -> Iterator[int]:
    """Encode the captions, yielding for each that is done, and cache their statistics under a `key`.

    R is the mean over all positions a prompt has, start token and padding included: those are attended to like the
    words. Padding, most of the positions, is taken from PADDED of the captions. Raises ResourceError where the cache
    cannot be written.
    """
    prompts = [text.tokenize(base, Prompt((caption,), frozenset()), ()) for caption in captions]
    ends = [_end(base, prompt) for prompt in prompts]
    places = range(len(prompts))
    shown, padded = set(corpora.evenly(places, SHOWN)), set(corpora.evenly(places, PADDED))
    width = sum(int(encoder.config.hidden_size) for encoder in base.text_encoders)
    written, padding = (torch.zeros(width + 1, width + 1, dtype=torch.float64) for _ in range(2))
    words: dict[int, Tensor] = {}
    # Full prompts first; then the others up to their end, which in a causal encoder does not know what follows.
    bare = sorted(set(range(len(prompts))) - padded, key=ends.__getitem__)
    for part in [*_batches(sorted(padded)), *_batches(bare)]:
        longest = len(prompts[0].ids[0]) if part[0] in padded else max(ends[at] for at in part) + 1
        with torch.no_grad():
            features = text.encode(base, [text.truncate(prompts[at], longest) for at in part]).features.cpu().double()
        for row, at in zip(features, part, strict=True):
            _add(written, row[: ends[at] + 1])
            if at in padded:
                _add(padding, row[ends[at] + 1 :])
            if at in shown:
                words[at] = row[1 : ends[at] + 1]
        yield from part
    moment = written + padding * (len(prompts) / len(padded))
    count = float(moment[-1, -1])
    _write(key, moment / count, torch.cat([words[at] for at in sorted(words)]),
           (round(count), len(captions)))  # fmt: skip


def _batches(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[start : start + BATCH] for start in range(0, len(places), BATCH)]


def _end(base: Base, prompt: Tokenized) -> int:
    """The position of a prompt's first end-of-text."""
    return prompt.ids[0].index(base.tokenizers[0].eos_token_id, 1)


def _add(moment: Tensor, features: Tensor) -> None:
    """Add the sum of [c; 1] [c; 1]' over features [n, d]."""
    rows = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    moment.addmm_(rows.T, rows)


def _path(key: str) -> Path:
    return settings.cache_dir() / "merge" / key


def _write(key: str, moment: Tensor, words: Tensor, counts: Sequence[int]) -> None:
    from safetensors.torch import save

    path = _path(key)
    if not cache.write(path, save({"moment": moment, "words": words.float(), "counts": torch.tensor(counts)})):
        raise ResourceError(f"The cache {path.parent} cannot be written.", "Free some disk, or mend its permissions.")
