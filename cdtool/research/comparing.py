"""Two subjects drawn for the same prompts, for people to choose between: from their names to a study's page and key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError, NameTakenError, NotFoundError, UsageError
from cdtool.evaluation import evaluate
from cdtool.files import workplace
from cdtool.images import photos
from cdtool.reports import html
from cdtool.research import answers
from cdtool.settings import SampleSettings, resolve
from cdtool.store import bases, subject
from cdtool.tokens import bind

if TYPE_CHECKING:
    from cdtool.images.photos import Photo
    from cdtool.research.study import Study
    from cdtool.sampling.sample import Generated
    from cdtool.store.subject import Composition


@dataclass(frozen=True)
class Side:
    """One of the two: what is drawn, for which prompts, and how."""

    asked: Composition
    prompts: tuple[str, ...]
    settings: SampleSettings


@dataclass(frozen=True)
class Comparison:
    """Two sides, the prompts as people read them (without modifier tokens), and the photos they are shown."""

    a: Side
    b: Side
    texts: tuple[str, ...]
    photos: Mapping[str, tuple[Photo, ...]]
    device: str = "auto"

    @property
    def pictures(self) -> int:
        """How many pictures it draws."""
        return 2 * len(self.texts) * self.a.settings.count


def plan(
    a: str,
    b: str,
    *,
    folders: Sequence[Path] = (),
    prompts: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Comparison:
    """Check everything a study needs before anything is loaded.

    `a` and `b` are concepts, several joined, or bases; a bare base is asked for the plain words of the other. Raises
    what `measuring.plan` raises, and InputError where the two would be asked for different concepts.
    """
    if a == b:
        raise UsageError(f"{a} cannot be compared with itself.", "Like: cdtool eval --compare dog dog-2")
    first, second = subject.find(a), subject.find(b)
    named = (first if first.concepts else second).base
    templates = prompts or evaluate.default_prompts(bases.locate(named))
    left, right = _filled(first, second, templates), _filled(second, first, templates)
    texts = _plain(first, left)
    for mine, other in zip(texts, _plain(second, right), strict=True):
        if mine != other:
            raise InputError(
                f'{a} would be asked for "{mine}", {b} for "{other}": that is no comparison.',
                "Give --prompts that ask both for the same.",
            )
    chosen, _ = resolve(SampleSettings, flags or {}, bases.locate(first.base))
    others, _ = resolve(SampleSettings, flags or {}, bases.locate(second.base))
    # Other seeds: two pictures of one seed are one scene twice, and the choice would be about small differences.
    others = replace(others, count=chosen.count, seed=chosen.seed + chosen.count)
    sides = Side(first, left, chosen), Side(second, right, others)
    return Comparison(*sides, texts, _photos(sides, folders), device)


def run(asked: Comparison) -> Iterator[Generated | Study]:
    """Draw both sides; yields each picture and at last the study, shuffled by the seed of the settings.

    Raises what `base.load` and `sampling.generate` raise.
    """
    from cdtool.models import pipelines
    from cdtool.research import study as questionnaire
    from cdtool.sampling import sample

    drawn: list[list[Generated]] = []
    for side in (asked.a, asked.b):
        base = pipelines.load(side.asked.base, precision=side.settings.precision, device=asked.device)
        drawn.append([])
        for picture in sample.generate(
            base, side.asked.concepts, side.prompts, side.settings, weights=side.asked.weights
        ):
            drawn[-1].append(picture)
            yield picture
    texts = [text for text in asked.texts for _ in range(asked.a.settings.count)]
    yield questionnaire.build(
        (asked.a.asked.text, asked.b.asked.text),
        [questionnaire.Pair(text, a.image, b.image) for text, a, b in zip(texts, *drawn, strict=True)],
        {name: [photos.read(photo) for photo in found] for name, found in asked.photos.items()},
        seed=asked.a.settings.seed,
        shown={name: asdict(side.settings) for name, side in (("a", asked.a), ("b", asked.b))},
    )


def check(page: Path, *, force: bool = False) -> None:
    """Whether a study can be written there, told before the drawing.

    Raises UsageError, NotFoundError, and NameTakenError for one that is there, whose answers a new key could not read.
    """
    html.check(page, "--study")
    key = answers.key_path(page)
    if taken := next((path for path in (page, key) if path.exists() and not force), None):
        raise NameTakenError(f"{taken} is there already.", "Choose another name, or add --force to replace it.")


def save(study: Study, page: Path) -> Path:
    """Write a study's page, and its key beside it, whose path is returned; the key first, so no page lacks one."""
    key = answers.key_path(page)
    with workplace(page.absolute().parent) as work:
        (work / key.name).write_text(answers.key_text(study.key), encoding="utf-8")
        (work / page.name).write_text(study.page, encoding="utf-8", newline="\n")
        (work / key.name).replace(key)
        (work / page.name).replace(page)
    return key


def _filled(mine: Composition, other: Composition, prompts: Sequence[str]) -> tuple[str, ...]:
    """The prompts as one side is asked them: a bare base gets the other's without modifier tokens."""
    words = mine.tokens or other.tokens
    filled = [evaluate.fill(prompt, words) for prompt in prompts]
    return tuple(filled) if mine.tokens else tuple(bind(prompt, words).plain() for prompt in filled)


def _plain(mine: Composition, prompts: Sequence[str]) -> tuple[str, ...]:
    return tuple(bind(prompt, mine.tokens).plain() for prompt in prompts)


def _photos(sides: Sequence[Side], folders: Sequence[Path]) -> dict[str, tuple[Photo, ...]]:
    """The photos people are shown, a folder each: those given, or those that either side was trained on."""
    for side in sides:
        known = [Path(folder) for entry in side.asked.concepts for folder in evaluate.photo_folders(entry)]
        if found := list(folders) or known:
            return {str(folder): tuple(photos.find([folder])[0]) for folder in found}
    names = " or ".join(side.asked.text for side in sides)
    raise NotFoundError(f"Where the photos of {names} lie is not known here.", "Add --photos DIR.")
