"""A prior set in the making: its images gather in a folder that outlives this process, and are published at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from cdtool import __version__
from cdtool import files as publish
from cdtool.errors import NameTakenError, ResourceError
from cdtool.priors.sets import (
    JOURNAL,
    Manifest,
    PriorImage,
    PriorSet,
    being_made,
    check_free,
    discard,
    entries,
    find,
    is_free,
    journal,
    sets_dir,
    sweep_folders,
)


@contextlib.contextmanager
def stage(name: str, recipe: Mapping[str, Any]) -> Iterator[Staging]:
    """A set to be made by `recipe`; if one was stopped, its images are there again (`Staging.kept`).

    What is not published by the end waits for the next one. Raises InputError for an impossible name, ResourceError.
    """
    check_free(name, force=True)
    sign = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]
    with _disk(sets_dir()):
        sets_dir().mkdir(parents=True, exist_ok=True)
        publish.sweep(sets_dir())
        staged = Staging(name, _claimed(name, sign))
    try:
        yield staged
    finally:
        if staged.folder.name.startswith("."):
            _release(staged.folder, name, sign)


class Staging:
    """A set being made, in a folder of its own that outlives this process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self._twins = _files_of_sets()

    def put(self, content: bytes, suffix: str, **about: Any) -> PriorImage:
        """Take an image in, sharing the file of a set that holds the same one. Raises ResourceError."""
        digest = hashlib.sha256(content).hexdigest()
        image = PriorImage(digest, f"{digest}.{suffix}", **about)
        with _disk(self.folder):
            target = self.folder / image.file
            if not _holds(target, content):
                self._write(target, content)
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(image)) + "\n")
        return image

    def _write(self, target: Path, content: bytes) -> None:
        target.unlink(missing_ok=True)
        twin = self._twins.get(target.name)
        if twin is not None and _holds(twin, content):
            with contextlib.suppress(OSError):  # no links here: a copy does
                os.link(twin, target)
                return
        target.write_bytes(content)

    def kept(self) -> list[PriorImage]:
        """The images that are there already and whole: of a set of this name that was stopped."""
        return [image for image in journal(self.folder) if _is_whole(self.folder, image)]

    def publish(self, manifest: Manifest, *, force: bool = False) -> PriorSet:
        """Give the set its name; without `force` nothing is replaced.

        Raises NameTakenError where the name was taken meanwhile and it is NAME-2, NAME-3... now; ResourceError.
        """
        final = sets_dir() / f"{self.name}.{uuid.uuid4().hex[:8]}"
        created = datetime.now(UTC).isoformat(timespec="seconds")
        whole = replace(manifest, name=self.name, folder=final.name, created=created, version=__version__)
        replaced = [entry.folder for entry in entries() if entry.name == self.name and entry.manifest and force]
        with _disk(final.parent):
            self._tidy({image.file for image in manifest.images})
            before, self.folder = self.folder, self.folder.replace(final)
            try:
                name = _publish_manifest(whole, force)
            except BaseException:  # whatever stopped it, the images go back to where the same command goes on
                self.folder = final.replace(before)
                _write_journal(before, manifest.images)
                raise
        for folder in replaced:
            discard(folder)
        _drop_stopped(self.name)
        sweep_folders()
        if name != self.name:
            raise NameTakenError(
                f'The name "{self.name}" was taken meanwhile, so the prior set is "{name}".',
                f"See: cdtool prior show {name}",
            )
        return find(name)

    def _tidy(self, files: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in files:
                path.unlink()


def _publish_manifest(manifest: Manifest, force: bool) -> str:
    folder = sets_dir()
    with publish.workplace(folder) as staged:
        file = staged / "set.json"
        file.write_text(json.dumps(asdict(manifest), ensure_ascii=False, indent=1), encoding="utf-8")
        publish.flush(file)
        if force:
            file.replace(folder / f"{manifest.name}.json")
            publish.flush(folder)
            return manifest.name
        candidates = chain([manifest.name], (f"{manifest.name}-{number}" for number in count(2)))
        return next(name for name in candidates if publish.publish(file, folder / f"{name}.json"))


def _claimed(name: str, sign: str) -> Path:
    """The folder of a set of this name and recipe that was stopped, or a new one; this process's own from now on."""
    own = sets_dir() / f".{name}.{sign}.{publish.owner()}.unfinished"
    for path, match in being_made():
        if match["name"] == name and match["id"] == sign and is_free(match):
            with contextlib.suppress(OSError):  # another process was quicker
                return path.rename(own)
    own = own if not own.exists() else own.with_name(f".{name}.{uuid.uuid4().hex[:8]}.{publish.owner()}.unfinished")
    own.mkdir()
    return own


def _release(folder: Path, name: str, sign: str) -> None:
    """Leave an unfinished set to whoever makes it next; nothing is left of an empty one."""
    if not journal(folder):
        discard(folder)
        return
    with contextlib.suppress(OSError):
        folder.rename(sets_dir() / f".{name}.{sign}.unfinished")
        return
    discard(folder)  # another process has left its own


def _drop_stopped(name: str) -> None:
    """Remove what was left of a name's unfinished sets."""
    for path, match in being_made():
        if match["name"] == name and is_free(match):
            discard(path)


def _files_of_sets() -> dict[str, Path]:
    folders = [entry.folder for entry in entries() if entry.manifest]
    return {path.name: path for folder in folders if folder.is_dir() for path in folder.iterdir()}


def _write_journal(folder: Path, images: Sequence[PriorImage]) -> None:
    lines = [json.dumps(asdict(image)) + "\n" for image in images]
    with contextlib.suppress(OSError):
        (folder / JOURNAL).write_text("".join(lines), encoding="utf-8")


def _is_whole(folder: Path, image: PriorImage) -> bool:
    try:
        return hashlib.sha256((folder / image.file).read_bytes()).hexdigest() == image.sha256
    except OSError:
        return False


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Raises ResourceError for what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"The prior set could not be written to {folder}: {error.strerror or error}.", "Free some disk."
        ) from None
