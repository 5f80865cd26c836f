"""Measuring a concept: its samples and its base's are drawn for the same prompts and scored beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import catalog, photos, registry
from cdtool.errors import InputError, NotFoundError, PhotoError, UsageError
from cdtool.pictures import decode
from cdtool.settings import SampleSettings, read_toml, resolve
from cdtool.tokens import Token, article, bind

if TYPE_CHECKING:
    from cdtool.evaluation import Sample, Scores
    from cdtool.photos import Photo
    from cdtool.registry import Entry
    from cdtool.sampling import Drawn

# What a concept is asked for where neither the user nor the base says; {} stands for its words.
PROMPTS = ("photo of a {}", "a {} on the beach", "a {} in the snow", "a {} in the forest", "a painting of a {}")
SAMPLES = "samples.jsonl"
_HINT = "Draw them with: cdtool sample CONCEPT PROMPT --out DIR"


@dataclass(frozen=True)
class Evaluation:
    """What will be drawn and compared: the concept (none for a bare base), prompts, and each target's photos."""

    subject: str
    concept: Entry | None
    base: str
    tokens: tuple[Token, ...]
    prompts: tuple[str, ...]
    photos: Mapping[str, tuple[Photo, ...]]
    settings: SampleSettings
    device: str = "auto"

    @property
    def pictures(self) -> int:
        """How many pictures it draws."""
        return len(self.prompts) * self.settings.count * (2 if self.concept else 1)


def plan(
    subject: str,
    *,
    folders: Sequence[Path] = (),
    prompts: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Evaluation:
    """Check everything an evaluation needs before anything is loaded.

    `subject` is a concept or a base; `folders` hold the photos of its tokens, else those it was trained on; `flags`
    are sampling settings. Raises NotFoundError for an unknown subject or photos, TokenError for prompts that do not
    fit, SettingsError, PhotoError.
    """
    concept = None if subject in catalog.NAMES else registry.find(subject)
    manifest = concept.manifest if concept else None
    base = registry.base_of(concept) if concept else subject
    tokens = manifest.tokens if manifest else ()
    base_folder = catalog.locate(base)
    chosen = tuple(fill(prompt, tokens) for prompt in prompts or default_prompts(base_folder))
    for prompt in chosen:
        bind(prompt, tokens)
    known = registry.note(concept.name).get("photos", ()) if concept else ()
    found = _targets(subject, tokens, list(folders) or [Path(folder) for folder in known])
    drawn, _ = resolve(SampleSettings, flags or {}, base_folder)
    return Evaluation(subject, concept, base, tokens, chosen, found, drawn, device)


def default_prompts(base_folder: Path) -> list[str]:
    """The prompts a base is measured with: the file its [eval] names, or the general ones."""
    named = read_toml(base_folder / "cdtool.toml").get("eval", {}).get("prompts")
    return read_prompts((base_folder / str(named)).read_text(encoding="utf-8")) if named else list(PROMPTS)


def read_prompts(text: str) -> list[str]:
    """Prompts of a file, one a line; empty lines and those that begin with # are left out.

    Raises InputError where none is left.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError("The file of prompts holds none.", "Write one prompt a line.")
    return found


def fill(prompt: str, tokens: Sequence[Token]) -> str:
    """A prompt with {} replaced by the concept's words, several as "V1 dog and a V2 cat"; others as they are.

    Raises UsageError where {} has no words to stand for.
    """
    if "{}" not in prompt:
        return prompt
    if not tokens:
        raise UsageError("A base by itself has no word that its prompts could ask for.", "Give --prompts FILE.")
    words = [token.words(None if len(tokens) == 1 else place + 1) for place, token in enumerate(tokens)]
    rest = "".join(f" and {article(word)}" for word in words[1:])
    for like in "aA":
        prompt = prompt.replace(f"{like} {{}}", article(words[0], like) + rest)
    return prompt.replace("{}", words[0] + rest)


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


def run(asked: Evaluation) -> Iterator[Drawn | Scores]:
    """Draw the concept's samples and, with the same seeds, the base's; yields each picture and at last the scores.

    The scores of a concept of the registry are noted beside it. Raises what `base.load` and `sampling.draw` raise,
    and NotFoundError where the encoder is missing.
    """
    from cdtool import base as bases
    from cdtool import features, sampling
    from cdtool.evaluation import Sample

    features.find(features.encoder_for(catalog.locate(asked.base)))  # before an hour of drawing, not after
    base = bases.load(asked.base, precision=asked.settings.precision, device=asked.device)
    plain = [bind(prompt, asked.tokens).plain() for prompt in asked.prompts]
    runs: list[list[Sample]] = []
    whole: list[tuple[list[Entry], Sequence[str]]] = [([asked.concept], asked.prompts)] if asked.concept else []
    for concepts, prompts in [*whole, ([], plain)]:
        samples: list[Sample] = []
        for drawn in sampling.draw(base, concepts, prompts, asked.settings):
            samples.append(Sample(drawn.image, bind(drawn.prompt, asked.tokens).plain()))
            yield drawn
        runs.append(samples)
    yield _score(asked, runs[0], runs[1] if len(runs) > 1 else [], str(base.device))


def score_folder(asked: Evaluation, folder: Path) -> Scores:
    """Score the pictures a folder's samples.jsonl says were drawn with the concept; the base is not beside them.

    Raises NotFoundError or InputError where the folder lacks them.
    """
    return _score(asked, read_samples(folder, asked.subject, asked.tokens), [], "cpu")


def _score(asked: Evaluation, samples: Sequence[Sample], base: Sequence[Sample], device: str) -> Scores:
    from cdtool import evaluation, features

    encoder = features.load(features.encoder_for(catalog.locate(asked.base)), device)
    pictures = {name: [photos.read(photo) for photo in found] for name, found in asked.photos.items()}
    scores = evaluation.evaluate(samples, pictures, encoder, base=base)
    if asked.concept and asked.concept.path.parent == registry.concepts_dir():
        registry.add_note(asked.concept.name, scores=scores.concept, evaluation=scores.as_dict())
    return scores


def read_samples(folder: Path, subject: str, tokens: Sequence[Token]) -> list[Sample]:
    """The pictures of a subject in a folder's samples.jsonl, with their prompts freed of V-words.

    Raises NotFoundError where there are none, InputError where a line or a picture cannot be used.
    """
    from cdtool.evaluation import Sample

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
