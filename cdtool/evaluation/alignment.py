"""How well samples follow their prompts and resemble the photos, with the base's own samples beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cdtool.errors import InputError
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
    """Unit-length features: of samples [n, d], of each one's prompt [n, d], of each target's photos [m, d]."""

    images: NDArray[np.float32]
    prompts: NDArray[np.float32]
    photos: Mapping[str, NDArray[np.float32]]


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
    """Mean cosine of each picture [n, d] with all photos [m, d]: [n] in [-1, 1]; their mean is the paper's."""
    means: Numbers = (images.astype(np.float64) @ photos.astype(np.float64).T).mean(axis=1)
    return means


def _text_columns(measured: SampleFeatures) -> dict[str, Numbers]:
    return {"text": text_alignment(measured.images, measured.prompts)}


def _likeness_columns(name: str, measured: SampleFeatures) -> dict[str, Numbers]:
    several = len(measured.photos) > 1
    return {
        f"{name} {target}" if several else name: image_alignment(measured.images, photos)
        for target, photos in measured.photos.items()
    }


# Each makes columns, name -> score of each sample [n]; all are better the higher they are.
METRICS: dict[str, Callable[[SampleFeatures], dict[str, Numbers]]] = {
    "text": _text_columns,
    "image": partial(_likeness_columns, "image"),
    "dino": partial(_likeness_columns, "dino"),  # of features by an encoder of its own
}


def columns(measured: SampleFeatures, metrics: Sequence[str]) -> dict[str, Numbers]:
    """Every column of the named metrics."""
    return {name: values for metric in metrics for name, values in METRICS[metric](measured).items()}


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
    seed: int = 0,
) -> Scores:
    """Score samples against their prompts and each target's photos, with the base's samples for the same prompts.

    `others` are the encoders of metrics that have one of their own.
    Sample i of the base belongs to sample i of the concept (same prompt, same seed). Raises InputError where there is
    nothing to score or the two do not match.
    """
    if not samples:
        raise InputError("There are no samples to score.")
    if base and [sample.prompt for sample in base] != [sample.prompt for sample in samples]:
        raise InputError("The base's samples are not for the same prompts as the concept's.")
    scored: dict[str, Numbers] = {}
    beside: dict[str, Numbers] = {}
    own = [metric for metric in metrics if metric not in (others or {})]
    for one, some in [(encoder, own), *((other, [metric]) for metric, other in (others or {}).items())]:
        pictured = {target: encoders.image_features(one, images) for target, images in photos.items() if images}
        scored |= _scored(samples, pictured, one, some)
        beside |= _scored(base, pictured, one, some) if base else {}
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
    samples: Sequence[Sample], photos: Mapping[str, NDArray[np.float32]], encoder: Encoder, metrics: Sequence[str]
) -> dict[str, Numbers]:
    if not metrics:
        return {}
    images, texts = encoders.image_features(encoder, [sample.image for sample in samples]), np.zeros((0, 0), np.float32)
    if "text" in metrics:
        distinct = {prompt: index for index, prompt in enumerate(dict.fromkeys(sample.prompt for sample in samples))}
        texts = encoders.text_features(encoder, list(distinct))[[distinct[sample.prompt] for sample in samples]]
    return columns(SampleFeatures(images, texts, photos), metrics)
