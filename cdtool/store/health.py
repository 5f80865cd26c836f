"""The health of the registry: every file of the concepts checked, and what to do about one that is not whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdtool import schema
from cdtool.errors import ConceptError
from cdtool.files import read_regular
from cdtool.store import concept, registry

_OLD = 3600.0  # seconds after which a temporary file belongs to nobody


@dataclass(frozen=True)
class Finding:
    """A file that was checked; `problem` is "" where nothing is wrong, else `advice` says what to do."""

    path: Path
    problem: str = ""
    advice: str = ""


def check() -> Iterator[Finding]:
    """A finding for every file in the folder of concepts, numbers and all. Nothing is changed."""
    folder = registry.concepts_dir()
    names = set(registry.names())
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.removesuffix(path.suffix)
        if path.name == ".lock":
            continue
        if path.suffix == registry.SUFFIX and name in names:
            yield _concept(path, name)
        elif path.suffix == ".json":
            yield _sidecar(path, named=name in names)
        elif path.name.startswith("."):
            yield _temporary(path)
        else:
            yield Finding(path, "It is no concept's file.", "Move it elsewhere, or: cdtool import")


def _concept(path: Path, name: str) -> Finding:
    try:
        concept.read_header(path)
        concept.read_tensors(path)
    except ConceptError as error:
        return Finding(path, str(error).removeprefix(f"{path} "), f"cdtool remove {name}, and copy or train it again")
    except FileNotFoundError:  # removed or renamed meanwhile
        return Finding(path)
    return Finding(path)


def _sidecar(path: Path, *, named: bool) -> Finding:
    if not named:
        return Finding(path, "Its concept is gone.", "Delete it.")
    try:
        if not isinstance(schema.loads(read_regular(path)), dict):
            raise schema.SchemaError("it is no table")
    except (OSError, schema.SchemaError) as error:
        return Finding(path, f"It cannot be read: {error}.", "Delete it; scores and the photos' place are lost.")
    return Finding(path)


def _temporary(path: Path) -> Finding:
    try:
        old = time.time() - path.lstat().st_mtime > _OLD
    except OSError:
        old = False
    return Finding(path, "A process that was killed left it.", "The next save removes it.") if old else Finding(path)
