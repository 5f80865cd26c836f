"""What a concept changes beside itself: pictures asked for without its words, drawn with it and with the bare base.

KID and FID compare them with real pictures; forgetting is how far they moved, leaking how much a plain "dog" has come
to look like the photos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cdtool import distances, evaluation, features, photos, references, sheets, vision
from cdtool.errors import UsageError, nearest
from cdtool.evaluation import Interval, Scores
from cdtool.report import Forgotten
from cdtool.tokens import article

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from cdtool.base import Base
    from cdtool.composition import Composition
    from cdtool.corpora import Member
    from cdtool.features import Encoder, Features
    from cdtool.settings import SampleSettings

    Numbers = NDArray[np.float64]

SETS = ("kid", "fid")  # metrics of whole sets of pictures; the lower, the better
NEIGHBOURS = 3  # classes
FEWEST, MOST = 8, 50  # pictures of each kind that forgetting looks at
SHOWN = 8  # of them on a sheet
_Z = 1.96  # of a 95% interval


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
    known = (*evaluation.METRICS, *SETS)
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
    count = max(samples if kid else min(samples, MOST), FEWEST)
    kinds = _kinds(wanted, subject, targets, base_folder)
    nouns = [kind.noun for kind in kinds]
    captions = max(wanted.fid_count * fid, min(count, MOST) * wanted.forgetting)
    return Asides(
        kinds=tuple(kind for kind in kinds if kid or not kind.is_own_word) if kid or wanted.forgetting else (),
        count=count,
        classes=tuple(kind.prompt for kind in kinds),
        nouns=tuple(noun for noun in references.class_nouns(base_folder) if noun not in nouns) * wanted.forgetting,
        near=-(-min(count, MOST) // NEIGHBOURS),
        captions=tuple(references.unrelated_captions(base_folder, nouns, captions, wanted.fid)) if captions else (),
        pictures=references.unrelated(wanted.fid, base_folder, nouns) if fid else (),
    )


def _kinds(wanted: Wanted, subject: Composition, targets: Sequence[str], base_folder: Path) -> list[Kind]:
    found = []
    held = [(token, entry) for entry in subject.concepts if entry.manifest for token in entry.manifest.tokens]
    for (token, entry), target in zip(held, targets, strict=True):
        style = bool(entry.manifest and entry.manifest.settings.get("style"))
        real = ()
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
    near = features.text_features(encoder, told) @ features.text_features(encoder, asides.classes).T
    return [asides.nouns[place] for place in np.argsort(-near.max(axis=1), kind="stable")[:NEIGHBOURS]]


def draw(
    base: Base, subject: Composition, asides: Asides, near: Sequence[str], settings: SampleSettings
) -> Iterator[Aside]:
    """Draw everything with the concept and then, with the same seeds, with the bare base. Raises what drawing raises."""
    from cdtool import sampling

    asked = [(kind.noun, [kind.prompt], asides.count) for kind in asides.kinds]
    asked += [("neighbours", [f"photo of {article(noun)}" for noun in near], asides.near)]
    asked += [("unrelated", list(asides.captions), 1)]
    for group, prompts, count in asked:
        for concepts, weights in ((subject.concepts, subject.weights), ((), ())):
            chosen = replace(settings, count=count)
            for drawn in sampling.draw(base, concepts, prompts, chosen, weights=weights) if prompts else ():
                yield Aside(group, bool(concepts), *drawn)


# ---------------------------------------------------------------- what is found


def with_sets(
    scores: Scores, asides: Asides, drawn: Sequence[Aside], wanted: Wanted, encoder: Encoder
) -> Scores:
    """The scores with the columns of whole sets, beside the base's; the set encoder is `encoder`.

    KID is ×1000; the interval of its difference is a paired jackknife over the drawn pictures, the real ones held
    fixed. FID has none: leaving pictures out biases it more than it varies.
    """
    concept, base, difference, sets = dict(scores.concept), dict(scores.base), dict(scores.difference), {}
    if "kid" in wanted.metrics:
        for kind in asides.kinds:
            name = f"kid {kind.noun}" if len(asides.kinds) > 1 else "kid"
            real = _set(encoder, references.images(kind.pictures))
            own, bare = (_set(encoder, _images(drawn, kind.noun, which)) for which in (True, False))
            concept[name], base[name] = 1000 * distances.kid(own, real), 1000 * distances.kid(bare, real)
            difference[name] = _kid_difference(own, bare, real)
            sets[name] = _about(encoder, own, real, kind.prompt)
    if "fid" in wanted.metrics:
        real = _set(encoder, references.images(asides.pictures))
        pair = [_set(encoder, _images(drawn, "unrelated", which)[: wanted.fid_count]) for which in (True, False)]
        concept["fid"], base["fid"] = (distances.frechet(found, real) for found in pair)
        sets["fid"] = _about(encoder, pair[0], real, "unrelated captions")
    return replace(scores, concept=concept, base=base, difference=difference, sets=sets)


def forgetting(
    asides: Asides, drawn: Sequence[Aside], targets: Mapping[str, Sequence[Image.Image]], encoder: Encoder,
    names: tuple[str, str],
) -> dict[str, Forgotten]:  # fmt: skip
    """How far pictures of plain classes, of their neighbours and of unrelated prompts moved, and what leaked.

    A move is 1 − the cosine of two pictures of one seed, 0 where nothing changed; the leak is the image alignment of
    plain-class pictures with the photos less that of the base's. `targets` are the photos of each target, `names`
    those of the concept and the base.
    """
    found = {}
    own_kinds = [kind for kind in asides.kinds if not kind.is_own_word]
    for kind in own_kinds:
        place = f" {kind.noun}" if len(own_kinds) > 1 else ""
        own, base = (_unit(encoder, drawn, kind.noun, which) for which in (True, False))
        known = features.image_features(encoder, targets[kind.target])
        leak = evaluation.image_alignment(own, known) - evaluation.image_alignment(base, known)
        sheet = _sheet(drawn, kind.noun, names)
        told = f"is how far a plain {kind.noun} moved from what {names[1]} drew with the same seeds; 0 is not at all."
        found[f"class{place}"] = Forgotten(f"A plain {kind.noun}", _moved(own, base, drawn, kind.noun), told, sheet)
        told = f"is how much more a plain {kind.noun} looks like the photos than before; 0 is no more."
        found[f"leak{place}"] = Forgotten(
            f"Leaking into {kind.noun}", evaluation.bootstrap(leak, [kind.prompt] * len(leak)), told
        )
    for group, title in (("neighbours", "Neighbouring classes"), ("unrelated", "Unrelated prompts")):
        own, base = (_unit(encoder, drawn, group, which) for which in (True, False))
        if len(own):
            prompts = dict.fromkeys(one.prompt for one in drawn if one.group == group)
            which_ones = ", ".join(prompts) if group == "neighbours" else f"{len(prompts)} captions"
            told = f"is how far these moved with the same seeds: {which_ones}."
            found[group] = Forgotten(title, _moved(own, base, drawn, group), told, _sheet(drawn, group, names))
    return found


def with_forgetting(scores: Scores, found: Mapping[str, Forgotten]) -> Scores:
    """The scores with those of forgetting."""
    return replace(scores, forgetting={name: one.score for name, one in found.items()})


def set_encoder(base_folder: Path, pair: Encoder, device: str) -> Encoder:
    """The encoder of KID and FID: the pair a base brings along, else Inception. Raises NotFoundError, BaseError."""
    return vision.load_inception(device) if is_inception(base_folder) else pair


def is_inception(base_folder: Path) -> bool:
    """Whether a base's KID and FID are measured with Inception, as published ones are."""
    return features.encoder_for(base_folder) == features.ENCODERS["clip-vit-b32"]


def _images(drawn: Sequence[Aside], group: str, is_concept: bool) -> list[Image.Image]:
    return [one.image for one in drawn if one.group == group and one.is_concept == is_concept]


def _set(encoder: Encoder, images: Sequence[Image.Image] | Iterator[Image.Image]) -> Features:
    return vision.set_features(encoder, features.raw_image_features(encoder, images))


def _unit(encoder: Encoder, drawn: Sequence[Aside], group: str, is_concept: bool) -> Features:
    return features.image_features(encoder, _images(drawn, group, is_concept))


def _about(encoder: Encoder, drawn: Features, real: Features, prompt: str) -> dict[str, str | int]:
    return {"encoder": encoder.spec.name, "drawn": len(drawn), "real": len(real), "prompt": prompt}


def _kid_difference(own: Features, bare: Features, real: Features) -> Interval:
    mean = 1000 * (distances.kid(own, real) - distances.kid(bare, real))
    apart = distances.kid_without_each(own, real) - distances.kid_without_each(bare, real)
    reach = 1000 * _Z * distances.jackknife_error(apart)
    return Interval(mean, mean - reach, mean + reach)


def moved(own: Features, base: Features) -> Numbers:
    """1 − cosine of each picture [n, d] with the base's of the same seed [n, d], both of unit length: [n] in [0, 2]."""
    values: Numbers = np.maximum(1 - np.einsum("nd,nd->n", own, base, dtype=np.float64), 0)
    return values


def _moved(own: Features, base: Features, drawn: Sequence[Aside], group: str) -> Interval:
    prompts = [one.prompt for one in drawn if one.group == group and one.is_concept]
    return evaluation.bootstrap(moved(own, base), prompts)


def _sheet(drawn: Sequence[Aside], group: str, names: tuple[str, str]) -> Image.Image:
    """The base's pictures above the concept's."""
    every = max(len(_images(drawn, group, True)) // SHOWN, 1)
    rows = []
    for is_concept, name in ((False, names[1]), (True, names[0])):
        label = f"{name}: {group}"
        rows.append(sheets.Row(label, _images(drawn, group, is_concept)[::every][:SHOWN]))
    return sheets.contact_sheet(rows)
