"""Measuring a concept: its samples and its base's are drawn for the same prompts and scored beside each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import files
from cdtool.errors import InputError, NotFoundError, PhotoError, UsageError
from cdtool.evaluation import metrics, side_effects
from cdtool.evaluation.metrics import MetricRequest
from cdtool.evaluation.side_effects import ProbePlan
from cdtool.images import photos
from cdtool.images.pictures import decode
from cdtool.settings import SampleSettings, read_toml, resolve
from cdtool.store import bases, registry
from cdtool.store import subject as composition
from cdtool.tokens import Token, article, bind

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.evaluation.alignment import Sample, Scores
    from cdtool.evaluation.forgetting import ForgettingResult
    from cdtool.evaluation.side_effects import ProbeImage
    from cdtool.images.photos import Photo
    from cdtool.models.encoders import Encoder
    from cdtool.sampling.sample import Generated
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition

# What a concept is asked for where neither the user nor the base says; {} stands for its words, {0} for its first
# token's, {1} for its second's.
PROMPTS = ("photo of a {}", "a {} on the beach", "a {} in the snow", "a {} in the forest", "a painting of a {}")
SAMPLES = "samples.jsonl"
_USUAL, _NOTHING = MetricRequest(), ProbePlan()
_HINT = "Draw them with: cdtool sample CONCEPT PROMPT --out DIR"


@dataclass(frozen=True)
class Evaluation:
    """What will be drawn and compared: concepts (none for a bare base), prompts, and each target's photos."""

    asked: Composition
    prompts: tuple[str, ...]
    photos: Mapping[str, tuple[Photo, ...]]
    settings: SampleSettings
    device: str = "auto"
    wanted: MetricRequest = _USUAL
    beside: ProbePlan = _NOTHING

    @property
    def subject(self) -> str:
        """What is measured, as the user wrote it."""
        return self.asked.text

    @property
    def base(self) -> str:
        """The base it is drawn on."""
        return self.asked.base

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens that prompts may name."""
        return self.asked.tokens

    @property
    def pictures(self) -> int:
        """How many pictures it draws."""
        return len(self.prompts) * self.settings.count * (2 if self.asked.concepts else 1) + self.beside.total


def plan(
    subject: str,
    *,
    folders: Sequence[Path] = (),
    prompts: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    device: str = "auto",
    wanted: MetricRequest = _USUAL,
) -> Evaluation:
    """Check everything an evaluation needs before anything is loaded.

    `subject` is a concept, several joined, or a base; `folders` hold the photos of its tokens, else those they were
    trained on; `flags` are sampling settings; `wanted` are the scores. Raises what `composition.find` and
    `probes.plan` raise, NotFoundError for unknown photos, TokenError for prompts that do not fit, UsageError,
    SettingsError, PhotoError.
    """
    asked = composition.find(subject)
    base_folder = bases.locate(asked.base)
    chosen = tuple(fill(prompt, asked.tokens) for prompt in prompts or default_prompts(base_folder))
    for prompt in chosen:
        bind(prompt, asked.tokens)
    known = [Path(folder) for entry in asked.concepts for folder in photo_folders(entry)]
    found = _targets(subject, asked.tokens, list(folders) or known)
    drawn, _ = resolve(SampleSettings, flags or {}, base_folder)
    beside = side_effects.plan(wanted, asked, list(found), base_folder, len(chosen) * drawn.count)
    return Evaluation(asked, chosen, found, drawn, device, wanted, beside)


def photo_folders(entry: Concept, below: frozenset[str] = frozenset()) -> list[str]:
    """The folders of photos this machine knows a concept by: those it was trained on, else those of its parents.

    Empty where it does not know all of them; `below` are the concepts it was asked from.
    """
    if own := registry.note(entry.name).get("photos"):
        return list(own)
    found = []
    for parent in entry.manifest.parents if entry.manifest else ():
        name, asked = str(parent.get("name", "")), below | {entry.name}
        known = name in registry.names() and name not in asked  # a name may have changed hands since
        folders = photo_folders(registry.find(name), asked) if known else []
        if not folders:
            return []
        found += folders
    return found


def default_prompts(base_folder: Path) -> list[str]:
    """The prompts a base is measured with: the file its [eval] names, or the general ones."""
    named = read_toml(base_folder / "cdtool.toml").get("eval", {}).get("prompts")
    return files.read_prompts(base_folder / str(named)) if named else list(PROMPTS)


def fill(prompt: str, tokens: Sequence[Token]) -> str:
    """A prompt with {} replaced by the concept's words, several as "V1 dog and a V2 cat", and {0}, {1} by each token's.

    Raises UsageError where they have no words to stand for.
    """
    words = [token.words(None if len(tokens) == 1 else place + 1) for place, token in enumerate(tokens)]
    if not words and re.search(r"\{\d*\}", prompt):
        raise UsageError("A base by itself has no word that its prompts could ask for.", "Give --prompts FILE.")

    def put(found: re.Match[str]) -> str:
        like, place = found[1], found[2]
        if place and int(place) >= len(words):
            held = f"{len(words)} tokens, {{0}} to {{{len(words) - 1}}}" if len(words) > 1 else "one token, {}"
            raise UsageError(f'"{prompt}" asks for {{{place}}}, but there is {held}.', "Count from {0}.")
        first, *others = [words[int(place)]] if place else words
        rest = "".join(f" and {article(word)}" for word in others)
        return (article(first, like[0]) if like else first) + rest

    return re.sub(r"(\b[aA]n? )?\{(\d*)\}", put, prompt)


def _targets(subject: str, tokens: Sequence[Token], folders: Sequence[Path]) -> dict[str, tuple[Photo, ...]]:
    """Photos by target: all folders of a single token, otherwise one folder per token."""
    if not folders:
        raise NotFoundError(f'Where the photos of "{subject}" lie is not known here.', "Add --photos DIR.")
    if len(tokens) < 2:
        return {tokens[0].noun if tokens else "photos": tuple(photos.find(folders)[0])}
    if len(folders) != len(tokens):
        raise UsageError(
            f"{subject} has {len(tokens)} tokens, but there are {len(folders)} folders of photos.",
            "Give --photos once per token, in their order.",
        )
    names = [token.words(place + 1) for place, token in enumerate(tokens)]
    return {name: tuple(photos.find([folder])[0]) for name, folder in zip(names, folders, strict=True)}


def run(asked: Evaluation) -> Iterator[Generated | ProbeImage | ForgettingResult | Scores]:
    """Draw the concept's samples and, with the same seeds, the base's; yields each picture and at last the scores.

    Probe images come as ProbeImage, and the results of forgetting, if requested, after them. The scores
    of a concept of the registry are noted beside it. Raises what `base.load` and `sampling.generate` raise, and
    NotFoundError where an encoder is missing.
    """
    from cdtool.evaluation import forgetting
    from cdtool.evaluation.alignment import Sample
    from cdtool.models import encoders, pipelines
    from cdtool.sampling import sample

    folder = bases.locate(asked.base)
    metrics.find_encoders(asked.wanted, folder)  # before an hour of drawing, not after
    base = pipelines.load(asked.base, precision=asked.settings.precision, device=asked.device)
    subject = asked.asked
    plain = [bind(prompt, asked.tokens).plain() for prompt in asked.prompts]
    runs: list[list[Sample]] = []
    whole = [(subject.concepts, asked.prompts, subject.weights)] if subject.concepts else []
    for concepts, prompts, weights in [*whole, ((), plain, ())]:
        samples: list[Sample] = []
        for drawn in sample.generate(base, concepts, prompts, asked.settings, weights=weights):
            samples.append(Sample(drawn.image, bind(drawn.prompt, asked.tokens).plain()))
            yield drawn
        runs.append(samples)
    encoder = encoders.load(metrics.encoder_for(asked.wanted, folder), str(base.device))
    scores = _score(asked, runs[0], runs[1] if len(runs) > 1 else [], encoder, str(base.device))
    if asked.beside.total:
        beside: list[ProbeImage] = []
        near = side_effects.neighbours(asked.beside, encoder)
        for probe in side_effects.generate(base, subject, asked.beside, near, asked.settings):
            beside.append(probe)
            yield probe
        if asked.wanted.forgetting:
            found = forgetting.measure(asked.beside, beside, _pictures(asked), encoder, (asked.subject, asked.base))
            scores = forgetting.with_forgetting(scores, found)
            yield from found.values()
        if set(asked.wanted.metrics) & set(metrics.SETS):
            apart = metrics.set_encoder(folder, encoder, str(base.device))
            scores = forgetting.with_sets(scores, asked.beside, beside, asked.wanted, apart)
    _note(asked, scores)
    yield scores


def score_folder(asked: Evaluation, folder: Path) -> Scores:
    """Score the pictures a folder's samples.jsonl says were drawn with the concept; the base is not beside them.

    Raises NotFoundError or InputError where the folder lacks them, UsageError for scores of other pictures.
    """
    if asked.beside.total:
        raise UsageError("KID, FID and forgetting draw pictures of their own.", "Leave out --images, or these.")
    from cdtool.models import encoders

    samples = read_samples(folder, asked.subject, asked.tokens)
    encoder = encoders.load(metrics.encoder_for(asked.wanted, bases.locate(asked.base)))
    scores = _score(asked, samples, [], encoder, "cpu")
    _note(asked, scores)
    return scores


def _note(asked: Evaluation, scores: Scores) -> None:
    if asked.asked.is_stored:
        registry.add_note(asked.asked.concepts[0].name, scores=scores.concept, evaluation=scores.as_dict())


def _pictures(asked: Evaluation) -> dict[str, list[Image.Image]]:
    return {name: [photos.read(photo) for photo in found] for name, found in asked.photos.items()}


def _score(
    asked: Evaluation, samples: Sequence[Sample], base: Sequence[Sample], encoder: Encoder, device: str
) -> Scores:
    from cdtool.evaluation import alignment

    own = [name for name in asked.wanted.metrics if name in alignment.METRICS]
    others = metrics.load_others(asked.wanted, bases.locate(asked.base), device)
    return alignment.score(samples, _pictures(asked), encoder, base=base, metrics=own, others=others)


def read_samples(folder: Path, subject: str, tokens: Sequence[Token]) -> list[Sample]:
    """The pictures of a subject in a folder's samples.jsonl, with their prompts freed of modifier tokens.

    Raises NotFoundError where there are none, InputError where a line or a picture cannot be used.
    """
    from cdtool.evaluation.alignment import Sample

    path = folder / SAMPLES
    if not path.is_file():
        raise NotFoundError(f"{folder} has no {SAMPLES} that says what its pictures were asked for.", _HINT)
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["subject"] == subject:
                with (folder / Path(entry["file"]).name).open("rb") as file:
                    samples.append(Sample(decode(file)[0], bind(entry["prompt"], tokens).plain()))
        except (ValueError, KeyError, TypeError, OSError, PhotoError) as error:
            raise InputError(f"{path}, line {number}, cannot be used ({error}).", _HINT) from None
    if not samples:
        raise NotFoundError(f"{folder} has no pictures drawn with {subject}.", _HINT)
    return samples
