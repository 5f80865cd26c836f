"""Photos: which files of a folder can be used, and what their captions are."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.errors import NotFoundError, PhotoError
from cdtool.images.pictures import decode, formats
from cdtool.paths import is_dir, is_file
from cdtool.schema import loads, shortened
from cdtool.tokens import Token, article, modifier_tokens, numbered

if TYPE_CHECKING:
    from PIL import Image

SMALLEST = 32  # px of the short side; or a quarter of the resolution, where that is more
CAPTIONS = "captions.jsonl"
HEIC = (".heic", ".heif", ".hif")
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")  # PIL would open their thumbnails
_LITTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Photo:
    """A usable photo: content hash, upright (width, height) in px, the user's caption or "", a note for the plan."""

    path: Path
    sha256: str
    size: tuple[int, int]
    caption: str = ""
    note: str = ""  # what is done to it, e.g. "first of 12 frames"


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be used and one short reason."""

    path: Path
    reason: str


def find(paths: Sequence[Path], *, resolution: int = 0) -> tuple[list[Photo], list[Skipped]]:
    """The usable photos of folders and single files in natural order, and every other file with the reason.

    Hidden files and captions (`photo.txt` beside `photo.jpg`, `captions.jsonl`) are in neither list.
    Raises NotFoundError for a path that is not there, PhotoError for bad captions and where no photo is usable.
    """
    usable: dict[str, Photo] = {}
    skipped: list[Skipped] = []
    for path in {os.path.realpath(file): file for file in _files(paths)}.values():
        found = _examine(path, max(SMALLEST, resolution // 4))
        if isinstance(found, Skipped):
            skipped.append(found)
        elif found.sha256 in usable:
            skipped.append(Skipped(path, f"the same picture as {usable[found.sha256].path.name}"))
        else:
            usable[found.sha256] = found
    if not usable:
        raise PhotoError(_none_usable(paths, skipped), "Give a folder of JPEG, PNG or WebP pictures.")
    captions = _captions([photo.path for photo in usable.values()])
    return [_completed(photo, captions, resolution) for photo in usable.values()], skipped


def read(photo: Photo) -> Image.Image:
    """The photo as upright 8-bit RGB; see `pictures.decode`.

    Raises PhotoError for a file that has changed for the worse since it was found.
    """
    try:
        with photo.path.open("rb") as file:
            return decode(file)[0]
    except (PhotoError, OSError) as error:
        raise PhotoError(f"{photo.path} cannot be read any more ({error}).", "Put the photo back.") from None


def caption_for(token: Token, place: int | None, style: bool, photo: Photo) -> str:
    """A photo's caption: the user's, made to name the token, or the template for its kind.

    `place` (from 0) numbers the modifier token, V1, V2...; None leaves it V*. A user's caption that holds one stands
    as it is; in one that has only the noun the modifier token is put before it; one with neither follows the template.
    """
    words = token.words(None if place is None else place + 1)
    if not photo.caption:
        return template(token, style, words)
    caption = photo.caption if place is None else numbered(photo.caption, place)
    if modifier_tokens(caption):
        return caption
    found = re.search(rf"\b(an? +)?(?<!\w){re.escape(token.noun)}(?!\w)", caption, re.IGNORECASE)
    if found is None:
        return f"{template(token, style, words)}, {caption}"
    if not token.modifier:
        return caption
    named = article(words, like=found[1]) if found[1] else words
    return caption[: found.start()] + named + caption[found.end() :]


def template(token: Token, style: bool, words: str | None = None) -> str:
    """The caption of a token's kind, with the plain noun unless `words` are given: "photo of a dog"."""
    words = token.noun if words is None else words
    return f"painting in the style of {words}" if style else f"photo of {article(words)}"


def _none_usable(paths: Sequence[Path], skipped: Sequence[Skipped]) -> str:
    places = ", ".join(str(path) for path in paths)
    reasons = "; ".join(f"{item.path.name}: {item.reason}" for item in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"There is no usable photo in {places}" + (f" ({reasons}{more})." if skipped else ".")


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Every file that is neither hidden nor a caption."""
    for path in paths:
        if is_dir(path):
            files = [file for file in path.iterdir() if not file.name.startswith(".")]
            photographed = {file.stem for file in files if file.suffix.lower() != ".txt"}
            files = [file for file in files if not (file.suffix.lower() == ".txt" and file.stem in photographed)]
        elif os.path.lexists(path):
            files = [] if _is_caption(path) else [path]
        else:
            raise NotFoundError(f"There is no photo or folder {shortened(str(path))}.", "Check the path.")
        files = [file for file in files if file.name != CAPTIONS and file.name.lower() not in _LITTER]
        yield from sorted(files, key=lambda file: _natural(file.name))


def _is_caption(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and any(
        other.stem == path.stem and other.suffix.lower() != ".txt" for other in path.absolute().parent.iterdir()
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _examine(path: Path, smallest: int) -> Photo | Skipped:
    """A photo read to its last byte, or why it cannot be used."""
    reason = _reason_unopened(path)
    if reason:
        return Skipped(path, reason)
    try:
        with path.open("rb") as file:
            image, note = decode(file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except PhotoError as error:
        return Skipped(path, str(error))
    except PermissionError:
        return Skipped(path, "may not be read")
    if min(image.size) < smallest:
        return Skipped(path, f"too small: {image.width}x{image.height} px, at least {smallest} are needed")
    return Photo(path, digest, image.size, note=note)


def _reason_unopened(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir():
        return "a folder inside the folder; give it by itself"
    if not path.is_file():
        return "not a file"
    if path.stat().st_size == 0:
        return "empty"
    if suffix in RAW:
        return "a camera's raw file; export it as JPEG or PNG"
    if suffix in HEIC and "HEIF" not in formats():
        return "HEIC needs a plugin: pip install pillow-heif"
    return "a caption without its photo" if suffix == ".txt" else ""


def _completed(photo: Photo, captions: dict[Path, str], resolution: int) -> Photo:
    scaled = "smaller than the resolution, scaled up" if min(photo.size) < resolution else ""
    note = ", ".join(filter(None, (photo.note, scaled)))
    return replace(photo, caption=captions.get(photo.path, ""), note=note)


def _captions(paths: Sequence[Path]) -> dict[Path, str]:
    """The users' captions of photos; a photo's own .txt wins over captions.jsonl."""
    captions = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        captions.update(_caption_table(folder))
    captions.update({path: read_caption(text) for path in paths if (text := path.with_suffix(".txt")).is_file()})
    return captions


def read_caption(path: Path) -> str:
    """A caption file as one line. Raises PhotoError where it is empty or not text."""
    text = " ".join(_text(path).split())
    if not text:
        raise PhotoError(f"The caption {path} is empty.", "Write the caption in it, or delete it.")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError):
        raise PhotoError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from None


def _caption_table(folder: Path) -> dict[Path, str]:
    path = folder / CAPTIONS
    table: dict[Path, str] = {}
    for number, line in enumerate(_text(path).split("\n") if path.is_file() else (), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, text = _caption_line(where, line)
        if folder / name in table:
            raise PhotoError(f"{where}: {name} has a caption already.", "Keep one of them.")
        if not is_file(folder / name):
            raise PhotoError(f"{where}: there is no file {name}.", "Mend the name or drop the line.")
        table[folder / name] = text
    return table


def _caption_line(where: str, line: str) -> tuple[str, str]:
    example = 'Write it like {"file_name": "1.jpg", "text": "a V* dog on the beach"}.'
    try:
        entry: Any = loads(line)
    except ValueError:
        raise PhotoError(f"{where} is not JSON.", example) from None
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file_name", "text")):
        raise PhotoError(f'{where} needs "file_name" and "text".', example)
    text = " ".join(entry["text"].split())
    if not text:
        raise PhotoError(f"{where} has an empty caption.", example)
    return entry["file_name"], text
