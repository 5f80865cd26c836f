"""How well samples follow their prompts and resemble the photos, with the base's own samples beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cdtool.errors import InputError
from cdtool.evaluation import identity
from cdtool.models import encoders

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from cdtool.models.encoders import Encoder

    Numbers = NDArray[np.float64]

CLIPSCORE = 2.5  # what CLIPScore multiplies the cosine by
RESAMPLES = 2000  # bootstrap resamples of an interval
LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """A sampled image and its prompt without modifier tokens."""

    image: Image.Image
    prompt: str


@dataclass(frozen=True)
class SampleFeatures:
    """Unit-length features: of samples [n, d], of each one's prompt [n, d], of the photos [m, d] of each target.

    `rivals` are features [k, d] of the photos of each look-alike.
    """

    images: NDArray[np.float32]
    prompts: NDArray[np.float32]
    photos: Mapping[str, NDArray[np.float32]]
    rivals: Sequence[NDArray[np.float32]] = ()


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Mean scores of the concept's samples and of the base's, and their differences, each by column.

    `each` and `base_each` hold the score of every sample, in the order they were given; columns of whole sets of
    pictures ("kid", "fid"; forgetting.py) have none.
    """

    encoder: str
    concept: dict[str, float]
    base: dict[str, float]
    difference: dict[str, Interval]
    prompts: int
    samples: int
    photos: dict[str, int]
    encoders: dict[str, str] = field(default_factory=dict)  # of columns that `encoder` did not make
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)  # what columns of whole sets were measured on
    forgetting: dict[str, Interval] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)
    base_each: dict[str, list[float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The scores as JSON has them, without those of single samples."""
        return {name: value for name, value in asdict(self).items() if name not in ("each", "base_each")}


# ---------------------------------------------------------------- the metrics


def text_alignment(images: NDArray[np.float32], prompts: NDArray[np.float32]) -> Numbers:
    """CLIPScore 2.5 max(cos, 0) of each picture [n, d] with its own prompt [n, d]: [n] in [0, 2.5]."""
    cosines = np.einsum("nd,nd->n", images, prompts, dtype=np.float64)
    scores: Numbers = CLIPSCORE * np.maximum(cosines, 0)
    return scores


def image_alignment(images: NDArray[np.float32], photos: NDArray[np.float32]) -> Numbers:
    """Mean cosine of each image [n, d] with all photos [m, d]: [n] in [-1, 1]; their mean is the paper's score."""
    return identity.likeness(images, photos)


def _text_columns(features: SampleFeatures) -> dict[str, Numbers]:
    return {"text": text_alignment(features.images, features.prompts)}


def _likeness_columns(name: str, features: SampleFeatures) -> dict[str, Numbers]:
    values = {target: image_alignment(features.images, photos) for target, photos in features.photos.items()}
    return _by_target(name, values)


def _rank_columns(features: SampleFeatures) -> dict[str, Numbers]:
    values = {
        target: identity.own_first(features.images, photos, features.rivals)
        for target, photos in features.photos.items()
    }
    return _by_target("rank", values)


def _by_target(name: str, values: Mapping[str, Numbers]) -> dict[str, Numbers]:
    return {f"{name} {target}" if len(values) > 1 else name: column for target, column in values.items()}


def _collapse_columns(features: SampleFeatures) -> dict[str, Numbers]:
    return {"scr": identity.collapsed(features.images, list(features.photos.values()), features.rivals)}


# Each computes columns, name -> score of each sample [n]; all but "scr" are better the higher they are.
METRICS: dict[str, Callable[[SampleFeatures], dict[str, Numbers]]] = {
    "text": _text_columns,
    "image": partial(_likeness_columns, "image"),
    "dino": partial(_likeness_columns, "dino"),
    "dinov2": partial(_likeness_columns, "dinov2"),
    "cutout": partial(_likeness_columns, "cutout"),  # of the foregrounds of samples and photos
    "rank": _rank_columns,
    "scr": _collapse_columns,
}
AGAINST_LOOKALIKES = ("rank", "scr")
CUT_OUT = ("cutout",)


def bootstrap(values: Numbers, groups: Sequence[object], *, seed: int = 0) -> Interval:
    """Mean of values [n] with its interval: groups (prompts) are resampled, and then the values within each.

    For a paired comparison, `values` are the differences of the pairs.
    """
    members = [np.flatnonzero([other == group for other in groups]) for group in dict.fromkeys(groups)]
    sizes, starts = np.array([len(rows) for rows in members]), np.cumsum([0] + [len(rows) for rows in members[:-1]])
    ordered = values[np.concatenate(members)]
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = rng.integers(len(members), size=len(members))
        # One row per chosen group; columns beyond a smaller group's size do not count.
        columns_ = (rng.random((len(members), sizes.max())) * sizes[chosen][:, None]).astype(int)
        counts = np.arange(sizes.max()) < sizes[chosen][:, None]
        means[index] = ordered[(starts[chosen][:, None] + columns_)[counts]].mean()
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


# ---------------------------------------------------------------- scoring samples


def score(
    samples: Sequence[Sample],
    photos: Mapping[str, Sequence[Image.Image]],
    encoder: Encoder,
    *,
    base: Sequence[Sample] = (),
    metrics: Sequence[str] = ("text", "image"),
    others: Mapping[str, Encoder] | None = None,
    rivals: Mapping[str, Sequence[Image.Image]] | None = None,
    seed: int = 0,
) -> Scores:
    """Score samples against their prompts and each target's photos, with the base's samples for the same prompts.

    Args:
        samples: the concept's samples.
        photos: the photos of each target.
        encoder: of texts and images.
        base: the base's samples; sample i belongs to sample i of the concept (same prompt, same seed).
        metrics: names of `METRICS`.
        others: the encoders of metrics that do not use `encoder`.
        rivals: the photos of each look-alike, for "rank" and "scr".
        seed: of the bootstrap.

    Raises InputError where there is nothing to score or the two do not match.
    """
    if not samples:
        raise InputError("There are no samples to score.")
    if base and [sample.prompt for sample in base] != [sample.prompt for sample in samples]:
        raise InputError("The base's samples are not for the same prompts as the concept's.")
    chosen = {metric: (others or {}).get(metric, encoder) for metric in metrics}
    scored = _scored(samples, photos, rivals or {}, chosen)
    beside = _scored(base, photos, rivals or {}, chosen) if base else {}
    prompts = [sample.prompt for sample in samples]
    return Scores(
        encoder=encoder.spec.name,
        concept={name: float(values.mean()) for name, values in scored.items()},
        base={name: float(values.mean()) for name, values in beside.items()},
        difference={name: bootstrap(scored[name] - beside[name], prompts, seed=seed) for name in beside},
        prompts=len(set(prompts)),
        samples=len(samples),
        photos={target: len(images) for target, images in photos.items()},
        encoders={metric: other.spec.name for metric, other in (others or {}).items()},
        each={name: values.tolist() for name, values in scored.items()},
        base_each={name: values.tolist() for name, values in beside.items()},
    )


def _scored(
    samples: Sequence[Sample],
    photos: Mapping[str, Sequence[Image.Image]],
    rivals: Mapping[str, Sequence[Image.Image]],
    chosen: Mapping[str, Encoder],
) -> dict[str, Numbers]:
    """The columns of every metric, each by its encoder; what several metrics need is encoded once."""
    images: dict[tuple[int, bool], Callable[[Sequence[Image.Image]], NDArray[np.float32]]] = {}
    columns: dict[str, Numbers] = {}
    for metric, encoder in chosen.items():
        cut = metric in CUT_OUT
        encode = images.setdefault((id(encoder), cut), _encode(encoder, cut=cut))
        features = SampleFeatures(
            encode([sample.image for sample in samples]),
            _prompt_features(encoder, samples) if metric == "text" else np.zeros((0, 0), np.float32),
            {target: encode(group) for target, group in photos.items() if group},
            [encode(group) for group in rivals.values()] if metric in AGAINST_LOOKALIKES else (),
        )
        columns |= METRICS[metric](features)
    return columns


def _encode(encoder: Encoder, *, cut: bool) -> Callable[[Sequence[Image.Image]], NDArray[np.float32]]:
    """A function from images to unit-length features [n, d] that encodes a list of images once."""
    known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def encode(images: Sequence[Image.Image]) -> NDArray[np.float32]:
        key = tuple(map(id, images))
        if key not in known:
            known[key] = encoders.image_features(encoder, map(identity.cut_out, images) if cut else images)
        return known[key]

    return encode


def _prompt_features(encoder: Encoder, samples: Sequence[Sample]) -> NDArray[np.float32]:
    index = {prompt: row for row, prompt in enumerate(dict.fromkeys(sample.prompt for sample in samples))}
    rows: NDArray[np.float32] = encoders.text_features(encoder, list(index))[[index[one.prompt] for one in samples]]
    return rows
