"""Pictures and captions nothing was trained on, of a class or of none, and the nouns of neighbouring classes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdtool.errors import InputError, NotFoundError, PhotoError
from cdtool.images import corpora, photos, pictures
from cdtool.images.corpora import Member
from cdtool.priors.captions import names
from cdtool.sources import read_toml

if TYPE_CHECKING:
    from PIL import Image

_DATA = Path(__file__).parent.parent / "assets"


def of_class(given: Path | None, base_folder: Path, noun: str, fewest: int) -> tuple[Member, ...]:
    """Pictures of a class: those of the corpus whose captions name it, or all of a folder without captions.

    `given` is the user's; else it is the base's own validation corpus. Raises NotFoundError where there is neither,
    InputError for fewer than `fewest`.
    """
    path = given or _own(base_folder)
    if path is None:
        raise NotFoundError(
            f'KID needs pictures of the class "{noun}" that nothing was trained on; {base_folder.name} brings none.',
            "Name their folder, or a captioned corpus: --kid DIR",
        )
    if path.is_dir() and not _has_captions(path):
        found = tuple(Member("", photo.path) for photo in photos.find([path])[0])
    else:
        found = tuple(_distinct(member for member in corpora.read(path) if names(member.caption, noun)))
    if len(found) < fewest:
        raise InputError(
            f'{path} has {len(found)} pictures of the class "{noun}", and KID needs {fewest}.', "Name more: --kid DIR"
        )
    return found


def unrelated(given: Path | None, base_folder: Path, nouns: Sequence[str]) -> tuple[Member, ...]:
    """The pictures of a corpus whose captions name none of these nouns; empty where there is no corpus."""
    path = given or _own(base_folder)
    members = corpora.read(path) if path else []
    return tuple(_distinct(member for member in members if not any(names(member.caption, noun) for noun in nouns)))


def unrelated_captions(base_folder: Path, nouns: Sequence[str], count: int, given: Path | None = None) -> list[str]:
    """So many different captions, or as many as there are, evenly chosen from that corpus or from the shipped ones."""
    found = [member.caption for member in unrelated(given, base_folder, nouns)]
    if not found:
        lines = (_DATA / "captions.txt").read_text(encoding="utf-8").splitlines()
        found = [line.strip() for line in lines if line.strip() and not any(names(line, noun) for noun in nouns)]
    return corpora.evenly(list(dict.fromkeys(found)), count)


def images(members: Sequence[Member]) -> Iterator[Image.Image]:
    """The pictures one after the other as RGB, without those that cannot be read."""
    for member in members:
        try:
            yield pictures.decode(io.BytesIO(corpora.content(member)))[0]
        except (PhotoError, OSError):
            continue  # how many there were is told with the score


def _own(base_folder: Path) -> Path | None:
    named = read_toml(base_folder / "cdtool.toml").get("eval", {}).get("validation")
    return base_folder / str(named) if named else None


def _has_captions(folder: Path) -> bool:
    try:
        return bool(corpora.read(folder))
    except InputError:
        return False


def _distinct(members: Iterator[Member]) -> Iterator[Member]:
    """Each picture once, with the first of its captions."""
    seen = set()
    for member in members:
        if (place := (member.path, member.offset)) not in seen:
            seen.add(place)
            yield member
