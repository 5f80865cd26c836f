"""Removed concepts, kept for some days, so that a removal can be undone."""

from __future__ import annotations

import errno
import shutil
import time
import uuid
from pathlib import Path

from cdtool import settings
from cdtool.errors import NameTakenError, NotFoundError, nearest
from cdtool.files import publish, write_error
from cdtool.store import registry

DAYS = 7
_FULL = (errno.ENOSPC, errno.EDQUOT)


def trash_dir() -> Path:
    """The folder of removed concepts: one folder NAME.ID for each, with its file and its notes."""
    return settings.data_dir() / "trash"


def put(name: str) -> bool:
    """Move a concept, whole or damaged, and its notes into the trash.

    False where the disk is too full for even that, so it was deleted. Raises NotFoundError, ResourceError.
    """
    prune()
    file, notes = registry.files_of(name)
    entry = trash_dir() / f"{name}.{uuid.uuid4().hex[:8]}"
    try:
        entry.mkdir(parents=True)
        file.replace(entry / file.name)
        if notes.exists():
            notes.replace(entry / notes.name)
    except FileNotFoundError:  # another process removed it meanwhile
        _delete(entry)
        raise NotFoundError(f'The concept "{name}" was removed or renamed meanwhile.', "See: cdtool list") from None
    except OSError as error:
        if error.errno not in _FULL:
            raise write_error(entry, error) from None
        registry.remove(name)
        return False
    return True


def undo(name: str) -> None:
    """Bring back the concept `name` that was removed last.

    Raises NotFoundError where none is kept, NameTakenError where the name is in use again.
    """
    kept = [entry for entry in _entries() if _name(entry) == name and (entry / f"{name}{registry.SUFFIX}").exists()]
    if not kept:
        known = sorted({_name(entry) for entry in _entries()})
        hint = nearest(name, known) or (f"Kept are: {', '.join(known[:20])}." if known else "See: cdtool list")
        raise NotFoundError(f'No removed concept "{name}" is kept; they are kept for {DAYS} days.', hint)
    entry, (file, notes) = kept[-1], registry.paths_of(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not publish(entry / file.name, file):
        raise NameTakenError(f'There is a concept "{name}" again.', f"Rename it first: cdtool rename {name} NEW-NAME")
    if (entry / notes.name).exists():
        (entry / notes.name).replace(notes)
    _delete(entry)


def empty(name: str) -> None:
    """Delete what the trash holds under a name."""
    for entry in _entries():
        if _name(entry) == name:
            _delete(entry)


def prune() -> None:
    """Delete what was removed more than DAYS ago."""
    oldest = time.time() - DAYS * 86_400
    for entry in _entries():
        if _removed(entry) < oldest:
            _delete(entry)


def _entries() -> list[Path]:
    """The folders in the trash, the oldest removal first."""
    folder = trash_dir()
    found = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []
    return sorted(found, key=_removed)


def _name(entry: Path) -> str:
    return entry.name.rpartition(".")[0]


def _removed(entry: Path) -> float:
    """When something was put into a folder, in seconds of the epoch; a folder that is gone was never."""
    try:
        return entry.stat().st_mtime_ns / 1e9
    except OSError:
        return 0.0


def _delete(entry: Path) -> None:
    shutil.rmtree(entry, ignore_errors=True)
