"""Class images: which captioned images of a concept's class a training uses to keep the base from forgetting it."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdtool.errors import BaseError, InputError, NotFoundError, PhotoError, nearest
from cdtool.files import is_dir, user_path
from cdtool.images import corpora, photos
from cdtool.images.pictures import decode
from cdtool.models import encoders, pipelines
from cdtool.priors import retrieval, sets
from cdtool.priors.sets import QUICK, Generation, PendingSet
from cdtool.settings import read_toml
from cdtool.store import bases, families, registry
from cdtool.tokens import counted

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.images.corpora import Member
    from cdtool.models.encoders import Encoder
    from cdtool.priors.sets import PriorImage, PriorSet
    from cdtool.tokens import Token

LEAST = 50  # images taken from a base's corpus even where fewer captions reach the floor
# Ways to keep the class that need no class images, and what is said of each.
WITHOUT_IMAGES = {
    "none": "no class images",
    "text": "no class images; the keys and values of regularization captions are kept",
    "self": "no class images; what the base predicts for class prompts is kept",
}
SOURCES = ("retrieved", "own", "generated")  # of several fitting sets the first of these: real images forget less


@dataclass(frozen=True)
class ClassImage:
    """A class image: its caption, how to open it as RGB, and the hash of its file."""

    caption: str
    load: Callable[[], Image.Image]
    sha256: str = ""


@dataclass(frozen=True)
class ClassImages:
    """The class images of one concept, one sentence on what they are, a warning or "", and what is to be drawn."""

    images: tuple[ClassImage, ...] = ()
    summary: str = "no class images"
    warning: str = ""
    pending: PendingSet | None = None

    @property
    def count(self) -> int:
        """How many images it has, or will have when they are drawn."""
        return self.pending.how.count if self.pending else len(self.images)


def gather(
    wanted: str,
    token: Token,
    *,
    base_folder: Path,
    style: bool = False,
    count: int = 200,
    encoder: Encoder | None = None,
) -> ClassImages:
    """The prior set of a token, `count` images at most; `wanted` as in TrainSettings.

    `auto` is a fitting set of the user's, else the images of the base's corpus whose captions are nearest to the
    class in the encoder's space (the base's own unless given), else images drawn by the base: `pending` if they
    are not there yet. Raises NotFoundError where there is no such set, BaseError for a damaged corpus, PhotoError
    for a folder without usable images, InputError for a damaged set.
    """
    if wanted in WITHOUT_IMAGES:
        return ClassImages((), WITHOUT_IMAGES[wanted])
    if wanted not in ("auto", "generated"):
        return _named(wanted, token, style, count)
    if wanted == "auto" and (fitting := _fitting(token, style, base_folder)):
        return from_set(fitting[0], token, style=style, count=count)
    offered = _offered(base_folder)
    if wanted == "generated" or not offered:
        return _drawn(wanted, token, style, base_folder, count)
    spec = encoders.encoder_for(base_folder)
    floor = float(offered.get("floor", spec.floor))
    return from_corpus(
        base_folder / str(offered["corpus"]), photos.template(token, style), floor=floor, count=count,
        encoder=encoder or encoders.lazy(spec),
    )  # fmt: skip


def corpus_of(base_folder: Path) -> Path:
    """The corpus a base brings along. Raises NotFoundError."""
    offered = _offered(base_folder)
    if not offered:
        raise NotFoundError(f"The base {base_folder} brings no corpus along.", "Give --from a corpus of your own.")
    return base_folder / str(offered["corpus"])


def _offered(base_folder: Path) -> dict[str, Any]:
    """The corpus a base brings along: its name and floor; {} without one."""
    table: dict[str, Any] = read_toml(base_folder / "cdtool.toml").get("prior", {})
    return table if "corpus" in table else {}


# ---------------------------------------------------------------- sets


def _named(wanted: str, token: Token, style: bool, count: int) -> ClassImages:
    """A set by its name, else a folder."""
    folder = user_path(wanted)
    if wanted in sets.names():
        return from_set(sets.find(wanted), token, style=style, count=count)
    if not is_dir(folder):
        raise NotFoundError(
            f'There is no prior set "{wanted}", nor a folder of that name.',
            nearest(wanted, [*sets.names(), *sets.RESERVED])
            or "Give --prior auto, generated, none, a set of cdtool prior list, or a folder of images.",
        )
    return from_folder(folder, token, style=style, count=count)


def from_set(entry: PriorSet, token: Token, *, style: bool = False, count: int = 200) -> ClassImages:
    """The first `count` images of a set (of one's own an even choice), with the template where it has no captions."""
    manifest = entry.manifest
    assert manifest is not None
    chosen: Sequence[PriorImage] = manifest.images[:count]
    if manifest.source == "own":
        chosen = corpora.evenly(manifest.images, count)
    template = photos.template(token, style)
    images = tuple(
        ClassImage(image.caption or template, functools.partial(open_picture, entry, image), image.sha256)
        for image in chosen
    )
    return ClassImages(images, f'{counted(len(images), "class image")} of the set "{entry.name}" ({manifest.source})')


def open_picture(entry: PriorSet, image: PriorImage) -> Image.Image:
    """An image of a set as upright RGB. Raises PhotoError where it is missing or has changed."""
    return decode(io.BytesIO(sets.content(entry, image)))[0]


def _fitting(token: Token, style: bool, base_folder: Path) -> list[PriorSet]:
    """The sets the user made of a token's class that suit a base, the best first.

    Large enough for its resolution, by the rule for photos; drawn ones only if this base drew them.
    """
    least = max(photos.SMALLEST, bases.describe(base_folder).resolution // 4)
    own = functools.cache(functools.partial(fingerprint, base_folder))
    found = []
    for entry in sets.entries():
        manifest = entry.manifest
        if manifest is None or not manifest.requested or not manifest.images or manifest.side < least:
            continue
        same = manifest.noun.lower() == token.noun.lower() and manifest.style == style
        if same and (manifest.source != "generated" or manifest.origin.get("fingerprint") == own()):
            found.append((SOURCES.index(manifest.source), -len(manifest.images), entry.name, entry))
    return [entry for *_, entry in sorted(found, key=lambda item: item[:3])]


def _drawn(wanted: str, token: Token, style: bool, base_folder: Path, count: int) -> ClassImages:
    """The set of images the base draws of a class, if there is one large enough; else what is to be drawn.

    With auto a few are enough.
    """
    how = Generation(count=count) if wanted == "generated" else replace(QUICK, count=min(count, QUICK.count))
    prompt = photos.template(token, style)
    recipe = how.recipe(prompt, fingerprint(base_folder))
    made = [entry for entry in sets.entries() if entry.manifest and entry.manifest.source == "generated"
            and recipe.items() <= entry.manifest.origin.items()]  # fmt: skip
    for entry in made:
        if entry.manifest and len(entry.manifest.images) >= how.count:
            return from_set(entry, token, style=style, count=how.count)
    base = next((one.name for one in bases.installed() if one.folder.samefile(base_folder)), base_folder.name)
    name = _free_name(f"{registry.slug(f'{token.noun} {base}')}-{how.steps}", recipe)
    summary = f'{counted(how.count, "class image")} to be drawn first by the base, {how.steps} steps each: "{prompt}"'
    return ClassImages((), summary, pending=PendingSet(name, token.noun, prompt, style, how))


def _free_name(name: str, recipe: dict[str, Any]) -> str:
    """The name for a set a training has drawn: a smaller one of this recipe is drawn on, any other is left alone."""
    number, candidate = 1, name
    while candidate in sets.names():
        manifest = next((e.manifest for e in sets.entries() if e.name == candidate), None)
        if manifest and not manifest.requested and recipe.items() <= manifest.origin.items():
            break
        number += 1
        candidate = f"{name}-{number}"
    return candidate


@functools.lru_cache(maxsize=4)
def _fingerprint(folder: Path, _changed: int) -> str:
    config = families.read(folder).unet
    return pipelines.fingerprint(pipelines.read_kv(folder, pipelines.text_kv(pipelines.empty_unet(config))))


def fingerprint(base_folder: Path) -> str:
    """The fingerprint of a base that is not loaded."""
    changed = max(path.stat().st_mtime_ns for path in pipelines.weight_files(base_folder / "unet"))
    return _fingerprint(base_folder, changed)


# ---------------------------------------------------------------- folders and corpora


def from_folder(folder: Path, token: Token, *, style: bool = False, count: int = 200) -> ClassImages:
    """Images of a folder with the captions beside them, or the class's template; evenly chosen if above `count`.

    Raises PhotoError where nothing in it is usable.
    """
    found, _ = photos.find([folder])
    chosen = corpora.evenly(found, count)
    class_caption = photos.template(token, style)
    images = [ClassImage(p.caption or class_caption, functools.partial(photos.read, p), p.sha256) for p in chosen]
    own = sum(bool(photo.caption) for photo in chosen)
    captions = f'{own} with captions of their own, the others "{class_caption}"'
    if own in (0, len(chosen)):
        captions = "with captions of their own" if own else f'all as "{class_caption}"'
    return ClassImages(tuple(images), f"{counted(len(images), 'class image')} of {folder}, {captions}")


def from_corpus(path: Path, prompt: str, *, floor: float, count: int, encoder: Encoder) -> ClassImages:
    """The images of a base's corpus whose captions are nearest to `prompt` (cosine of text features in [-1, 1]).

    Those at or above `floor`, `count` at most; where fewer than LEAST are, the nearest LEAST with a warning. Raises
    BaseError for a missing or damaged corpus.
    """
    try:
        members = corpora.read(path)
        likeness = retrieval.cosines([member.caption for member in members], prompt, encoder)
        enough = max(int((likeness >= floor).sum()), LEAST)
        order = np.argsort(-likeness, kind="stable")[:enough]
        different = retrieval.distinct(members, [int(place) for place in order])
        chosen = [(place, digest) for (place, digest, _), _ in zip(different, range(count), strict=False)]
    except (InputError, NotFoundError, OSError) as error:
        raise BaseError(str(error), "Get the base again.") from None
    nearest_ones = likeness[[place for place, _ in chosen]]
    above = int((nearest_ones >= floor).sum())
    images = tuple(
        ClassImage(members[place].caption, functools.partial(open_member, members[place]), digest)
        for place, digest in chosen
    )
    low, high = nearest_ones.min(), nearest_ones.max()
    summary = f'{counted(len(chosen), "class image")} of {path.name}, captions {low:.2f} to {high:.2f} like "{prompt}"'
    return ClassImages(images, summary, "" if above == len(chosen) else _too_far(above, len(chosen), floor, prompt))


def open_member(member: Member) -> Image.Image:
    """An image of a base's corpus as RGB. Raises BaseError for a damaged one."""
    try:
        return decode(io.BytesIO(corpora.content(member)))[0]
    except (PhotoError, OSError) as error:
        raise BaseError(f'"{member.caption}" in the corpus {member.path} is {error}.', "Get the base again.") from None


def _too_far(above: int, used: int, floor: float, prompt: str) -> str:
    told = "no caption is" if above == 0 else "only 1 caption is" if above == 1 else f"only {above} captions are"
    return (
        f'In the corpus {told} as near to "{prompt}" as {floor:.2f}; the nearest {used} images are used all the same.'
    )
