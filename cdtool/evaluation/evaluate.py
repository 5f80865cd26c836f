"""Evaluating a concept: its samples and its base's, for the same prompts and seeds, scored beside each other."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from cdtool.errors import NotFoundError, UsageError
from cdtool.evaluation import identity, metrics, samples, side_effects
from cdtool.evaluation.metrics import MetricRequest
from cdtool.evaluation.side_effects import ProbePlan
from cdtool.images import photos
from cdtool.models.libraries import quietly
from cdtool.settings import SampleSettings
from cdtool.sources import resolve
from cdtool.store import bases, registry
from cdtool.store import subject as composition
from cdtool.tokens import Token, bind

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Sample, Scores
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.side_effects import ProbeImage
    from cdtool.images.photos import Photo
    from cdtool.models.encoders import Encoder
    from cdtool.models.pipelines import Base
    from cdtool.sampling.sample import Generated
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition

_SETTINGS = ("count", "seed", "steps", "guidance", "scheduler", "eta", "size", "precision", "batch")  # of sampling
_SCORES = ("metrics", "forgetting", "kid", "fid", "fid_count", "encoder", "lookalikes")  # of metrics.request


class EvaluateOptions(TypedDict, total=False):
    """The options of `evaluate`; what is left out, or None, has its default."""

    photos: Sequence[str | Path]
    prompts: Sequence[str]
    images: str | Path | None
    device: str
    count: int | None
    seed: int | None
    steps: int | None
    guidance: float | None
    scheduler: str | None
    eta: float | None
    size: str | None
    precision: str | None
    batch: int | None
    metrics: Sequence[str] | str | None
    forgetting: bool
    kid: Path | None
    fid: Path | None
    fid_count: int | None
    encoder: str | None
    lookalikes: Path | None


@dataclass(frozen=True)
class Evaluation:
    """What will be sampled and compared: concepts (none for a bare base), prompts, and each target's photos."""

    composition: Composition
    prompts: tuple[str, ...]
    photos: Mapping[str, tuple[Photo, ...]]
    settings: SampleSettings
    device: str = "auto"
    request: MetricRequest = field(default_factory=MetricRequest)
    probes: ProbePlan = field(default_factory=ProbePlan)
    lookalikes: Mapping[str, Sequence[Photo]] | None = None  # for rank and scr
    folder: Path | None = None  # of samples that are scored instead of new ones

    @property
    def subject(self) -> str:
        """What is evaluated, as the user wrote it."""
        return self.composition.text

    @property
    def base(self) -> str:
        """The base it is sampled on."""
        return self.composition.base

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens that prompts may name."""
        return self.composition.tokens

    @property
    def pictures(self) -> int:
        """How many images are sampled."""
        if self.folder is not None:
            return 0
        return len(self.prompts) * self.settings.count * (2 if self.composition.concepts else 1) + self.probes.total


def evaluate(concept: str | Path | Concept, **options: Unpack[EvaluateOptions]) -> Scores:
    """Score a concept's samples against their prompts and its photos, with its base's samples beside them.

    Args:
        concept: a concept's name, file or object, several joined ("dog+moongate", "dog:0.8+cat"), or a base.
        photos: folders of photos, one per token; else those it was trained on.
        prompts: what is sampled, {} for the concept's words; else the base's prompts, or five general ones.
        images: a folder that `cdtool sample` wrote; its images are scored, without the base.
        device: "auto", "cpu", "cuda", "mps".
        count, seed, steps, guidance, scheduler, eta, size, precision, batch: sampling settings.
        metrics: names such as ("text", "image", "rank") or "text,image"; text and image unless given.
        forgetting: also score how far plain and unrelated images moved, and what leaked into them.
        kid, fid: a folder of real images, or a captioned corpus, for these distances.
        fid_count: images sampled for FID.
        encoder: another CLIP, as a hub id or folder.
        lookalikes: a folder of folders that rank and scr compare with.

    Raises what `plan` and `run` raise.
    """
    *_, scores = iter_evaluate(concept, **options)
    return scores  # type: ignore[return-value]  # the last event


def iter_evaluate(
    concept: str | Path | Concept, **options: Unpack[EvaluateOptions]
) -> Iterator[Generated | ProbeImage | ForgettingResult | Scores]:
    """As `evaluate`, yielding every image as it is sampled, then results of forgetting, and the scores at last."""
    yield from run(plan(concept, **options))


def plan(concept: str | Path | Concept, **options: Unpack[EvaluateOptions]) -> Evaluation:
    """Check everything an evaluation needs before anything is loaded; the options are those of `evaluate`.

    Raises what `subject.find` and `side_effects.plan` raise, NotFoundError for unknown photos or look-alikes,
    TokenError for prompts that do not fit, UsageError, SettingsError, PhotoError.
    """
    request = metrics.request(**{name: value for name, value in options.items() if name in _SCORES})  # type: ignore[arg-type]
    found = composition.find(composition.text_of(concept))
    base_folder = bases.locate(found.base)
    prompts = tuple(samples.fill(one, found.tokens) for one in options.get("prompts") or samples.prompts(base_folder))
    for prompt in prompts:
        bind(prompt, found.tokens)
    known = [Path(folder) for entry in found.concepts for folder in photo_folders(entry)]
    targets = _targets(found.text, found.tokens, [Path(folder) for folder in options.get("photos") or ()] or known)
    request = request if targets else metrics.without_photos(request)
    sampling, _ = resolve(SampleSettings, {name: options.get(name) for name in _SETTINGS}, base_folder)
    probes = side_effects.plan(request, found, list(targets), base_folder, len(prompts) * sampling.count)
    images = options.get("images")
    if images is not None and probes.total:
        raise UsageError("KID, FID and forgetting sample images of their own.", "Leave out --images, or these.")
    rivals = lookalikes(request, found, targets, base_folder)
    folder = Path(images) if images is not None else None
    return Evaluation(
        found, prompts, targets, sampling, options.get("device") or "auto", request, probes, rivals, folder
    )


def lookalikes(
    request: MetricRequest, subject: Composition, targets: Mapping[str, Sequence[Photo]], base_folder: Path
) -> dict[str, list[Photo]] | None:
    """The photos of look-alikes, where a requested score compares with them. Raises NotFoundError."""
    from cdtool.evaluation import alignment

    if not set(request.metrics) & set(alignment.AGAINST_LOOKALIKES):
        return None
    own = [photo for group in targets.values() for photo in group]
    return identity.lookalikes(own, request.lookalikes, base_folder, identity.other_concepts(subject.concepts))


def photo_folders(entry: Concept, below: frozenset[str] = frozenset()) -> list[str]:
    """The folders of photos this machine knows a concept by: those it was trained on, else those of its parents.

    Empty where it does not know all of them; `below` are the names on the way to it.
    """
    if own := registry.note(entry.name).get("photos"):
        return list(own)
    found = []
    for parent in entry.manifest.parents if entry.manifest else ():
        name, path = str(parent.get("name", "")), below | {entry.name}
        known = name in registry.names() and name not in path  # a name may have changed hands since
        folders = photo_folders(registry.find(name), path) if known else []
        if not folders:
            return []
        found += folders
    return found


def _targets(subject: str, tokens: Sequence[Token], folders: Sequence[Path]) -> dict[str, tuple[Photo, ...]]:
    """Photos by target: all folders of a single token, otherwise one folder per token that is not erased."""
    numbers = {number: token for number, token in enumerate(tokens, 1) if not token.erased}
    if tokens and not numbers and not folders:
        return {}
    tokens = tuple(numbers.values())
    if not folders:
        raise NotFoundError(f'Where the photos of "{subject}" lie is not known here.', "Add --photos DIR.")
    if len(tokens) < 2:
        return {tokens[0].noun if tokens else "photos": tuple(photos.find(folders)[0])}
    if len(folders) != len(tokens):
        raise UsageError(
            f"{subject} has {len(tokens)} tokens, but there are {len(folders)} folders of photos.",
            "Give --photos once per token, in their order.",
        )
    names = [token.words(number) for number, token in numbers.items()]
    return {name: tuple(photos.find([folder])[0]) for name, folder in zip(names, folders, strict=True)}


@quietly()
def run(plan: Evaluation) -> Iterator[Generated | ProbeImage | ForgettingResult | Scores]:
    """Sample the concept and, with the same seeds, the base; yields each image and at last the scores.

    Probe images come as ProbeImage, and the results of forgetting, if requested, after them. The scores of a concept
    of the registry are noted beside it. Raises what `pipelines.load` and `sample.generate` raise, NotFoundError where
    an encoder is missing or a folder lacks samples, and InputError for samples that cannot be used.
    """
    from cdtool.models import encoders, pipelines

    folder = bases.locate(plan.base)
    metrics.find_encoders(plan.request, folder)  # before an hour of sampling, not after
    if plan.folder is not None:
        encoder = encoders.load(metrics.encoder_for(plan.request, folder))
        scores = _score(plan, samples.read(plan.folder, plan.subject, plan.tokens), [], encoder, "cpu")
    else:
        base = pipelines.for_sampling(plan.base, plan.settings, plan.device)
        own = (yield from _sample(plan, base, plan.composition)) if plan.composition.concepts else []
        bare = yield from _sample(plan, base)
        encoder = encoders.load(metrics.encoder_for(plan.request, folder), str(base.device))
        scores = _score(plan, own or bare, bare if own else [], encoder, str(base.device))
        if plan.probes.total:
            scores = yield from _side_effects(plan, base, encoder, scores)
    if plan.composition.is_stored:
        registry.add_note(plan.composition.concepts[0].name, scores=scores.concept, evaluation=scores.as_dict())
    yield scores


def _sample(
    plan: Evaluation, base: Base, subject: Composition | None = None
) -> Generator[Generated, None, list[Sample]]:
    """Sample the plan's prompts with a subject, or with the bare base; yields the images and returns the samples."""
    concepts, weights = (subject.concepts, subject.weights) if subject else ((), ())
    scored = []
    for image, sample in samples.generate(base, concepts, plan.prompts, plan.tokens, plan.settings, weights=weights):
        scored.append(sample)
        yield image
    return scored


def _side_effects(
    plan: Evaluation, base: Base, encoder: Encoder, scores: Scores
) -> Generator[ProbeImage | ForgettingResult, None, Scores]:
    """Sample the probes; returns the scores with those of forgetting, KID and FID."""
    from cdtool.evaluation import forgetting

    near = side_effects.neighbours(plan.probes, encoder)
    images = []
    for image in side_effects.generate(base, plan.composition, plan.probes, near, plan.settings):
        images.append(image)
        yield image
    if plan.request.forgetting:
        results = forgetting.measure(plan.probes, images, _pictures(plan.photos), encoder, (plan.subject, plan.base))
        scores = forgetting.with_forgetting(scores, results)
        yield from results.values()
    if set(plan.request.metrics) & set(metrics.SETS):
        set_encoder = metrics.set_encoder(bases.locate(plan.base), encoder, str(base.device))
        scores = forgetting.with_sets(scores, plan.probes, images, plan.request, set_encoder)
    return scores


def _pictures(groups: Mapping[str, Sequence[Photo]]) -> dict[str, list[Image.Image]]:
    return {name: [photos.read(photo) for photo in group] for name, group in groups.items()}


def _score(plan: Evaluation, scored: Sequence[Sample], base: Sequence[Sample], encoder: Encoder, device: str) -> Scores:
    from cdtool.evaluation import alignment

    names = [name for name in plan.request.metrics if name in alignment.METRICS]
    others = metrics.load_others(plan.request, bases.locate(plan.base), device)
    rivals = _pictures(plan.lookalikes or {})
    return alignment.score(
        scored, _pictures(plan.photos), encoder, base=base, metrics=names, others=others, rivals=rivals
    )
