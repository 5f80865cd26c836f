"""What a concept changes beside itself: pictures asked for without its words, drawn with it and with the bare base.

forgetting.py tells from them how far plain things moved, KID and FID how far they are from real pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cdtool.errors import UsageError, nearest
from cdtool.evaluation import alignment, distances, references
from cdtool.images import photos
from cdtool.models import encoders, vision
from cdtool.models.encoders import EncoderSpec
from cdtool.tokens import article

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.images.corpora import Member
    from cdtool.models.encoders import Encoder
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Drawn
    from cdtool.settings import SampleSettings
    from cdtool.store.subject import Composition

SETS = ("kid", "fid")  # metrics of whole sets of pictures; the lower, the better
NEIGHBOURS = 3  # classes
FEWEST, MOST = 8, 50  # pictures of each kind that forgetting looks at
ENOUGH = 50  # pictures KID is measured on at least: the interval of ten is wider than what it would tell


@dataclass(frozen=True)
class Wanted:
    """Which scores are asked for, and what they are measured against."""

    metrics: tuple[str, ...] = ("text", "image")
    forgetting: bool = False
    kid: Path | None = None  # pictures of the class, or a captioned corpus; None is the base's own
    fid: Path | None = None  # a captioned corpus; None is the base's own
    fid_count: int = 100  # pictures drawn for FID
    encoder: str = ""  # folder or hub id of another CLIP; "" is the base's

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of all scores that will be known."""
        return (*self.metrics, *(("class", "leak", "neighbours", "unrelated") if self.forgetting else ()))


@dataclass(frozen=True)
class Kind:
    """A class of the concept: its noun, how it is asked for, its target's name, and real pictures of it."""

    noun: str
    prompt: str
    target: str
    is_own_word: bool  # the noun is the concept's only word, so that nothing can leak into it
    pictures: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Asides:
    """What is drawn beside the samples: so many pictures of each class, of each neighbour, and one per caption."""

    kinds: tuple[Kind, ...] = ()
    count: int = 0
    classes: tuple[str, ...] = ()  # how every class is asked for, drawn or not
    nouns: tuple[str, ...] = ()  # among which its neighbours are looked for
    near: int = 0
    captions: tuple[str, ...] = ()
    pictures: tuple[Member, ...] = ()  # real ones, for FID

    @property
    def total(self) -> int:
        """How many pictures it draws, the base's included."""
        near = min(NEIGHBOURS, len(self.nouns)) * self.near
        return 2 * (len(self.kinds) * self.count + near + len(self.captions))


class Aside(NamedTuple):
    """A picture drawn beside the samples: for the class, a neighbour or a caption, with the concept or without."""

    group: str
    is_concept: bool
    image: Image.Image
    prompt: str
    seed: int


def metric_names(text: str) -> tuple[str, ...]:
    """The metrics of a list like "text,image,kid". Raises UsageError for an unknown one and for none."""
    known = (*alignment.METRICS, *SETS)
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in found:
        if name not in known:
            raise UsageError(f'There is no metric "{name}".', nearest(name, known) or f"There are {', '.join(known)}.")
    if not found:
        raise UsageError("--metrics names no metric.", f"There are {', '.join(known)}.")
    return found


# ---------------------------------------------------------------- what is drawn


def plan(wanted: Wanted, subject: Composition, targets: Sequence[str], base_folder: Path, samples: int) -> Asides:
    """What has to be drawn for the wanted scores of a subject with these targets of photos, `samples` being drawn.

    Raises UsageError for a bare base, NotFoundError and InputError where real pictures are missing.
    """
    kid, fid = ("kid" in wanted.metrics), ("fid" in wanted.metrics)
    if not (kid or fid or wanted.forgetting):
        return Asides()
    if not subject.concepts:
        raise UsageError(
            f"{subject.text} is a base; KID, FID and forgetting are about what a concept changes in it.",
            "Leave them out, or name a concept.",
        )
    looked = max(min(samples, MOST), FEWEST)
    kinds = _kinds(wanted, subject, targets, base_folder)
    nouns = [kind.noun for kind in kinds]
    captions = max(wanted.fid_count * fid, looked * wanted.forgetting)
    return Asides(
        kinds=tuple(kind for kind in kinds if kid or not kind.is_own_word) if kid or wanted.forgetting else (),
        count=max(samples, ENOUGH) if kid else looked,
        classes=tuple(kind.prompt for kind in kinds),
        nouns=tuple(noun for noun in references.class_nouns(base_folder) if noun not in nouns) * wanted.forgetting,
        near=-(-looked // NEIGHBOURS),
        captions=tuple(references.unrelated_captions(base_folder, nouns, captions, wanted.fid)) if captions else (),
        pictures=references.unrelated(wanted.fid, base_folder, nouns) if fid else (),
    )


def _kinds(wanted: Wanted, subject: Composition, targets: Sequence[str], base_folder: Path) -> list[Kind]:
    found = []
    held = [(token, entry) for entry in subject.concepts if entry.manifest for token in entry.manifest.tokens]
    for (token, entry), target in zip(held, targets, strict=True):
        style = bool(entry.manifest and entry.manifest.settings.get("style"))
        real: tuple[Member, ...] = ()
        if "kid" in wanted.metrics:
            word = "painting" if style else token.noun
            real = references.of_class(wanted.kid, base_folder, word, distances.FEWEST)
        found.append(Kind(token.noun, photos.template(token, style), target, not token.modifier, real))
    return list({kind.noun: kind for kind in reversed(found)}.values())[::-1]  # two dogs are one class


def neighbours(asides: Asides, encoder: Encoder) -> list[str]:
    """The nouns nearest to the classes by text similarity."""
    if not asides.nouns:
        return []
    told = [f"photo of {article(noun)}" for noun in asides.nouns]
    near = encoders.text_features(encoder, told) @ encoders.text_features(encoder, asides.classes).T
    return [asides.nouns[place] for place in np.argsort(-near.max(axis=1), kind="stable")[:NEIGHBOURS]]


def draw(
    base: Base, subject: Composition, asides: Asides, near: Sequence[str], settings: SampleSettings,
    bare: MutableMapping[Hashable, list[Drawn]] | None = None,
) -> Iterator[Aside]:  # fmt: skip
    """Draw everything with the concept and then, with the same seeds, with the bare base.

    What the base drew is kept in `bare` and not drawn again where it is there.
    """
    from cdtool.sampling import sample

    asked = [(kind.noun, [kind.prompt], asides.count) for kind in asides.kinds]
    asked += [("neighbours", [f"photo of {article(noun)}" for noun in near], asides.near)]
    asked += [("unrelated", list(asides.captions), 1)]
    known: MutableMapping[Hashable, list[Drawn]] = {} if bare is None else bare
    for group, prompts, count in asked:
        chosen, key = replace(settings, count=count), (*prompts, count, settings)
        if not prompts:
            continue
        for drawn in sample.draw(base, subject.concepts, prompts, chosen, weights=subject.weights):
            yield Aside(group, True, *drawn)
        made = []
        for drawn in known[key] if key in known else sample.draw(base, (), prompts, chosen):
            made.append(drawn)
            yield Aside(group, False, *drawn)
        known[key] = made


# ---------------------------------------------------------------- what measures it


def encoder_for(wanted: Wanted, base_folder: Path) -> EncoderSpec:
    """The encoder of texts and pictures that is asked for, else the base's."""
    given = wanted.encoder
    return EncoderSpec(Path(given).name, given, 0.0) if given else encoders.encoder_for(base_folder)


def find_encoders(wanted: Wanted, base_folder: Path) -> None:
    """Raises NotFoundError for an encoder that is wanted and not on this machine."""
    encoders.find(encoder_for(wanted, base_folder))
    if "dino" in wanted.metrics:
        encoders.find(vision.dino_for(base_folder))
    if set(wanted.metrics) & set(SETS) and is_inception(base_folder):
        vision.find_inception()


def load_others(wanted: Wanted, base_folder: Path, device: str) -> dict[str, Encoder]:
    """The encoders of metrics that have one of their own. Raises NotFoundError, BaseError."""
    return {"dino": vision.load_dino(vision.dino_for(base_folder), device)} if "dino" in wanted.metrics else {}


def set_encoder(base_folder: Path, pair: Encoder, device: str) -> Encoder:
    """The encoder of KID and FID: the pair of a base that brings one, else Inception; raises as these do."""
    return vision.load_inception(device) if is_inception(base_folder) else pair


def is_inception(base_folder: Path) -> bool:
    """Whether a base's KID and FID are measured with Inception, as published ones are."""
    return encoders.encoder_for(base_folder) == encoders.ENCODERS["clip-vit-b32"]
