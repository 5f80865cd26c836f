"""Probe images: sampled without the concept's words, with the concept and with the bare base.

forgetting.py scores from them how far plain images moved, and KID and FID against real images.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cdtool.errors import UsageError
from cdtool.evaluation import distances, references
from cdtool.evaluation.metrics import MetricRequest
from cdtool.images import photos
from cdtool.models import encoders
from cdtool.priors import captions as regularization
from cdtool.tokens import article

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.images.corpora import Member
    from cdtool.models.encoders import Encoder
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated
    from cdtool.settings import SampleSettings
    from cdtool.store.subject import Composition

NEIGHBOURS = 3  # neighbouring classes
FEWEST, MOST = 8, 50  # images of each probe that forgetting compares
ENOUGH = 50  # images KID is measured on at least: with ten, the interval is wider than the effect


@dataclass(frozen=True)
class ClassProbe:
    """A class of the concept: its noun and prompt, the name of its target, and real images of it."""

    noun: str
    prompt: str
    target: str
    is_own_word: bool  # the noun is the concept's only word, so nothing can leak into it
    is_erased: bool = False  # the noun is what the concept makes the base forget
    pictures: tuple[Member, ...] = ()


@dataclass(frozen=True)
class ProbePlan:
    """How many probe images are sampled: `count` per class, `near` per neighbouring class, one per caption."""

    classes: tuple[ClassProbe, ...] = ()
    count: int = 0
    class_prompts: tuple[str, ...] = ()  # of every class, sampled or not
    nouns: tuple[str, ...] = ()  # candidates for neighbouring classes
    near: int = 0
    captions: tuple[str, ...] = ()
    pictures: tuple[Member, ...] = ()  # real ones, for FID

    @property
    def total(self) -> int:
        """The number of images, the base's included."""
        near = min(NEIGHBOURS, len(self.nouns)) * self.near
        return 2 * (len(self.classes) * self.count + near + len(self.captions))


class ProbeImage(NamedTuple):
    """A probe image: of a class noun, of "neighbours" or "unrelated", with the concept or without."""

    group: str
    is_concept: bool
    image: Image.Image
    prompt: str
    seed: int


def plan(
    request: MetricRequest, subject: Composition, targets: Sequence[str], base_folder: Path, samples: int
) -> ProbePlan:
    """The probe images that the requested scores need.

    Args:
        request: the scores.
        subject: the concepts that are evaluated.
        targets: the name of each token's photos, in the order of the tokens.
        base_folder: the folder of the subject's base.
        samples: how many images are sampled for the concept's own prompts.

    Raises UsageError for a bare base, NotFoundError and InputError where real images are missing.
    """
    kid, fid = ("kid" in request.metrics), ("fid" in request.metrics)
    if not (kid or fid or request.forgetting):
        return ProbePlan()
    if not subject.concepts:
        raise UsageError(
            f"{subject.text} is a base; KID, FID and forgetting measure what a concept changes in it.",
            "Leave them out, or name a concept.",
        )
    compared = max(min(samples, MOST), FEWEST)
    probes = _class_probes(request, subject, targets, base_folder)
    nouns = [probe.noun for probe in probes]
    captions = max(request.fid_count * fid, compared * request.forgetting)
    return ProbePlan(
        classes=tuple(probe for probe in probes if kid or probe.is_erased or not probe.is_own_word)
        if kid or request.forgetting
        else (),
        count=max(samples, ENOUGH) if kid else compared,
        class_prompts=tuple(probe.prompt for probe in probes),
        nouns=tuple(noun for noun in regularization.class_nouns(base_folder) if noun not in nouns) * request.forgetting,
        near=-(-compared // NEIGHBOURS),
        captions=tuple(references.unrelated_captions(base_folder, nouns, captions, request.fid)) if captions else (),
        pictures=references.unrelated(request.fid, base_folder, nouns) if fid else (),
    )


def _class_probes(
    request: MetricRequest, subject: Composition, targets: Sequence[str], base_folder: Path
) -> list[ClassProbe]:
    probes = []
    owned = [(token, entry) for entry in subject.concepts if entry.manifest for token in entry.manifest.tokens]
    photos_of = iter(targets)
    for token, entry in owned:
        target = "" if token.erased and len(targets) < len(owned) else next(photos_of)
        style = bool(entry.manifest and entry.manifest.settings.get("style"))
        real: tuple[Member, ...] = ()
        if "kid" in request.metrics and not token.erased:
            word = "painting" if style else token.noun
            real = references.of_class(request.kid, base_folder, word, distances.FEWEST)
        own_word = not token.modifier and not token.erased
        probes.append(ClassProbe(token.noun, photos.template(token, style), target, own_word, token.erased, real))
    return list({probe.noun: probe for probe in reversed(probes)}.values())[::-1]  # two dogs are one class


def neighbours(probes: ProbePlan, encoder: Encoder) -> list[str]:
    """The nouns nearest to the classes by text similarity."""
    if not probes.nouns:
        return []
    prompts = [f"photo of {article(noun)}" for noun in probes.nouns]
    near = encoders.text_features(encoder, prompts) @ encoders.text_features(encoder, probes.class_prompts).T
    return [probes.nouns[index] for index in np.argsort(-near.max(axis=1), kind="stable")[:NEIGHBOURS]]


def generate(
    base: Base, subject: Composition, probes: ProbePlan, near: Sequence[str], settings: SampleSettings,
    cached: MutableMapping[Hashable, list[Generated]] | None = None,
) -> Iterator[ProbeImage]:  # fmt: skip
    """Sample every probe with the concept and then, with the same seeds, with the bare base.

    The base's images are kept in `cached` and taken from there.
    """
    from cdtool.sampling import sample

    groups = [(probe.noun, [probe.prompt], probes.count) for probe in probes.classes]
    groups += [("neighbours", [f"photo of {article(noun)}" for noun in near], probes.near)]
    groups += [("unrelated", list(probes.captions), 1)]
    known: MutableMapping[Hashable, list[Generated]] = {} if cached is None else cached
    for group, prompts, count in groups:
        chosen, key = replace(settings, count=count), (*prompts, count, settings)
        if not prompts:
            continue
        for drawn in sample.generate(base, subject.concepts, prompts, chosen, weights=subject.weights):
            yield ProbeImage(group, True, *drawn)
        made = []
        for drawn in known[key] if key in known else sample.generate(base, (), prompts, chosen):
            made.append(drawn)
            yield ProbeImage(group, False, *drawn)
        known[key] = made
