"""A preference study: two subjects sampled for the same prompts, and one blind page on which people choose."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import InputError, NameTakenError, NotFoundError, UsageError
from cdtool.evaluation import evaluate, samples
from cdtool.files import replacing
from cdtool.images import corpora, photos
from cdtool.reports import html
from cdtool.research.answers import FORMAT, QUESTIONS, Item, Key, key_path, key_text
from cdtool.settings import SampleSettings
from cdtool.sources import resolve
from cdtool.store import bases, subject
from cdtool.tokens import bind

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.images.photos import Photo
    from cdtool.sampling.sample import Generated
    from cdtool.store.subject import Composition

SHOWN = 4  # photos beside a question, as the paper's two to four
SIDE = 768  # px a picture is shown with at most


@dataclass(frozen=True)
class StudySide:
    """One of the two: what is drawn, for which prompts, and how."""

    composition: Composition
    prompts: tuple[str, ...]
    settings: SampleSettings


@dataclass(frozen=True)
class Comparison:
    """Two sides, the prompts as people read them (without modifier tokens), and the photos they are shown."""

    a: StudySide
    b: StudySide
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

    `a` and `b` are concepts, several joined, or bases; a bare base is plan for the plain words of the other. Raises
    what `evaluate.plan` raises, and InputError where the two would be asked for different concepts.
    """
    if a == b:
        raise UsageError(f"{a} cannot be compared with itself.", "Like: cdtool study make dog dog-2 -o study.html")
    first, second = subject.find(a), subject.find(b)
    named = (first if first.concepts else second).base
    templates = prompts or samples.prompts(bases.locate(named))
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
    sides = StudySide(first, left, chosen), StudySide(second, right, others)
    return Comparison(*sides, texts, _photos(sides, folders), device)


def run(plan: Comparison) -> Iterator[Generated | Study]:
    """Draw both sides; yields each picture and at last the study, shuffled by the seed of the settings.

    Raises what `pipelines.load` and `sampling.generate` raise.
    """
    from cdtool.models import pipelines
    from cdtool.sampling import sample

    drawn: list[list[Generated]] = []
    for side in (plan.a, plan.b):
        base = pipelines.for_sampling(side.composition.base, side.settings, plan.device)
        drawn.append([])
        for picture in sample.generate(
            base, side.composition.concepts, side.prompts, side.settings, weights=side.composition.weights
        ):
            drawn[-1].append(picture)
            yield picture
    texts = [text for text in plan.texts for _ in range(plan.a.settings.count)]
    yield build(
        (plan.a.composition.text, plan.b.composition.text),
        [ImagePair(text, a.image, b.image) for text, a, b in zip(texts, *drawn, strict=True)],
        {name: [photos.read(photo) for photo in found] for name, found in plan.photos.items()},
        seed=plan.a.settings.seed,
        shown={name: asdict(side.settings) for name, side in (("a", plan.a), ("b", plan.b))},
    )


def check(page: Path, *, force: bool = False) -> None:
    """Whether a study can be written there, told before the drawing.

    Raises UsageError, NotFoundError, and NameTakenError for one that is there, whose answers a new key could not read.
    """
    html.check(page, "-o")
    key = key_path(page)
    if taken := next((path for path in (page, key) if path.exists() and not force), None):
        raise NameTakenError(f"{taken} is there already.", "Choose another name, or add --force to replace it.")


def save(study: Study, page: Path) -> Path:
    """Write a study's page, and its key beside it, whose path is returned; the key first, so no page lacks one."""
    key = key_path(page)
    with replacing(key) as temporary:
        temporary.write_text(key_text(study.key), encoding="utf-8")
    html.save(study.page, page)
    return key


def _filled(mine: Composition, other: Composition, prompts: Sequence[str]) -> tuple[str, ...]:
    """The prompts of one side: a bare base gets the other's without modifier tokens."""
    words = mine.tokens or other.tokens
    filled = [samples.fill(prompt, words) for prompt in prompts]
    return tuple(filled) if mine.tokens else tuple(bind(prompt, words).plain() for prompt in filled)


def _plain(mine: Composition, prompts: Sequence[str]) -> tuple[str, ...]:
    return tuple(bind(prompt, mine.tokens).plain() for prompt in prompts)


def _photos(sides: Sequence[StudySide], folders: Sequence[Path]) -> dict[str, tuple[Photo, ...]]:
    """The photos people are shown, a folder each: those given, or those that either side was trained on."""
    for side in sides:
        known = [Path(folder) for entry in side.composition.concepts for folder in evaluate.photo_folders(entry)]
        if found := list(folders) or known:
            return {str(folder): tuple(photos.find([folder])[0]) for folder in found}
    names = " or ".join(side.composition.text for side in sides)
    raise NotFoundError(f"Where the photos of {names} lie is not known here.", "Add --photos DIR.")


# ---------------------------------------------------------------- the page


@dataclass(frozen=True)
class ImagePair:
    """Two subjects' pictures for one prompt, which holds no modifier tokens."""

    prompt: str
    a: Image.Image
    b: Image.Image


@dataclass(frozen=True)
class Study:
    """A page, and the key that says which of its pictures are whose."""

    page: str
    key: Key


def build(
    subjects: tuple[str, str],
    pairs: Sequence[ImagePair],
    photos: Mapping[str, Sequence[Image.Image]],
    *,
    seed: int = 0,
    shown: Mapping[str, Any] | None = None,
) -> Study:
    """A study of pairs, with photos of each target; the same arguments make the same page.

    The order of the questions is shuffled, and each question has either subject on the left half of the time. The page
    holds pictures without their names under ids that say nothing; which is whose only the key says. `shown` is kept in
    the key. Raises InputError where there is nothing to ask.
    """
    if not pairs:
        raise InputError("There are no pairs of pictures to ask about.")
    pictures = [html.data_uri(image, SIDE) for pair in pairs for image in (pair.a, pair.b)]
    told = "\0".join([str(seed), *subjects, *pictures, *(pair.prompt for pair in pairs)])
    rng = random.Random(hashlib.sha256(told.encode()).digest())
    ids = _ids("p", len(pictures), rng)
    asked = [name for name in QUESTIONS if name != "photos" or any(photos.values())]
    names = iter(_ids("q", len(asked) * len(pairs), rng))
    items = [
        Item(next(names), question, place, pairs[place].prompt, ids[2 * place], ids[2 * place + 1])
        for question in asked
        for place in rng.sample(range(len(pairs)), len(pairs))
    ]
    study = hashlib.sha256("".join(item.id for item in items).encode()).hexdigest()[:12]
    key = Key(study, *subjects, seed, tuple(items), dict(shown or {}))
    left = [first for _ in asked for first in _halves(len(pairs), rng)]
    content = {
        "format": FORMAT,
        "study": study,
        "questions": {name: QUESTIONS[name] for name in asked},
        "items": [_asked(item, first) for item, first in zip(items, left, strict=True)],
        "pictures": dict(sorted(zip(ids, pictures, strict=True))),
        "photos": [html.data_uri(photo, SIDE // 2) for photo in choose(photos)],
        "tiny": all(html.is_tiny(image) for pair in pairs for image in (pair.a, pair.b)),
    }
    return Study(html.render("study.html", content=html.data(content)), key)


def choose(photos: Mapping[str, Sequence[Image.Image]]) -> list[Image.Image]:
    """The photos a question shows: four at most, as many of each target, from all over its set."""
    each = max(1, SHOWN // max(1, len(photos)))
    return [image for images in photos.values() for image in corpora.evenly(images, each)]


def _asked(item: Item, a_first: bool) -> dict[str, str]:
    first, second = (item.a, item.b) if a_first else (item.b, item.a)
    text = {"text": item.prompt} if item.question == "text" else {}
    return {"id": item.id, "question": item.question, "left": first, "right": second, **text}


def _halves(count: int, rng: random.Random) -> list[bool]:
    """Heads and tails as often as each other, give or take one, in any order."""
    first = rng.random() < 0.5
    sides = [(place % 2 == 0) == first for place in range(count)]
    rng.shuffle(sides)
    return sides


def _ids(letter: str, count: int, rng: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{letter}{rng.getrandbits(32):08x}"] = None
    return list(found)
