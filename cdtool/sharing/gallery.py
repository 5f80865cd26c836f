"""All concepts of this machine and their samples on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import NotFoundError
from cdtool.reports import html
from cdtool.sharing import pictures
from cdtool.store import registry, subject

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.sharing.pictures import Picture
    from cdtool.store.registry import Concept

SHOWN = 8  # pictures of a concept
_SIDE = 384  # px


@dataclass(frozen=True)
class Entry:
    """A concept on the page, or several joined: what it is, how to ask for it, and its pictures."""

    name: str
    words: str
    facts: tuple[str, ...]
    scores: dict[str, float]
    pictures: tuple[tuple[Picture, Image.Image], ...]


def gallery(
    path: str | Path,
    concepts: Sequence[str | Path | Concept] = (),
    *,
    images: Sequence[str | Path] | None = None,
) -> Path:
    """Write a page of concepts with their words, scores and samples; no photos are on it.

    Args:
        path: the page, which ends in .html; an older one is replaced.
        concepts: which concepts; all of this machine where none is given, with what was sampled of several together.
        images: folders or files that `cdtool sample` wrote; every folder in `samples` unless given.

    Returns the path. Raises UsageError for another ending, NotFoundError for an unknown concept, for no concept at all
    and for a place of images that does not exist.
    """
    page = Path(path)
    html.check(page, "-o")
    chosen = [subject.load(subject.text_of(one)) for one in concepts] or [
        one for one in registry.concepts() if one.manifest
    ]
    if not chosen:
        raise NotFoundError("There are no concepts to show.", 'Make one: cdtool train ./photos --token "V* dog"')
    places = [Path(one) for one in images] if images is not None else sorted(
        place for place in Path("samples").glob("*") if place.is_dir())  # fmt: skip
    found = pictures.find(places)
    entries = [_entry(one, found) for one in chosen] + ([] if concepts else _together(found))
    html.save(html.render("gallery.html", entries=entries, side=_SIDE), page)
    return page


def _entry(concept: Concept, found: Sequence[Picture]) -> Entry:
    manifest = concept.manifest
    assert manifest is not None
    scores = registry.note(concept.name).get("scores", {})
    facts = (manifest.method, manifest.base.name, f"{concept.bytes / 1e6:.1f} MB", manifest.created[:10])
    return Entry(
        concept.name,
        ", ".join(pictures.words(manifest)),
        tuple(fact for fact in facts if fact),
        {name: float(value) for name, value in scores.items() if _is_number(value)},
        _shown(concept.name, found),
    )


def _together(found: Sequence[Picture]) -> list[Entry]:
    """What was sampled of several concepts at once."""
    joined = dict.fromkeys(picture.subject for picture in found if "+" in picture.subject)
    return [Entry(name, "", ("joined when sampling",), {}, _shown(name, found)) for name in joined]


def _shown(name: str, found: Sequence[Picture]) -> tuple[tuple[Picture, Image.Image], ...]:
    return tuple((picture, picture.pixels()) for picture in pictures.of(name, found, SHOWN))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
