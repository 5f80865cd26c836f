"""Captioned corpora in the forms they come in: folders, COCO captions, webdataset tars; read without unpacking."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from cdtool import schema
from cdtool.errors import InputError, NotFoundError
from cdtool.files import parse_json, read_text

CAPTIONS = "captions.jsonl"
PICTURES = ("webp", "jpg", "jpeg", "png", "avif", "bmp", "gif", "tif", "tiff")
_FORMS = (
    "A corpus is a folder of pictures with captions.jsonl or a .txt beside each, a COCO captions JSON, "
    "an uncompressed tar of such files, or a folder of these tars."
)
T = TypeVar("T")


class Member(NamedTuple):
    """A picture of a corpus with one of its captions: the file it lies in, and where; a size of -1 is all of it."""

    caption: str
    path: Path
    offset: int = 0
    size: int = -1


def read(path: Path, pictures: Path | None = None) -> list[Member]:
    """The captioned pictures of a corpus in its order; one with several captions comes once for each.

    `pictures` is the folder of a COCO file's pictures where it does not lie as COCO lays it. Raises NotFoundError
    for a path that is not there, InputError for a damaged corpus and for one without a captioned picture.
    """
    if not path.exists():
        raise NotFoundError(f"There is no corpus {path}.", _FORMS)
    try:
        found = list(_folder(path) if path.is_dir() else _file(path, pictures))
    except (OSError, tarfile.TarError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The corpus {path} cannot be read ({_said(error)}).", _FORMS) from None
    if not found:
        raise InputError(f"The corpus {path} holds no captioned picture.", _FORMS)
    return found


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items from all over them, in their order; all where there are no more."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def captions(path: Path) -> list[str]:
    """The captions of a file in its order: of a corpus, whether its pictures are there or not, or of lines of text.

    Raises NotFoundError where there is no such file, InputError for one that cannot be read or holds none.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no file of captions {path}.", "Give a text file with one a line, or a corpus.")
    try:
        found = list(filter(None, map(_clean, _captions(path))))
    except (OSError, tarfile.TarError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = "Give UTF-8 text with one a line, or a whole corpus."
        raise InputError(f"The captions {path} cannot be read ({_said(error)}).", told) from None
    if not found:
        raise InputError(f"{path} holds no caption.", "Write one a line, about a thousand of all kinds of things.")
    return found


def _captions(path: Path) -> list[str]:
    kind = path.suffix.lower()
    if kind == ".tar":
        return [member.caption for member in read_tar(path)]
    text = read_text(path)
    if kind == ".json":
        return [line["caption"] for line in schema.loads(text)["annotations"]]
    if kind == ".jsonl":
        return [schema.loads(line)["text"] for line in filter(str.strip, text.split("\n"))]
    return text.splitlines()


def content(member: Member) -> bytes:
    """The encoded picture of a member. Raises OSError."""
    with member.path.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _clean(text: str) -> str:
    return " ".join(text.split())


def _file(path: Path, pictures: Path | None) -> Iterator[Member]:
    if path.suffix.lower() == ".json":
        return _coco(path, pictures)
    if path.suffix.lower() == ".jsonl":
        return _table(path, read_text(path))
    return iter(read_tar(path))


# ---------------------------------------------------------------- folders


def _folder(folder: Path) -> Iterator[Member]:
    """The pictures of a folder and of those below it, in the order of their paths; its tars too."""
    files = sorted(path for path in folder.rglob("*") if not _hidden(path.relative_to(folder)) and path.is_file())
    for path in files:
        kind = path.suffix.lower()
        if kind == ".tar":
            yield from read_tar(path)
        elif path.name == CAPTIONS:
            yield from _table(path, read_text(path))
        elif kind.removeprefix(".") in PICTURES and (caption := _caption_beside(path)):
            yield Member(caption, path)


def _caption_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    return _clean(text.read_text(encoding="utf-8-sig")) if text.is_file() else ""


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _table(path: Path, text: str) -> Iterator[Member]:
    """The lines of a captions.jsonl whose pictures are there."""
    for name, caption in _lines(text):
        if (picture := path.parent / name).is_file():
            yield Member(caption, picture)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in filter(str.strip, text.split("\n")):
        entry = schema.loads(line)
        if caption := _clean(entry["text"]):
            yield str(entry["file_name"]), caption


# ---------------------------------------------------------------- COCO


def _coco(path: Path, pictures: Path | None) -> Iterator[Member]:
    """The captions of a COCO file ("images" with file names, "annotations" with captions) whose pictures are there."""
    table: Any = parse_json(path, most=2_000_000_000)
    names = {image["id"]: str(image["file_name"]) for image in table["images"]}
    folder = pictures or _coco_folder(path, list(names.values()))
    for line in table["annotations"]:
        picture = folder / names.get(line["image_id"], "")
        if (caption := _clean(line["caption"])) and picture.is_file():
            yield Member(caption, picture)


def _coco_folder(path: Path, names: Sequence[str]) -> Path:
    """Where a COCO file's pictures lie: annotations/captions_val2017.json beside val2017/ or images/val2017/."""
    split = path.stem.removeprefix("captions_")
    above = path.absolute().parent.parent
    beside = [path.parent, path.parent / "images", path.parent / split]
    for folder in [*beside, above / split, above / "images" / split, above / "images", above]:
        if any((folder / name).is_file() for name in names[:100]):
            return folder
    raise NotFoundError(f"The pictures of {path} are not beside it.", "Name their folder: --images DIR")


# ---------------------------------------------------------------- tars


def read_tar(path: Path) -> tuple[Member, ...]:
    """The captioned pictures of an uncompressed webdataset tar in its order: NAME.webp with NAME.txt or NAME.json
    ("caption"), or with a line of a captions.jsonl. Raises OSError, TarError and what bad text or JSON raises.
    """
    stat = path.stat()
    return _index(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _index(path: Path, _changed: int, _size: int) -> tuple[Member, ...]:
    pictures: dict[str, tuple[int, int]] = {}
    captions: dict[str, str] = {}
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name, _, suffix = PurePosixPath(member.name).name.partition(".")
            folder = PurePosixPath(member.name).parent
            key, suffix = f"{folder}/{name}", suffix.lower()
            if not member.isfile() or name == "":
                continue
            if suffix in PICTURES:
                pictures.setdefault(key, (member.offset_data, member.size))
            elif member.name.endswith(CAPTIONS):
                lines = _lines(_text(tar, member))
                captions |= {f"{folder}/{PurePosixPath(file_name).stem}": text for file_name, text in lines}
            elif suffix in ("txt", "json"):
                text = _text(tar, member)
                captions[key] = _clean(str(schema.loads(text)["caption"] if suffix == "json" else text))
    return tuple(Member(captions[key], path, *place) for key, place in pictures.items() if captions.get(key))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read().decode("utf-8-sig") if file else ""
