"""Prior sets as things people own: captioned images of a class under a name; what they are and reading them.

priors/dog.json                       the manifest, which names the folder
priors/dog.1a2b3c4d/<sha256>.webp     its images, each called by its content; sets share equal ones as hard links
priors/.dog.1a2b3c4d.HOST.PID.unfinished/   a set being made; without HOST.PID one that was stopped
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdtool import schema, settings
from cdtool.errors import InputError, NameTakenError, NotFoundError, PhotoError, nearest
from cdtool.files import is_abandoned, read_regular

FORMAT = 2
RESERVED = ("auto", "none", "generated", "text", "self")  # what --prior means by itself
JOURNAL = "journal.jsonl"  # of an unfinished set: a line per image
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<id>[0-9a-f]{8})(\.(?P<owner>[\w-]+\.\d+))?\.unfinished")
_FOLDER = re.compile(r"[a-z0-9][a-z0-9._-]*\.[0-9a-f]{8}")
_FILE = re.compile(r"[0-9a-zA-Z][\w.-]*")
_RENAMED = {"pictures": "images", "asked": "requested"}  # keys of earlier versions, and what they are called now
_ORPHAN_SECONDS = 60.0  # after which a folder no manifest names belongs to nobody, rather than to a set just coming


@dataclass(frozen=True)
class PriorImage:
    """An image of a set: hash and file, its caption ("" stands for the class's template), and where it came from."""

    sha256: str
    file: str
    caption: str = ""
    cosine: float | None = None  # of a retrieved image's caption with the class
    seed: int | None = None  # of a generated one


@dataclass(frozen=True)
class Manifest:
    """Everything about a set but its pixels."""

    name: str
    noun: str
    source: str  # "retrieved", "generated" or "own"
    origin: Mapping[str, Any]  # corpus, encoder and floor; or base and how it drew; or the folder
    images: tuple[PriorImage, ...] = ()
    side: int = 0  # px; the least short side
    style: bool = False
    requested: bool = True  # the user asked for it; else a training made it on its way
    folder: str = ""
    created: str = ""  # UTC, ISO 8601
    version: str = ""  # of cdtool
    format: int = FORMAT


@dataclass(frozen=True)
class PriorSet:
    """A set on disk; `manifest` is None and `problem` a sentence where it is damaged."""

    name: str
    path: Path  # of the manifest
    manifest: Manifest | None
    bytes: int
    problem: str = ""

    @property
    def folder(self) -> Path:
        """Where its images lie."""
        return self.path.parent / (self.manifest.folder if self.manifest else self.name)


@dataclass(frozen=True)
class Unfinished:
    """A set that was stopped while it was made, and how many images it has."""

    name: str
    images: int


@dataclass(frozen=True)
class Generation:
    """How a base generates images of a class: DDIM with eta 1, as for the paper's baselines."""

    count: int = 200
    steps: int = 50
    guidance: float = 6.0
    seed: int = 0  # of the first image; the next ones count up
    batch: int = 4  # images generated at once

    def recipe(self, prompt: str, fingerprint: str) -> dict[str, Any]:
        """What a generated image depends on besides its seed; `fingerprint` is the base's."""
        how = {"steps": self.steps, "guidance": self.guidance, "scheduler": "ddim", "eta": 1.0}
        return {"prompt": prompt, "fingerprint": fingerprint, **how}


QUICK = Generation(count=100, steps=25)  # at most; where nobody asked for generated images and there are no others


@dataclass(frozen=True)
class PendingSet:
    """A set of images of a class that a base has to generate."""

    name: str
    noun: str
    prompt: str
    style: bool
    how: Generation
    requested: bool = False  # the user asked for it; else a training needs it


# ---------------------------------------------------------------- reading


def sets_dir() -> Path:
    """The folder that holds the prior sets."""
    return settings.data_dir() / "priors"


def names() -> list[str]:
    """The names of all sets, in alphabetical order."""
    return sorted(path.stem for path in sets_dir().glob("*.json") if _NAME.fullmatch(path.stem) and _size(path))


def entries() -> Iterator[PriorSet]:
    """Every set by name; a damaged one has no manifest."""
    for name in names():
        with contextlib.suppress(NotFoundError):  # removed since the names were read
            yield _read(name)


def find(name: str) -> PriorSet:
    """The set called `name`, whole. Raises NotFoundError with the nearest names, InputError for a damaged one."""
    entry = _read(name) if _NAME.fullmatch(name) else None
    if entry is None:
        raise _unknown(name)
    if entry.manifest is None:
        raise InputError(entry.problem, f"Remove it: cdtool prior remove {name}")
    return entry


def content(entry: PriorSet, image: PriorImage) -> bytes:
    """The encoded image. Raises PhotoError where it is missing or is not what it was."""
    try:
        found = (entry.folder / image.file).read_bytes()
    except OSError:
        found = b""
    if hashlib.sha256(found).hexdigest() != image.sha256:
        told = "has changed" if found else "is missing"
        raise PhotoError(
            f'The image {image.file} of the prior set "{entry.name}" {told}.',
            "Make or add the set again with --force: only what is missing or changed is done anew.",
        )
    return found


def unfinished() -> list[Unfinished]:
    """The sets that were stopped while they were made."""
    found = [(match["name"], path) for path, match in being_made() if is_free(match)]
    return sorted((Unfinished(name, len(journal(path))) for name, path in found), key=lambda one: one.name)


def _read(name: str) -> PriorSet:
    path = sets_dir() / f"{name}.json"
    try:
        table = schema.loads(read_regular(path, most=200_000_000))
        if not isinstance(table, dict):
            raise schema.SchemaError("it is no table")
        table = {_RENAMED.get(key, key): value for key, value in table.items()}
        manifest = schema.build(Manifest, table | {"name": name})
        _check(name, manifest)
    except FileNotFoundError:
        raise _unknown(name) from None
    except (OSError, schema.SchemaError) as error:
        return PriorSet(name, path, None, 0, f'The prior set "{name}" is damaged ({error}).')
    files = {image.file for image in manifest.images}
    return PriorSet(name, path, manifest, sum(_size(path.parent / manifest.folder / file) for file in files))


def _check(name: str, manifest: Manifest) -> None:
    """Raises SchemaError for a newer format, and for folders and files that no set's making named."""
    if manifest.format > FORMAT:
        raise schema.SchemaError(f"it has format {manifest.format}, newer than this cdtool reads")
    made_for = manifest.folder[:-9]  # without .1a2b3c4d
    if not _FOLDER.fullmatch(manifest.folder) or not re.fullmatch(rf"{re.escape(made_for)}(-[0-9]+)?", name):
        raise schema.SchemaError("its folder is none of a set's own")
    if not manifest.images or not all(_FILE.fullmatch(image.file) for image in manifest.images):
        raise schema.SchemaError("its images are none of a set's own")


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f'There is no prior set "{name}".', nearest(name, names()) or "See: cdtool prior list")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# ---------------------------------------------------------------- names and folders


def check_free(name: str, *, force: bool = False) -> None:
    """Raises InputError for an impossible name, NameTakenError for one in use without `force`."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        why = "has a meaning of its own" if name in RESERVED else 'is not of lower-case letters, digits, ".", "_", "-"'
        raise InputError(f'"{name}" cannot be the name of a prior set: it {why}.', "Give another: --name NAME")
    if not force and name in names():
        raise NameTakenError(
            f'There is a prior set "{name}" already.', "Choose another --name, or make it anew with --force."
        )


def remove(name: str) -> None:
    """Delete a set, whole, damaged or unfinished. Raises NotFoundError."""
    half = [path for path, match in being_made() if match["name"] == name and is_free(match)]
    if name not in names() and not half:
        raise _unknown(name)
    found = [entry for entry in entries() if entry.name == name and entry.manifest]
    (sets_dir() / f"{name}.json").unlink(missing_ok=True)
    for folder in [*half, *(entry.folder for entry in found)]:
        discard(folder)
    sweep_folders()


def discard(folder: Path) -> None:
    """Delete a folder of images: one that the making of a set named, directly in `sets_dir`, and of no other set.

    Anything else stays, whatever a manifest says.
    """
    own = _FOLDER.fullmatch(folder.name) or _UNFINISHED.fullmatch(folder.name)
    if own and folder.parent == sets_dir() and not folder.is_symlink() and folder.name not in _folders_in_use():
        shutil.rmtree(folder, ignore_errors=True)


def _folders_in_use() -> set[str]:
    return {entry.manifest.folder for entry in entries() if entry.manifest}


def sweep_folders() -> None:
    """Remove the folders whose set was replaced or removed by a process that died over it."""
    damaged = {entry.name for entry in entries() if not entry.manifest}  # whose images may still be wanted
    for path in sets_dir().iterdir() if sets_dir().is_dir() else ():
        ours = path.is_dir() and _FOLDER.fullmatch(path.name) and path.name[:-9] not in damaged
        if ours and _age(path) > _ORPHAN_SECONDS:
            discard(path)


def _age(path: Path) -> float:
    """Seconds since something was put into a folder or taken out; 0 for one that is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def being_made() -> list[tuple[Path, re.Match[str]]]:
    """The folders of unfinished sets, with name, id and owner (None of one that was stopped)."""
    found = [(path, _UNFINISHED.fullmatch(path.name)) for path in sets_dir().glob(".*.unfinished")]
    return [(path, match) for path, match in found if match]


def is_free(match: re.Match[str]) -> bool:
    """Whether nobody is at work on an unfinished set."""
    return match["owner"] is None or is_abandoned(match["owner"])


def journal(folder: Path) -> list[PriorImage]:
    """The images of an unfinished set as they were taken in."""
    try:
        lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # the last line of a killed process
            found.append(schema.build(PriorImage, schema.loads(line)))
    return found
