"""The plan of a training: what it will use, train and cost, worked out without loading the denoiser's weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cdtool.methods import METHODS
from cdtool.store import bases, families
from cdtool.store.concept import read_header
from cdtool.tokens import counted
from cdtool.training import examples, run
from cdtool.training.job import Job

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.training.estimate import Cost

CROPS = 8  # of each photo on the sheet


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would do and cost."""

    job: Job
    cost: Cost
    device: str
    precision: str
    world: int
    priors: tuple[str, ...]
    drawing: float = 0.0  # s; of class images that are not there yet
    fitted: str = ""  # what was chosen so that it fits into memory

    def facts(self) -> dict[str, str]:
        """The plan for a person, a name and a value a line."""
        job, chosen, cost = self.job, self.job.settings, self.cost
        targets = chosen.batch if chosen.prior == "none" else chosen.batch // 2
        pictures = targets if chosen.prior == "text" else chosen.batch
        shared = f", shared by {self.world} processes" if self.world > 1 else ""
        used = [f"{photo.path.name}{f' ({photo.note})' if photo.note else ''}" for g in job.groups for photo in g]
        facts = {
            "concept": f"{job.name}, {cost.concept_bytes / 1e6:.1f} MB",
            "base": job.base,
            "tokens": ", ".join(token.words() for token in job.tokens),
            "photos used": f"{len(used)}: {', '.join(used)}",
            "photos skipped": "; ".join(f"{item.path.name}: {item.reason}" for item in job.skipped) or "none",
            "prior": "; ".join(self.priors),
            "method": f"{chosen.method}: {METHODS[chosen.method].trains}",
            "trained": f"{cost.numbers:,} numbers in {cost.matrices} matrices, and {counted(cost.embeddings, 'row')}",
            "steps": f"{chosen.steps} of {pictures} images ({targets} targets) "
            f"in {counted(chosen.accumulate, 'pass')}{shared}"
            f"{', half as many because there is no prior' if job.halved else ''}",
            "rate": f"{chosen.lr:g}",
            "settings": "; ".join(_by_origin(job)) or "all by default",
            "precision": f"{self.precision} on {self.device}",
            "latent cache": f"{cost.crops} crops, {cost.cache_bytes / 1e6:.1f} MB",
            "time": f"about {_minutes(cost.seconds)} after loading and encoding",
            "memory": f"about {cost.memory / 1e9:.1f} GB" + (f". {self.fitted}" if self.fitted else ""),
        }
        if self.drawing:
            facts["prior"] += f"; about {_minutes(self.drawing)} of sampling them"
        return facts

    def data(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        job = self.job
        return {
            "name": job.name,
            "base": job.base,
            "tokens": [asdict(token) for token in job.tokens],
            "photos": [{"path": str(photo.path), "note": photo.note} for group in job.groups for photo in group],
            "skipped": [{"path": str(item.path), "reason": item.reason} for item in job.skipped],
            "prior": list(self.priors),
            "prior_seconds": self.drawing,
            "settings": asdict(job.settings),
            "origins": dict(job.origins),
            "from": job.start.name if job.start else None,
            "device": self.device,
            "precision": self.precision,
            "processes": self.world,
            "fitted": self.fitted,
            **asdict(self.cost),
        }


def _by_origin(job: Job) -> list[str]:
    """Which settings are not the default, by where they came from: "lr, steps from flag"."""
    places: dict[str, list[str]] = {}
    for name, origin in job.origins.items():
        if origin != "default":
            places.setdefault(origin, []).append(name)
    return [f"{', '.join(names)} from {origin}" for origin, names in places.items()]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def plan(job: Job, device: str = "auto", world: int = 1, *, force: bool = False) -> TrainingPlan:
    """What a job will use, train and cost; loads no weights of the base's denoiser but K/V, and those only to compare.

    Raises BaseError where the concept it goes on from was trained on another base, unless `force`.
    """
    from cdtool.models import pipelines
    from cdtool.training import estimate, memory

    folder = bases.locate(job.base)
    families.check_trainable(job.base, families.read(folder))
    if job.start is not None:
        run.begin(job, pipelines.load(job.base, parts=()), force=force)
    job, fitted = memory.fit_job(job, device, world)
    where = pipelines.pick_device(device)
    dtype, why = pipelines.pick_dtype(job.settings.precision, where)
    found = examples.class_images(job, folder)
    cost = estimate.cost(
        folder, job.settings, photos=sum(map(len, job.groups)), priors=sum(one.count for one in found),
        modifiers=sum(token.modifier for token in job.new), device=where, dtype=dtype, world=world,
        earlier=sum(token.modifier for token in job.tokens[: job.earlier]),
        start=read_header(job.start.path)[1] if job.start else {},
    )  # fmt: skip
    precision = f"{str(dtype).removeprefix('torch.')} ({why})"
    told = tuple(text for one in found for text in (one.summary, one.warning) if text)
    pending = {one.pending.name: one.pending for one in found if one.pending}
    drawing = sum(estimate.generation_seconds(folder, one.how, where, dtype) for one in pending.values())
    return TrainingPlan(job, cost, str(where), precision, world, told, drawing, fitted)


def crop_sheet(job: Job) -> Image.Image:
    """A row for each photo: the photo, and the first of its crops as they are trained on.

    It shows what a crop cuts off, and how small the shrunk ones become. Raises PhotoError for a photo that has gone.
    """
    from PIL import Image

    from cdtool.images import augmentation, photos
    from cdtool.images.sheets import Row, contact_sheet
    from cdtool.training.batches import MOST_PHOTOS

    side = job.settings.resolution or bases.describe(bases.locate(job.base)).resolution
    rows = []
    for concept, group in enumerate(job.groups):
        for number, photo in enumerate(group):
            image = photos.read(photo)
            how: dict[str, Any] = {"seed": job.settings.seed, "augment": job.settings.augment}
            how["photo"] = concept * MOST_PHOTOS + number
            shown = range(min(CROPS, job.settings.crops))
            crops = [augmentation.crop(image, side, side // 8, index=index, **how) for index in shown]
            words = [f'"{crop.prefix.strip()}"' for crop in crops if crop.prefix]
            label = photo.path.name + (f"   ({', '.join(dict.fromkeys(words))})" if words else "")
            rows.append(Row(label, [image, *(Image.fromarray(crop.pixels) for crop in crops)]))
    return contact_sheet(rows)
