"""Picking the best checkpoint of a training: a few are scored on prompts it did not train on, and the knee is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cdtool import settings
from cdtool.errors import InterruptedRun
from cdtool.evaluation import samples
from cdtool.files import replacing
from cdtool.images import photos
from cdtool.settings import SampleSettings
from cdtool.sources import resolve
from cdtool.store import concept, registry
from cdtool.store.registry import Concept
from cdtool.tokens import bind
from cdtool.training import run
from cdtool.training.processes import ALONE

if TYPE_CHECKING:
    from cdtool.models.encoders import Encoder
    from cdtool.models.pipelines import Base
    from cdtool.training.event import Event, Resume
    from cdtool.training.job import Job
    from cdtool.training.processes import Ranks

DRAWING = {"count": 4, "steps": 25, "seed": 1000}  # seeds away from those people draw and measure with
LEAST = 0.02  # a score that varies less over all checkpoints counts as if it varied so much: below is noise
RULE = "the highest sum of text and image alignment, each from 0 to 1 over the base and all checkpoints"


@dataclass(frozen=True)
class CheckpointScore:
    """Mean text and image alignment of a checkpoint after some training steps."""

    step: int
    text: float
    image: float


@dataclass(frozen=True)
class Selection:
    """The scores of the base (step 0) and of every checkpoint, and the step that was kept."""

    stages: tuple[CheckpointScore, ...]
    step: int
    prompts: int
    encoder: str

    def as_dict(self) -> dict[str, Any]:
        """What the manifest and JSON hold of it."""
        return {**asdict(self), "of": self.stages[-1].step, "rule": RULE}


def knee(stages: Sequence[CheckpointScore]) -> CheckpointScore:
    """The knee of text against image alignment among all stages but the first, which is the base.

    Both scores are put on 0 to 1 over all stages. Training falls from (0, 1), the base's text, to (1, 0), the photos'
    image; the knee lies farthest from that chord towards (1, 1), so it has the highest sum. The earlier of equals.
    """

    def share(values: Sequence[float], value: float) -> float:
        return (value - min(values)) / max(max(values) - min(values), LEAST)

    texts, images = [stage.text for stage in stages], [stage.image for stage in stages]
    sums = [round(share(texts, stage.text) + share(images, stage.image), 9) for stage in stages[1:]]
    return stages[1:][sums.index(max(sums))]


def checkpoint_steps(steps: int, count: int) -> tuple[int, ...]:
    """The steps after which checkpoints are kept: `count` evenly spaced ones, the last step among them."""
    return tuple(dict.fromkeys(max(1, round(steps * place / count)) for place in range(1, count + 1)))


def train_job(
    job: Job,
    base: Base,
    count: int,
    *,
    resume: Resume = False,
    previews: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    force: bool = False,
) -> Iterator[Event]:
    """Train as `run.train_job` does and raises, and keep the concept as it is at `count` steps for `choose`."""
    job = run.with_initializers(job, base)
    if ranks.rank == 0 and not resume:
        shutil.rmtree(_folder(job.name), ignore_errors=True)
    kept: Collection[int] = checkpoint_steps(job.settings.steps, count)
    for event in run.train_job(job, base, resume=resume, previews=previews, stop=stop, ranks=ranks, force=force,
                               snapshots=kept):  # fmt: skip
        if event.kind == "snapshot" and ranks.rank == 0:
            manifest = run.manifest_of(job, base, run.begin(job, base, force=force))
            manifest = replace(manifest, settings={**manifest.settings, "steps": event.step})
            folder = _folder(job.name)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"{event.step:06d}{registry.SUFFIX}", durable=False) as temporary:
                concept.write(temporary, manifest, event.tensors)
        yield event


def choose(work: Job, base: Base, *, stop: Callable[[], bool] = lambda: False) -> Iterator[CheckpointScore | Selection]:
    """Score the base and every checkpoint, save the knee under the job's name, and tell why; yields each one's scores.

    Raises InterruptedRun when asked to stop, with what the last step made saved, and what sampling and scoring raise.
    """
    from cdtool.models import encoders

    final = registry.find(work.name)
    assert final.manifest is not None
    prompts = held_out(work, base)
    drawing, _ = resolve(SampleSettings, {**DRAWING, "precision": work.settings.precision}, base.folder)
    encoder = encoders.load(encoders.encoder_for(base.folder), str(base.device))
    stages: list[CheckpointScore] = []
    entries = {int(path.stem): path for path in sorted(_folder(work.name).glob(f"*{registry.SUFFIX}"))}
    entries[work.settings.steps] = final.path
    for step, path in {0: None, **entries}.items():
        text, image = _score(work, base, encoder, path, prompts, drawing, stop)
        stages.append(CheckpointScore(step, text, image))
        yield stages[-1]
    picked = Selection(tuple(stages), knee(stages).step, len(prompts), encoder.spec.name)
    _keep(work, entries[picked.step], picked)
    shutil.rmtree(_folder(work.name), ignore_errors=True)
    yield picked


def held_out(work: Job, base: Base) -> list[str]:
    """The prompts a base is measured with, less those that are the captions of the photos."""
    captions = {photos.template(token, work.settings.style) for token in work.new}
    filled = [samples.fill(prompt, work.tokens) for prompt in samples.prompts(base.folder)]
    return [prompt for prompt in filled if bind(prompt, work.tokens).plain() not in captions]


def scores_of_checkpoints(entry: Concept) -> tuple[CheckpointScore, ...]:
    """The checkpoints a concept was picked from, for its report; none where it was not."""
    told = entry.manifest.report.get("pick", {}) if entry.manifest else {}
    return tuple(CheckpointScore(**stage) for stage in told.get("stages", ()))


def _score(
    work: Job,
    base: Base,
    encoder: Encoder,
    path: Path | None,
    prompts: Sequence[str],
    drawing: SampleSettings,
    stop: Callable[[], bool],
) -> tuple[float, float]:
    """Mean text and image alignment of a checkpoint's samples, or of the bare base's."""
    from cdtool.evaluation import alignment

    entries = [] if path is None else [Concept(work.name, path, concept.read_header(path)[0], 0)]
    scored = []
    for _, sample in samples.generate(base, entries, prompts, work.tokens, drawing):
        scored.append(sample)
        if stop():
            raise InterruptedRun(f'Stopped while picking; "{work.name}" is saved as the last step left it.')
    pictures = {str(index): [photos.read(photo) for photo in group] for index, group in enumerate(work.groups)}
    scores = alignment.score(scored, pictures, encoder).concept
    return scores["text"], fmean(value for name, value in scores.items() if name != "text")


def _keep(work: Job, path: Path, picked: Selection) -> None:
    """Save the chosen checkpoint under the job's name, with why it was chosen."""
    manifest, _ = concept.read_header(path)
    note = registry.note(work.name)
    report = {**manifest.report, "pick": picked.as_dict()}
    registry.save(replace(manifest, report=report), concept.read_tensors(path), force=True)
    registry.add_note(work.name, **note)


def _folder(name: str) -> Path:
    return settings.data_dir() / "checkpoints" / f"{name}.picks"
