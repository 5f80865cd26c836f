"""Which scores an evaluation computes, and the encoders they need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool.errors import UsageError, nearest
from cdtool.evaluation import alignment
from cdtool.models import encoders, vision
from cdtool.models.encoders import EncoderSpec

if TYPE_CHECKING:
    from cdtool.models.encoders import Encoder

SETS = ("kid", "fid")  # distances between sets of images; lower is better


@dataclass(frozen=True)
class MetricRequest:
    """Which scores to compute, and the images they compare with."""

    metrics: tuple[str, ...] = ("text", "image")
    forgetting: bool = False
    kid: Path | None = None  # images of the class, or a captioned corpus; None is the base's own
    fid: Path | None = None  # a captioned corpus; None is the base's own
    fid_count: int = 100  # images sampled for FID
    encoder: str = ""  # folder or hub id of another CLIP; "" is the base's

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of all scores that are computed."""
        return (*self.metrics, *(("class", "leak", "neighbours", "unrelated") if self.forgetting else ()))


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
    if "dino" in request.metrics:
        encoders.find(vision.dino_for(base_folder))
    if set(request.metrics) & set(SETS) and is_inception(base_folder):
        vision.find_inception()


def load_others(request: MetricRequest, base_folder: Path, device: str) -> dict[str, Encoder]:
    """The encoders of metrics that have one of their own. Raises NotFoundError, BaseError."""
    return {"dino": vision.load_dino(vision.dino_for(base_folder), device)} if "dino" in request.metrics else {}


def set_encoder(base_folder: Path, encoder: Encoder, device: str) -> Encoder:
    """The encoder of KID and FID: `encoder` for a base that brings its own, else Inception.

    Raises NotFoundError, BaseError.
    """
    return vision.load_inception(device) if is_inception(base_folder) else encoder


def is_inception(base_folder: Path) -> bool:
    """Whether a base's KID and FID are measured with Inception, as published ones are."""
    return encoders.encoder_for(base_folder) == encoders.ENCODERS["clip-vit-b32"]
