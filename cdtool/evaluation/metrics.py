"""Which scores an evaluation computes, and the encoders they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool.errors import UsageError, nearest
from cdtool.evaluation import alignment
from cdtool.models import encoders, vision
from cdtool.models.encoders import EncoderSpec

if TYPE_CHECKING:
    from cdtool.models.encoders import Encoder

SETS = ("kid", "fid")  # distances between sets of images; lower is better
DINOS = ("dino", "dinov2")
# Scores of --forgetting; the last three are those of what is erased on purpose.
FORGETTING = ("class", "leak", "neighbours", "unrelated", "named", "erased", "kept")
IDENTITY = ("rank", "scr", "cutout")  # measured with DINOv2, unless the base brings an encoder of its own


@dataclass(frozen=True)
class MetricRequest:
    """Which scores to compute, and the images they compare with."""

    metrics: tuple[str, ...] = ("text", "image")
    forgetting: bool = False
    kid: Path | None = None  # images of the class, or a captioned corpus; None is the base's own
    fid: Path | None = None  # a captioned corpus; None is the base's own
    fid_count: int = 100  # images sampled for FID
    encoder: str = ""  # folder or hub id of another CLIP; "" is the base's
    lookalikes: Path | None = None  # a folder of folders that rank and scr compare with; None is the known ones

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of all scores that are computed."""
        return (*self.metrics, *(FORGETTING if self.forgetting else ()))


def request(
    *,
    metrics: Sequence[str] | str | None = None,
    forgetting: bool = False,
    kid: Path | None = None,
    fid: Path | None = None,
    fid_count: int | None = None,
    encoder: str | None = None,
    lookalikes: Path | None = None,
) -> MetricRequest:
    """The scores to compute; `kid` and `fid` also ask for their metric. The arguments are those of `evaluate`.

    Raises UsageError for an unknown metric and for options without the metric they belong to.
    """
    listed = metrics if isinstance(metrics, str) or metrics is None else ",".join(metrics)
    names = metric_names(listed) if listed is not None else MetricRequest.metrics
    names += tuple(name for name, path in (("kid", kid), ("fid", fid)) if path is not None and name not in names)
    if fid_count is not None and "fid" not in names:
        raise UsageError("--fid-count needs FID, which is not among the metrics.", "Add fid to --metrics.")
    if lookalikes is not None and not set(names) & set(alignment.AGAINST_LOOKALIKES):
        raise UsageError("--lookalikes is for rank and scr, which are not measured.", "Add rank to --metrics.")
    count = MetricRequest.fid_count if fid_count is None else fid_count
    return MetricRequest(names, forgetting, kid, fid, count, encoder or "", lookalikes)


def without_photos(request: MetricRequest) -> MetricRequest:
    """The request without the scores that compare with photos: what erases has none. Raises UsageError for no other."""
    left = tuple(name for name in request.metrics if name in ("text", *SETS))
    if not left:
        raise UsageError("What erases has no photos to compare with.", "Measure text, and add --forgetting.")
    return replace(request, metrics=left)


def metric_names(text: str) -> tuple[str, ...]:
    """The metrics of a list like "text,image,kid". Raises UsageError for an unknown name and for an empty list."""
    known = (*alignment.METRICS, *SETS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise UsageError(f'There is no metric "{name}".', nearest(name, known) or f"There are {', '.join(known)}.")
    if not names:
        raise UsageError("--metrics names no metric.", f"There are {', '.join(known)}.")
    return names


def encoder_for(request: MetricRequest, base_folder: Path) -> EncoderSpec:
    """The encoder of texts and images: the requested one, else the base's."""
    given = request.encoder
    return EncoderSpec(Path(given).name, given, 0.0) if given else encoders.encoder_for(base_folder)


def find_encoders(request: MetricRequest, base_folder: Path) -> None:
    """Raises NotFoundError for a needed encoder that is not on this machine."""
    encoders.find(encoder_for(request, base_folder))
    for spec in dict.fromkeys(_other_specs(request, base_folder).values()):
        encoders.find(spec)
    if set(request.metrics) & set(SETS) and is_public(base_folder):
        vision.find_inception()


def load_others(request: MetricRequest, base_folder: Path, device: str) -> dict[str, Encoder]:
    """The encoders of metrics that do not use the base's. Raises NotFoundError, BaseError."""
    specs = _other_specs(request, base_folder)
    loaded = {spec: vision.load_dino(spec, device) for spec in dict.fromkeys(specs.values())}
    return {metric: loaded[spec] for metric, spec in specs.items()}


def _other_specs(request: MetricRequest, base_folder: Path) -> dict[str, EncoderSpec]:
    specs = {metric: vision.dino_for(base_folder, metric) for metric in request.metrics if metric in DINOS}
    if is_public(base_folder):
        dinov2 = vision.dino_for(base_folder, "dinov2")
        specs |= {metric: dinov2 for metric in request.metrics if metric in IDENTITY}
    return specs


def set_encoder(base_folder: Path, encoder: Encoder, device: str) -> Encoder:
    """The encoder of KID and FID: `encoder` for a base that brings its own, else Inception.

    Raises NotFoundError, BaseError.
    """
    return vision.load_inception(device) if is_public(base_folder) else encoder


def is_public(base_folder: Path) -> bool:
    """Whether a base is measured with the published encoders: CLIP ViT-B/32, and Inception for KID and FID."""
    return encoders.encoder_for(base_folder) == encoders.ENCODERS["clip-vit-b32"]
