"""What a concept broke or overwrote: how far plain pictures moved, what leaked into them, and their KID and FID."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cdtool.evaluation import alignment, distances, references
from cdtool.evaluation.alignment import Interval
from cdtool.images import sheets
from cdtool.models import encoders, vision

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from cdtool.evaluation.alignment import Scores
    from cdtool.evaluation.side_effects import Aside, Asides, Wanted
    from cdtool.models.encoders import Encoder, Features

    Numbers = NDArray[np.float64]

SHOWN = 8  # pictures of a kind on a sheet
_Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class Forgotten:
    """One thing that was looked at for forgetting or leaking: its score, what that means, and a sheet to look at."""

    name: str
    score: Interval
    told: str
    sheet: Image.Image | None = None


def with_sets(scores: Scores, asides: Asides, drawn: Sequence[Aside], wanted: Wanted, encoder: Encoder) -> Scores:
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


def look(
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
        known = encoders.image_features(encoder, targets[kind.target])
        leak = alignment.image_alignment(own, known) - alignment.image_alignment(base, known)
        sheet = _sheet(drawn, kind.noun, names)
        told = f"is how far a plain {kind.noun} moved from what {names[1]} drew with the same seeds; 0 is not at all."
        found[f"class{place}"] = Forgotten(f"A plain {kind.noun}", _moved(own, base, drawn, kind.noun), told, sheet)
        told = f"is how much more a plain {kind.noun} looks like the photos than before; 0 is no more."
        found[f"leak{place}"] = Forgotten(
            f"Leaking into {kind.noun}", alignment.bootstrap(leak, [kind.prompt] * len(leak)), told
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


def _images(drawn: Sequence[Aside], group: str, is_concept: bool) -> list[Image.Image]:
    return [one.image for one in drawn if one.group == group and one.is_concept == is_concept]


def _set(encoder: Encoder, images: Iterable[Image.Image]) -> Features:
    return vision.set_features(encoder, encoders.raw_image_features(encoder, images))


def _unit(encoder: Encoder, drawn: Sequence[Aside], group: str, is_concept: bool) -> Features:
    return encoders.image_features(encoder, _images(drawn, group, is_concept))


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


def _moved(own: Features, base: Features, drawn: Sequence[Aside], group: str) -> Interval:
    prompts = [one.prompt for one in drawn if one.group == group and one.is_concept]
    return alignment.bootstrap(moved(own, base), prompts)


def _sheet(drawn: Sequence[Aside], group: str, names: tuple[str, str]) -> Image.Image:
    """The base's pictures above the concept's, some of all prompts."""
    rows = []
    for is_concept, name in ((False, names[1]), (True, names[0])):
        every = [one for one in drawn if one.group == group and one.is_concept == is_concept]
        shown = [every[place * len(every) // min(SHOWN, len(every))] for place in range(min(SHOWN, len(every)))]
        asked = ", ".join(dict.fromkeys(one.prompt for one in shown))
        rows.append(sheets.Row(f"{name}: {asked}", [one.image for one in shown]))
    return sheets.contact_sheet(rows)
