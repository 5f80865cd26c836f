"""Scores of probe images: how far plain images moved, what leaked into them, and their KID and FID."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cdtool.evaluation import alignment, distances, references
from cdtool.evaluation.alignment import Interval
from cdtool.images import corpora, sheets
from cdtool.models import encoders, vision
from cdtool.tokens import article

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from cdtool.evaluation.alignment import Scores
    from cdtool.evaluation.metrics import MetricRequest
    from cdtool.evaluation.side_effects import ClassProbe, ProbeImage, ProbePlan
    from cdtool.models.encoders import Encoder, Features

    Numbers = NDArray[np.float64]

SHOWN = 8  # images of a probe on a sheet
_Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class ForgettingResult:
    """A score of forgetting or leaking, what it means in words, and a contact sheet of its images."""

    name: str
    score: Interval
    meaning: str
    sheet: Image.Image | None = None


def with_sets(
    scores: Scores, probes: ProbePlan, images: Sequence[ProbeImage], request: MetricRequest, encoder: Encoder
) -> Scores:
    """The scores with the columns of KID and FID, the base's beside the concept's, measured with `encoder`.

    KID is ×1000; the interval of its difference is a paired jackknife over the sampled images, the real ones held
    fixed. FID has none: leaving pictures out biases it more than it varies.
    """
    concept, base, difference, sets = dict(scores.concept), dict(scores.base), dict(scores.difference), {}
    if "kid" in request.metrics:
        for probe in probes.classes:
            name = f"kid {probe.noun}" if len(probes.classes) > 1 else "kid"
            real = _set(encoder, references.images(probe.pictures))
            own, bare = (_set(encoder, _select(images, probe.noun, which)) for which in (True, False))
            concept[name], base[name] = 1000 * distances.kid(own, real), 1000 * distances.kid(bare, real)
            difference[name] = _kid_difference(own, bare, real)
            sets[name] = _about(encoder, own, real, probe.prompt)
    if "fid" in request.metrics:
        real = _set(encoder, references.images(probes.pictures))
        pair = [_set(encoder, _select(images, "unrelated", which)[: request.fid_count]) for which in (True, False)]
        concept["fid"], base["fid"] = (distances.frechet(features, real) for features in pair)
        sets["fid"] = _about(encoder, pair[0], real, "unrelated captions")
    return replace(scores, concept=concept, base=base, difference=difference, sets=sets)


def measure(
    probes: ProbePlan, images: Sequence[ProbeImage], targets: Mapping[str, Sequence[Image.Image]], encoder: Encoder,
    names: tuple[str, str],
) -> dict[str, ForgettingResult]:  # fmt: skip
    """How far images of plain classes, of their neighbours and of unrelated prompts moved, and what leaked into them.

    A move is 1 − the cosine of two images of one seed, 0 where nothing changed; the leak is the image alignment of
    plain-class images with the photos less that of the base's.

    Args:
        probes: the plan the images were sampled by.
        images: the probe images, of the concept and of the base.
        targets: the photos of each target.
        encoder: measures similarity of images.
        names: of the concept and of the base.
    """
    results: dict[str, ForgettingResult] = {}
    plain = [probe for probe in probes.classes if not (probe.is_own_word or probe.is_erased)]
    for probe in plain:
        suffix = f" {probe.noun}" if len(plain) > 1 else ""
        moved, leak = _class_results(probe, images, targets, encoder, names)
        results |= {f"class{suffix}": moved, f"leak{suffix}": leak}
    gone = [probe for probe in probes.classes if probe.is_erased]
    for probe in gone:
        suffix = f" {probe.noun}" if len(gone) > 1 else ""
        named, erased = _erased_results(probe, probes, images, encoder, names)
        results |= {f"named{suffix}": named, f"erased{suffix}": erased}
    if gone and (kept := _kept_names(probes, images, encoder, names)):
        results["kept"] = kept
    for group, title in (("neighbours", "Neighbouring classes"), ("unrelated", "Unrelated prompts")):
        own, base = (_unit(encoder, images, group, which) for which in (True, False))
        if len(own):
            prompts = dict.fromkeys(one.prompt for one in images if one.group == group)
            listed = ", ".join(prompts) if group == "neighbours" else f"{len(prompts)} captions"
            meaning = f"is how far these moved with the same seeds: {listed}."
            sheet = _sheet(images, group, names)
            results[group] = ForgettingResult(title, _moved(own, base, images, group), meaning, sheet)
    return results


def _class_results(
    probe: ClassProbe, images: Sequence[ProbeImage], targets: Mapping[str, Sequence[Image.Image]], encoder: Encoder,
    names: tuple[str, str],
) -> tuple[ForgettingResult, ForgettingResult]:  # fmt: skip
    """How far one plain class moved, and how much of the photos leaked into it."""
    noun = probe.noun
    own, base = (_unit(encoder, images, noun, which) for which in (True, False))
    photos = encoders.image_features(encoder, targets[probe.target])
    leak = alignment.image_alignment(own, photos) - alignment.image_alignment(base, photos)
    moved_text = f"is how far a plain {noun} moved from what {names[1]} sampled with the same seeds; 0 is not at all."
    leak_text = f"is how much more a plain {noun} looks like the photos than before; 0 is no more."
    sheet = _sheet(images, noun, names)
    return (
        ForgettingResult(f"A plain {noun}", _moved(own, base, images, noun), moved_text, sheet),
        ForgettingResult(f"Leaking into {noun}", alignment.bootstrap(leak, [probe.prompt] * len(leak)), leak_text),
    )


def _erased_results(
    probe: ClassProbe, probes: ProbePlan, images: Sequence[ProbeImage], encoder: Encoder, names: tuple[str, str]
) -> tuple[ForgettingResult, ForgettingResult]:
    """How often what is erased is still recognised, and how far it moved."""
    noun = probe.noun
    own, base = (_unit(encoder, images, noun, which) for which in (True, False))
    left, before = (_named(features, [noun] * len(features), probes, encoder) for features in (own, base))
    told = (
        f"is how often a plain {noun} is still taken for one among {len(probes.nouns)} classes; {before.mean():.0%} of"
    )
    return (
        ForgettingResult(
            f"Still named {noun}",
            alignment.bootstrap(left, [probe.prompt] * len(left)),
            f"{told} what {names[1]} sampled was. 0 is all forgotten.",
        ),
        ForgettingResult(
            f"Forgetting {noun}",
            _moved(own, base, images, noun),
            f"is how far a plain {noun} moved from what {names[1]} sampled with the same seeds; more is wanted here.",
            _sheet(images, noun, names),
        ),
    )


def _kept_names(
    probes: ProbePlan, images: Sequence[ProbeImage], encoder: Encoder, names: tuple[str, str]
) -> ForgettingResult | None:
    """How many more images of neighbouring classes have their right name than the base's."""
    own, base = (_unit(encoder, images, "neighbours", which) for which in (True, False))
    if not len(own):
        return None
    prompts = [one.prompt for one in images if one.group == "neighbours" and one.is_concept]
    nouns = {f"photo of {article(noun)}": noun for noun in probes.nouns}
    truth = [nouns[prompt] for prompt in prompts]
    change = _named(own, truth, probes, encoder) - _named(base, truth, probes, encoder)
    meaning = f"is how many more images of neighbouring classes have their right name than of {names[1]}; 0 is as many."
    return ForgettingResult("Neighbours named", alignment.bootstrap(change, prompts), meaning)


def _named(images: Features, truth: Sequence[str], probes: ProbePlan, encoder: Encoder) -> Numbers:
    """1 for each image [n, d] whose nearest class, of all the probes know, is the true one, else 0."""
    classes = [*dict.fromkeys([*(probe.noun for probe in probes.classes), *probes.nouns])]
    texts = encoders.text_features(encoder, [f"photo of {article(noun)}" for noun in classes])
    first = (images @ texts.T).argmax(axis=1)
    return np.array([float(classes[at] == noun) for at, noun in zip(first, truth, strict=True)])


def with_forgetting(scores: Scores, results: Mapping[str, ForgettingResult]) -> Scores:
    """The scores with those of forgetting."""
    return replace(scores, forgetting={name: one.score for name, one in results.items()})


def _select(images: Sequence[ProbeImage], group: str, is_concept: bool) -> list[Image.Image]:
    return [one.image for one in images if one.group == group and one.is_concept == is_concept]


def _set(encoder: Encoder, images: Iterable[Image.Image]) -> Features:
    return vision.set_features(encoder, encoders.raw_image_features(encoder, images))


def _unit(encoder: Encoder, images: Sequence[ProbeImage], group: str, is_concept: bool) -> Features:
    return encoders.image_features(encoder, _select(images, group, is_concept))


def _about(encoder: Encoder, drawn: Features, real: Features, prompt: str) -> dict[str, str | int]:
    return {"encoder": encoder.spec.name, "drawn": len(drawn), "real": len(real), "prompt": prompt}


def _kid_difference(own: Features, bare: Features, real: Features) -> Interval:
    mean = 1000 * (distances.kid(own, real) - distances.kid(bare, real))
    apart = distances.kid_without_each(own, real) - distances.kid_without_each(bare, real)
    reach = 1000 * _Z * distances.jackknife_error(apart)
    return Interval(mean, mean - reach, mean + reach)


def moved(own: Features, base: Features) -> Numbers:
    """1 − cosine of each picture [n, d] with the base's of the same seed [n, d], both of unit length: [n] in [0, 2]."""
    # As half the squared distance it is exactly 0 for equal pictures.
    values: Numbers = ((own.astype(np.float64) - base) ** 2).sum(axis=1) / 2
    return values


def _moved(own: Features, base: Features, images: Sequence[ProbeImage], group: str) -> Interval:
    prompts = [one.prompt for one in images if one.group == group and one.is_concept]
    return alignment.bootstrap(moved(own, base), prompts)


def _sheet(images: Sequence[ProbeImage], group: str, names: tuple[str, str]) -> Image.Image:
    """The base's pictures above the concept's, some of all prompts."""
    rows = []
    for is_concept, name in ((False, names[1]), (True, names[0])):
        every = [one for one in images if one.group == group and one.is_concept == is_concept]
        shown = corpora.evenly(every, SHOWN)
        prompts = ", ".join(dict.fromkeys(one.prompt for one in shown))
        rows.append(sheets.Row(f"{name}: {prompts}", [one.image for one in shown]))
    return sheets.contact_sheet(rows)
