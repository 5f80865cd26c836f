"""Prior pictures: captioned pictures of a concept's class, which keep the base from forgetting it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cdtool import features, photos
from cdtool.errors import BaseError, NotFoundError, PhotoError
from cdtool.pictures import decode
from cdtool.settings import read_toml

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from cdtool.features import Encoder
    from cdtool.tokens import Token

LEAST = 50  # pictures taken from a corpus even where fewer captions reach the floor
PICTURES = ("webp", "jpg", "jpeg", "png")


@dataclass(frozen=True)
class PriorPicture:
    """A prior picture: its caption, and how to open it as RGB."""

    caption: str
    load: Callable[[], Image.Image]


@dataclass(frozen=True)
class PriorSet:
    """The prior pictures of one concept, one sentence on what they are, and a warning or ""."""

    pictures: tuple[PriorPicture, ...] = ()
    summary: str = "no prior pictures"
    warning: str = ""


class Member(NamedTuple):
    """A captioned picture of a corpus: where its bytes lie in the tar."""

    caption: str
    offset: int
    size: int


def gather(
    wanted: str,
    token: Token,
    *,
    base_folder: Path,
    style: bool = False,
    count: int = 200,
    encoder: Encoder | None = None,
) -> PriorSet:
    """The prior set of a token: `wanted` is none, a folder of pictures, or auto (the base's own corpus).

    Of a corpus, the pictures whose captions are nearest to the class in the encoder's space (the base's own unless
    given), `count` at most. Raises NotFoundError where there is no such set, BaseError for a damaged corpus,
    PhotoError for a folder without usable pictures.
    """
    if wanted == "none":
        return PriorSet()
    if wanted != "auto":
        return from_folder(Path(wanted).expanduser(), token, style=style, count=count)
    offered = read_toml(base_folder / "cdtool.toml").get("prior", {})
    if "corpus" not in offered:
        raise NotFoundError(
            "This base has no corpus to take prior pictures from.",
            "Give a folder of pictures of the class, --prior DIR; or train without, --prior none; "
            "or choose a base with a corpus, such as --base mini.",
        )
    spec = features.encoder_for(base_folder)
    floor = float(offered.get("floor", spec.floor))
    return from_corpus(
        base_folder / str(offered["corpus"]), photos.template(token, style), floor=floor, count=count,
        encoder=encoder or features.load(spec),
    )  # fmt: skip


def from_folder(folder: Path, token: Token, *, style: bool = False, count: int = 200) -> PriorSet:
    """Pictures of a folder with the captions beside them, or the class's template; evenly chosen if above `count`.

    Raises NotFoundError where there is no folder, PhotoError where nothing in it is usable.
    """
    if not folder.is_dir():
        raise NotFoundError(
            f'There is no folder of prior pictures "{folder}".', "Give --prior auto, none, or a folder of pictures."
        )
    found, _ = photos.find([folder])
    chosen = [found[at] for at in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]
    class_caption = photos.template(token, style)
    pictures = [PriorPicture(p.caption or class_caption, functools.partial(photos.read, p)) for p in chosen]
    own = sum(bool(photo.caption) for photo in chosen)
    captions = f'{own} with captions of their own, the others "{class_caption}"'
    if own in (0, len(chosen)):
        captions = "with captions of their own" if own else f'all as "{class_caption}"'
    return PriorSet(tuple(pictures), f"{_counted(len(pictures))} of {folder}, {captions}")


def from_corpus(path: Path, prompt: str, *, floor: float, count: int, encoder: Encoder) -> PriorSet:
    """The pictures of a webdataset tar whose captions are nearest to `prompt` (cosine of text features in [-1, 1]).

    Those at or above `floor`, `count` at most; where fewer than LEAST are, the nearest LEAST with a warning. Raises
    BaseError for a missing or damaged tar.
    """
    members = read_index(path)
    likeness = similarities([member.caption for member in members], prompt, encoder)
    enough = max(int((likeness >= floor).sum()), LEAST)
    chosen = list(_distinct(path, members, np.argsort(-likeness, kind="stable")[:enough], count))
    nearest = likeness[chosen]
    above = int((nearest >= floor).sum())
    pictures = tuple(
        PriorPicture(members[at].caption, functools.partial(open_member, path, members[at])) for at in chosen
    )
    summary = (
        f'{_counted(len(chosen))} of {path.name}, captions {nearest.min():.2f} to {nearest.max():.2f} like "{prompt}"'
    )
    return PriorSet(pictures, summary, "" if above == len(chosen) else _too_far(above, len(chosen), floor, prompt))


def similarities(captions: Sequence[str], prompt: str, encoder: Encoder) -> NDArray[np.float32]:
    """Cosine of each caption's text features with the prompt's, [n]; equal captions are encoded once."""
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    found = features.text_features(encoder, [*places, prompt])
    cosines: NDArray[np.float32] = (found[:-1] @ found[-1])[[places[caption] for caption in captions]]
    return cosines


def _distinct(path: Path, members: Sequence[Member], order: NDArray[np.int64], count: int) -> Iterator[int]:
    """The first `count` places in `order` that hold different pictures."""
    seen: set[bytes] = set()
    with path.open("rb") as file:
        for place in order:
            file.seek(members[place].offset)
            digest = hashlib.sha256(file.read(members[place].size)).digest()
            if digest not in seen:
                seen.add(digest)
                yield int(place)
            if len(seen) == count:
                return


def _counted(number: int) -> str:
    return f"{number} prior picture{'' if number == 1 else 's'}"


def _too_far(above: int, used: int, floor: float, prompt: str) -> str:
    told = "no caption is" if above == 0 else "only 1 caption is" if above == 1 else f"only {above} captions are"
    return (
        f'In the corpus {told} as near to "{prompt}" as {floor:.2f}; the nearest {used} pictures are used all the same.'
    )


# ---------------------------------------------------------------- the corpus


def read_index(path: Path) -> list[Member]:
    """The captioned pictures of an uncompressed webdataset tar in its order: NAME.webp with NAME.txt or NAME.json,
    or with a line of one captions.jsonl.

    Raises BaseError where it is missing, damaged or holds none.
    """
    try:
        stat = path.stat()
        found = _index(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, tarfile.TarError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BaseError(f"The corpus {path} cannot be read ({error}).", "Get the base again.") from None
    if not found:
        raise BaseError(f"The corpus {path} holds no captioned picture.", "Get the base again.")
    return list(found)


@functools.lru_cache(maxsize=4)
def _index(path: Path, _changed: int, _size: int) -> tuple[Member, ...]:
    pictures: dict[str, tuple[int, int]] = {}
    captions: dict[str, str] = {}
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name, _, suffix = PurePosixPath(member.name).name.partition(".")
            key, suffix = f"{PurePosixPath(member.name).parent}/{name}", suffix.lower()
            if not member.isfile():
                continue
            if suffix in PICTURES:
                pictures.setdefault(key, (member.offset_data, member.size))
            elif suffix in ("txt", "json"):
                captions[key] = _caption(tar, member, suffix)
            elif member.name.endswith(photos.CAPTIONS):
                captions |= _table(tar, member)
    return tuple(Member(captions[key], *place) for key, place in pictures.items() if captions.get(key))


def _caption(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> str:
    text = _read(tar, member)
    return " ".join(str(json.loads(text)["caption"] if suffix == "json" else text).split())


def _table(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, str]:
    """The captions of a captions.jsonl by the key of their picture."""
    folder = PurePosixPath(member.name).parent
    lines = map(json.loads, filter(str.strip, _read(tar, member).splitlines()))
    return {f"{folder}/{PurePosixPath(line['file_name']).stem}": " ".join(line["text"].split()) for line in lines}


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read().decode("utf-8-sig") if file else ""


def open_member(path: Path, member: Member) -> Image.Image:
    """A picture of a corpus as RGB. Raises BaseError for a damaged one."""
    try:
        with path.open("rb") as file:
            file.seek(member.offset)
            return decode(io.BytesIO(file.read(member.size)))[0]
    except (PhotoError, OSError) as error:
        raise BaseError(f'"{member.caption}" in the corpus {path} is {error}.', "Get the base again.") from None
