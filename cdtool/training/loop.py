"""Training a concept: the loop that yields its steps, over cached latents, with exact checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from cdtool.errors import InputError, InterruptedRun, TrainingError
from cdtool.models import diffusion, pipelines, text
from cdtool.settings import SampleSettings
from cdtool.tokens import Prompt, bind
from cdtool.training import checkpoint as checkpoints
from cdtool.training import objectives, optimizer_step, trainable
from cdtool.training.batches import (
    ConceptImages,
    CropCache,
    encode_crops,
    has_class_half,
    resolution,
    samples_of,
    shard,
)
from cdtool.training.event import Event, Resume
from cdtool.training.processes import ALONE, Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cdtool.models.pipelines import Base
    from cdtool.settings import TrainSettings
    from cdtool.tokens import Token
    from cdtool.training.optimizer_step import Run
    from cdtool.training.trainable import Start

PREVIEW = SampleSettings(steps=25)


# ---------------------------------------------------------------- the loop


def fit(
    base: Base,
    concepts: Sequence[ConceptImages],
    tokens: tuple[Token, ...],
    settings: TrainSettings,
    *,
    checkpoint: Path,
    resume: Resume = False,
    previews: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    start: Start | None = None,
    snapshots: Collection[int] = (),
) -> Iterator[Event]:
    """Train a concept by the settings' method, yielding every step; the last one, "done", carries its tensors.

    Latents are encoded first. With `start` it goes on from another concept, whose tokens are the first of `tokens`.
    After the steps in `snapshots` the concept as it is then comes along, before a checkpoint of the same step.
    `stop` is asked after each step: the loop then saves a checkpoint and raises InterruptedRun. Every process of a
    group runs the same loop on its share and sees the same parameters.

    Raises TrainingError on a non-finite loss and where something trained did not move; InputError for a checkpoint of
    another run; TokenError for a word to begin as that the base lacks; UsageError where nothing is to be learned.
    """
    begun = time.monotonic()
    kept = objectives.known(base, settings)  # with text encoders that are in float32 still
    with (
        trainable.attached(base, tokens, settings, start) as trained,
        _checkpointing(base, settings),
        diffusion.compiled(base, settings.compile),
        text.in_compute_precision(base),
    ):
        crops = yield from _encoded(base, concepts, tokens, settings, ranks, begun, stop)
        pipelines.done(base, "vae")
        earlier = start.tokens if start else 0
        run = optimizer_step.prepare(
            base, settings, tokens, trained, ranks, crops, has_class_half(settings, concepts), earlier, kept
        )
        identity = checkpoints.identity(base, concepts, tokens, settings, start.sha256 if start else "")
        first = _first_step(run, checkpoint, identity, resume)
        if first:
            yield Event("note", text=f"Going on from the checkpoint at step {first} of {settings.steps}.")
        if previews and ranks.rank == 0:
            yield Event("preview", first, images=_preview(run, previews))
        keep = _Saving(checkpoint, identity, snapshots)
        yield from _steps(run, concepts, range(first, settings.steps), keep, previews, stop, begun)
        trained.check_moved(run.without_gradient)
        if previews and ranks.rank == 0:
            yield Event("preview", settings.steps, images=_preview(run, previews))
        yield Event("done", settings.steps, seconds=time.monotonic() - begun, tensors=trainable.changes(trained))


@dataclass(frozen=True)
class _Saving:
    """What is kept on the way: checkpoints of this run in a file, and the concept as it is after some steps."""

    checkpoint: Path
    identity: str
    snapshots: Collection[int]


def _steps(
    run: Run, concepts: Sequence[ConceptImages], steps: range, keep: _Saving, previews: Sequence[str],
    stop: Callable[[], bool], begun: float,
) -> Iterator[Event]:  # fmt: skip
    """Take steps, yielding each one and what is kept after it. Raises InterruptedRun when asked to stop."""
    settings, parameters, leads = run.settings, run.trained.parameters(), run.ranks.rank == 0
    unread: list[tuple[int, Tensor]] = []
    for step in steps:
        mine, passes = shard(samples_of(settings, concepts, step), run.ranks), run.passes
        sums, stopped = optimizer_step.take(run, mine, parameters=parameters, step=step, stop=stop())
        unread.append((step, sums))
        if run.passes > passes:
            yield Event("note", text=f"Memory ran out; from here on a step is split into {run.passes} passes.")
        last = step + 1 == settings.steps
        taken = step + 1 in keep.snapshots and not last
        saved = stopped or ((step + 1) % settings.save_every == 0 and not last)
        yield from _read(run, unread, begun, leave=int(reads_late(run.base.device) and not (last or taken or saved)))
        if taken and leads:
            yield Event("snapshot", step + 1, tensors=trainable.changes(run.trained))
        if saved:
            if leads:
                _save(run, keep.checkpoint, keep.identity, step + 1)
                yield Event("saved", step + 1)
            if stopped and not last:
                raise InterruptedRun(f"Stopped at step {step + 1} of {settings.steps}.", "Go on with --resume.")
            if previews and leads:
                yield Event("preview", step + 1, images=_preview(run, previews))


def reads_late(device: torch.device) -> bool:
    """Whether losses are read while the next step is computed: elsewhere than on a CPU, a number that is read waits."""
    return device.type != "cpu"


def _read(run: Run, unread: list[tuple[int, Tensor]], begun: float, leave: int) -> Iterator[Event]:
    """Events of the steps whose losses were not read yet, but of the last `leave` ones. Raises TrainingError."""
    while len(unread) > leave:
        step, sums = unread.pop(0)
        target, prior = sums.tolist()
        if not math.isfinite(target + prior):
            hint = "Lower --lr, or use --precision bf16 or fp32."
            raise TrainingError(f"The loss became {target + prior} at step {step + 1}.", hint)
        prior = prior if run.with_prior else math.nan
        yield Event("step", step + 1, run.settings.steps, target, prior, time.monotonic() - begun)


def _encoded(
    base: Base,
    concepts: Sequence[ConceptImages],
    tokens: tuple[Token, ...],
    settings: TrainSettings,
    ranks: Ranks,
    begun: float,
    stop: Callable[[], bool],
) -> Generator[Event, None, CropCache]:
    """Encode every crop that this process will train on, yielding an event per batch; returns the crops."""
    samples = [
        sample for step in range(settings.steps) for sample in shard(samples_of(settings, concepts, step), ranks)
    ]
    crops: CropCache = {}
    for done, count, crops in encode_crops(base, settings, concepts, tokens, samples):  # noqa: B007
        if stop():
            raise InterruptedRun("Stopped before the first step; there is nothing to go on from.")
        yield Event("latents", done, count, seconds=time.monotonic() - begun)
    return crops


@contextlib.contextmanager
def _checkpointing(base: Base, settings: TrainSettings) -> Iterator[None]:
    unet = cast("Any", base.unet)
    if not settings.checkpointing:
        yield
        return
    unet.enable_gradient_checkpointing()
    unet.train()  # diffusers recomputes only in training mode; these nets have no dropout
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
        unet.eval()


@torch.no_grad()
def _preview(run: Run, previews: Sequence[str]) -> tuple[NDArray[np.uint8], ...]:
    """A picture of each preview prompt with the weights as they are now, the same noise every time."""
    side = resolution(run.base, run.settings)
    condition = run.texts.of([bind(prompt, run.texts.tokens) for prompt in previews])
    empty = run.texts.of([Prompt(("",), frozenset())] * len(previews))
    negative = text.unconditional(run.base, empty)
    if run.trained.focus is not None:
        own = run.texts.own_words([bind(prompt, run.texts.tokens) for prompt in previews])
        run.trained.focus.mask = torch.cat([torch.zeros_like(own), own])
    with run.trained.computing():
        images = diffusion.images(run.base, condition, negative, PREVIEW, seeds=range(len(previews)), size=(side, side))
    return tuple(images)


# ---------------------------------------------------------------- checkpoints


def _save(run: Run, path: Path, identity: str, step: int) -> None:
    state = {
        "identity": identity,
        "step": step,
        "parameters": [parameter.detach() for parameter in run.trained.parameters()],
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "without_gradient": sorted(run.without_gradient),
    }
    checkpoints.save(path, state)


def _first_step(run: Run, path: Path, identity: str, resume: Resume) -> int:
    """The number of steps done before: those of the checkpoint where the run goes on from it."""
    if not (resume and path.exists()):
        return 0
    try:
        return _restore(run, path, identity)
    except InputError:
        if resume == "auto":
            return 0
        raise


def _restore(run: Run, path: Path, identity: str) -> int:
    """Go on from a checkpoint; the number of steps done."""
    state = checkpoints.load(path, identity, run.base.device)
    with torch.no_grad():
        for parameter, stored in zip(run.trained.parameters(), state["parameters"], strict=True):
            parameter.copy_(stored)
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.without_gradient &= set(state.get("without_gradient", ()))  # of an older file: all had one
    return int(state["step"])
