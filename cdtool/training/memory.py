"""Fitting a training into memory: more passes a step, then recomputed activations, then a smaller optimizer state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cdtool.errors import ResourceError
from cdtool.models import memory, pipelines
from cdtool.store import bases
from cdtool.training import estimate

if TYPE_CHECKING:
    from cdtool.settings import TrainSettings
    from cdtool.training.job import Job

CHOSEN = ("accumulate", "checkpointing", "optimizer")  # what is chosen by memory


def fitted(settings: TrainSettings, needed: Callable[[TrainSettings], int], most: int, world: int = 1) -> TrainSettings:
    """The settings that take at most `most` bytes and cost the least.

    As few passes a step as possible, recomputed activations only if need be: both leave the result as it is. A
    factored optimizer, which does not, only where nothing else fits. `needed` gives the bytes that settings take;
    `world` processes share a step. Raises ResourceError where one image at a time is too much.
    """
    candidates = list(_candidates(settings, world))
    for candidate in candidates:
        if needed(candidate) <= most:
            return candidate
    raise ResourceError(
        f"This training takes at least {needed(candidates[-1]) / 1e9:.1f} GB, one image at a time; "
        f"{most / 1e9:.1f} GB may be used.",
        "Allow more with --memory, lower --resolution, or train on a smaller base: cdtool base list",
    )


def _candidates(settings: TrainSettings, world: int) -> dict[TrainSettings, None]:
    """Settings in the order in which they are tried."""
    images = max(settings.batch // world, settings.accumulate)
    passes = [count for count in range(settings.accumulate, images + 1) if settings.batch % count == 0]
    tried = [replace(settings, accumulate=count) for count in passes]
    tried += [replace(settings, accumulate=count, checkpointing=True) for count in passes]
    tried += [replace(settings, accumulate=count, checkpointing=True, optimizer="factored") for count in passes]
    return dict.fromkeys(tried)


def fit_job(job: Job, device: str = "auto", world: int = 1) -> tuple[Job, str]:
    """A job with settings that fit into the memory it may use, and a sentence on what was chosen, "" where nothing was.

    Reads headers and no weights. Raises ResourceError for what cannot fit, SettingsError for a --memory that is no
    size.
    """
    folder, where = bases.locate(job.base), pipelines.pick_device(device)
    most = memory.limit(job.settings.memory, where)
    if memory.plenty(folder, most):
        return job, ""
    dtype, _ = pipelines.pick_dtype(job.settings.precision, where)
    rows = 0 if job.settings.freeze_token else sum(token.modifier for token in job.new)
    taken = estimate.footprint(folder, job.settings, device=where, dtype=dtype, rows=rows)
    chosen = fitted(job.settings, lambda settings: taken.peak(settings, world), most, world)
    changed = [f"--{name}" + ("" if value is True else f" {value}") for name in CHOSEN
               if (value := getattr(chosen, name)) != getattr(job.settings, name)]  # fmt: skip
    if not changed:
        return job, ""
    needs = f"about {taken.peak(chosen, world) / 1e9:.1f} of {most / 1e9:.1f} GB"
    return replace(job, settings=chosen), f"To fit into memory ({needs}): {', '.join(changed)}."
