"""Where concepts live on this machine: one file each, published whole or not at all, readable without torch."""

from __future__ import annotations

import contextlib
import html
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool import __version__, schema, settings
from cdtool.errors import ConceptError, InputError, NameTakenError, NotFoundError, UsageError, nearest
from cdtool.files import check_writable, flush, locked, publish, read_regular, replacing, sweep, workplace, write_error
from cdtool.paths import is_file, user_path
from cdtool.schema import printable, shortened
from cdtool.store import bases, concept
from cdtool.store.concept import Manifest

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")
_NOTED: dict[str, Any] = {
    "base": str,
    "photos": list,
    "scores": dict,
    "evaluation": dict,
    "seconds": int | float,
}  # of a sidecar
_LEAST = 1_000_000  # bytes free that any work begins with
_LONGEST = 100  # letters of a name; -2, -3... still fit behind it


@dataclass(frozen=True)
class Concept:
    """A concept on disk; `manifest` is None and `problem` a sentence where the file is damaged."""

    name: str
    path: Path
    manifest: Manifest | None
    bytes: int
    problem: str = ""

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        facts = [self.problem] if self.manifest is None else [
            ", ".join(token.words(number if len(self.manifest.tokens) > 1 else None)
                      for number, token in enumerate(self.manifest.tokens, 1)),
            f"{self.manifest.method} on {self.manifest.base.name}", f"{self.bytes / 1e6:.1f} MB",
        ]  # fmt: skip
        return f"<b>{html.escape(self.name)}</b> &middot; {html.escape(' · '.join(facts))}"


def concepts_dir() -> Path:
    """The folder that holds the concepts."""
    return settings.data_dir() / "concepts"


def names() -> list[str]:
    """The names of all concepts, in alphabetical order, without opening a file."""
    files = concepts_dir().glob(f"*{SUFFIX}")
    return sorted(path.name.removesuffix(SUFFIX) for path in files if _NAME.fullmatch(path.stem) and _bytes(path))


def concepts() -> list[Concept]:
    """Every concept on this machine, by name; a damaged one has no manifest."""
    return list(_concepts())


def _concepts() -> Iterator[Concept]:
    for name in names():
        with contextlib.suppress(FileNotFoundError):  # removed or renamed since the names were read
            yield _look(_path(name))


def look(name: str) -> Concept:
    """The concept called `name`, whole or damaged; a path that ends in .safetensors means that file.

    Raises NotFoundError with the nearest names, UsageError for joined names.
    """
    path = user_path(name) if name.endswith(SUFFIX) else _path(name)
    check_single(name)
    if not (_NAME.fullmatch(name) or name.endswith(SUFFIX)) or not is_file(path) or not _bytes(path):
        raise _unknown(name)
    try:
        return _look(path)
    except FileNotFoundError:
        raise _unknown(name) from None


def find(name: str) -> Concept:
    """The concept called `name`, whole; a path that ends in .safetensors means that file.

    Raises NotFoundError with the nearest names, UsageError for joined names, ConceptError for a damaged file.
    """
    found = look(name)
    return found if found.manifest else _read(found.path)  # which says what is wrong


def check_single(name: str) -> None:
    """Raises UsageError for concepts joined in one name, such as "dog+cat" or "dog:0.8"."""
    if re.search(r"[+:]", name) and "/" not in name:
        raise UsageError(
            f'"{name}" can be drawn (sample) and measured (eval); here one concept is meant, as it is stored.',
            "To keep several as one: cdtool merge dog cat -o pair",
        )


def base_of(entry: Concept) -> str:
    """The base to draw a concept on: where this machine has it, else its name.

    Raises ConceptError for a damaged concept.
    """
    if entry.manifest is None:
        raise ConceptError(entry.problem, f"Remove it: cdtool remove {entry.name}")
    return str(note(entry.name).get("base") or entry.manifest.base.name)


def slug(text: str) -> str:
    """A name made of a class noun: "Teddy bear" gives "teddy-bear". Raises InputError where no letter is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST]
    if not name:
        raise InputError(f'No name can be made of "{text}".', "Give the concept one: -o NAME")
    return name


def check_name(name: str) -> None:
    """Raises InputError for a name that is no plain file name or that stands for a base."""
    if not _NAME.fullmatch(name) or name.endswith(SUFFIX) or len(name) > _LONGEST:
        raise InputError(
            f'"{name}" cannot be the name of a concept: use lower-case letters, digits, ".", "_" and "-", '
            f"beginning with a letter or digit, {_LONGEST} at most.",
            _suggestion(name),
        )
    if name in bases.NAMES:
        raise InputError(f'"{name}" is the name of a base.', f"Give the concept another one, such as my-{name}.")


def check_free(name: str, *, force: bool = False) -> None:
    """Check before the work that a concept can be saved as `name`.

    Raises InputError for an impossible name, NameTakenError for one in use without `force`, ResourceError where the
    data directory cannot be written or its disk is full.
    """
    check_name(name)
    check_writable(concepts_dir(), needed=_LEAST)
    if not force and name in names():
        raise NameTakenError(
            f'There is a concept "{name}" already.', f"Choose a name with -o {_free(name)}, or replace it with --force."
        )


def save(manifest: Manifest, tensors: Mapping[str, Tensor], *, force: bool = False) -> Concept:
    """Write a concept and publish it in one step; the name, the time and the version are filled in.

    Without `force` nothing is overwritten: if the name is in use by now, the concept is saved as NAME-2, NAME-3...
    and NameTakenError says so. Raises InputError for an impossible name and for numbers that are not finite,
    ResourceError when the disk is full.
    """
    check_name(manifest.name)
    if name := concept.not_finite(tensors):
        raise InputError(
            f'"{manifest.name}" would hold numbers that are not finite ({name}), so it was not saved.',
            "They are in what it was made from, or too large for fp16.",
        )
    folder = concepts_dir()
    _make(folder)
    sweep(folder)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with workplace(folder) as work:
        concept.write(work / SUFFIX, replace(manifest, created=created, version=__version__), tensors)
        put = _publish_over if force else _publish_near
        name = put(work / SUFFIX, manifest.name)
    _sidecar(name).unlink(missing_ok=True)  # of a concept that had this name before
    if name != manifest.name:
        raise NameTakenError(
            f'The name "{manifest.name}" was taken meanwhile, so the concept is saved as "{name}".',
            f"Rename it: cdtool rename {name} NEW-NAME",
        )
    return _read(_path(name))


def adopt(source: Path, name: str, *, force: bool = False) -> Concept:
    """Publish a copy of a concept file under `name`, byte for byte.

    Raises ConceptError for a file that is no concept, InputError for an impossible name, NameTakenError for one in
    use without `force`, ResourceError when the disk is full.
    """
    check_name(name)
    concept.read_header(source)
    concept.read_tensors(source)
    folder = concepts_dir()
    _make(folder)
    sweep(folder)
    with workplace(folder) as work:
        try:
            shutil.copyfile(source, work / SUFFIX)
            flush(work / SUFFIX)
        except OSError as error:
            raise write_error(_path(name), error) from None
        if force:
            _publish_over(work / SUFFIX, name)
        elif not publish(work / SUFFIX, _path(name)):
            raise NameTakenError(f'There is a concept "{name}" already.', "Replace it with --force.")
    _sidecar(name).unlink(missing_ok=True)
    return _read(_path(name))


def remove(name: str) -> None:
    """Delete a concept, whole or damaged, and its sidecar, for good (see `trash`). Raises NotFoundError."""
    for path in files_of(name):
        path.unlink(missing_ok=True)


def files_of(name: str) -> tuple[Path, Path]:
    """The file of a concept, whole or damaged, and its sidecar, which need not be there. Raises NotFoundError."""
    _existing(name)
    return paths_of(name)


def paths_of(name: str) -> tuple[Path, Path]:
    """Where the file of a concept of this name and its sidecar lie or would lie."""
    return _path(name), _sidecar(name)


def dependents(name: str) -> list[str]:
    """The concepts that were made from this one (they hold their own copy of it and go on working)."""
    manifests = [entry.manifest for entry in concepts() if entry.manifest]
    return [found.name for found in manifests if any(parent.get("name") == name for parent in found.parents)]


def rename(old: str, new: str, *, force: bool = False) -> None:
    """Give a concept another name; its sidecar follows. At no moment is it under neither name.

    Raises NotFoundError, InputError for an impossible name, NameTakenError for one in use without `force`.
    """
    check_name(new)
    path = _existing(old)
    if old == new:
        return
    try:
        if force:
            path.replace(_path(new))
            flush(concepts_dir())
        elif not publish(path, _path(new)):
            raise NameTakenError(f'There is a concept "{new}" already.', "Replace it with --force.")
    except FileNotFoundError:
        raise NotFoundError(f'The concept "{old}" was removed or renamed meanwhile.', "See: cdtool list") from None
    try:
        _sidecar(old).replace(_sidecar(new))
    except FileNotFoundError:
        _sidecar(new).unlink(missing_ok=True)


def note(name: str) -> dict[str, Any]:
    """What this machine knows about a concept (scores, where its photos lie); {} where it knows nothing.

    What is not of its type is left out, whoever wrote it.
    """
    try:
        table = schema.plain(schema.loads(read_regular(_sidecar(name))), "its notes")
    except (OSError, schema.SchemaError):
        return {}
    if not isinstance(table, dict):
        return {}
    found: dict[str, Any] = {
        entry: value for entry, value in table.items() if isinstance(value, _NOTED.get(entry, object))
    }
    if "photos" in found:
        found["photos"] = [path for path in found["photos"] if isinstance(path, str)]
    return found


def add_note(name: str, **values: Any) -> None:
    """Add to what this machine knows about a concept. Raises NotFoundError."""
    _existing(name)
    with locked(concepts_dir()), replacing(_sidecar(name)) as temporary:
        temporary.write_text(json.dumps(note(name) | values, indent=1, sort_keys=True), encoding="utf-8")


def _path(name: str) -> Path:
    return concepts_dir() / f"{name}{SUFFIX}"


def _sidecar(name: str) -> Path:
    return concepts_dir() / f"{name}.json"


def _existing(name: str) -> Path:
    check_single(name)
    if name not in names():
        raise _unknown(name)
    return _path(name)


def _unknown(name: str) -> NotFoundError:
    told = shortened(printable(name))
    if name.endswith(SUFFIX):
        return NotFoundError(f"There is no file {told}.", "Check the path; concepts by name: cdtool list")
    if len(name.split()) > 1:
        return NotFoundError(f'"{told}" is no concept.', f'A prompt comes after it: cdtool sample NAME "{told}"')
    return NotFoundError(f'There is no concept "{told}".', nearest(told, names()) or "See: cdtool list")


def _look(path: Path) -> Concept:
    try:
        return _read(path)
    except ConceptError as error:
        return Concept(path.name.removesuffix(SUFFIX), path, None, _bytes(path), str(error))


def _read(path: Path) -> Concept:
    manifest, _ = concept.read_header(path)
    name = path.name.removesuffix(SUFFIX)  # the file's name counts: a copy or a rename does not rewrite the manifest
    return Concept(name, path, replace(manifest, name=name), _bytes(path))


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _suggestion(name: str) -> str:
    try:
        return f"For example {slug(Path(name).name.removesuffix(SUFFIX))}."
    except InputError:
        return "For example dog."


def _make(folder: Path) -> None:
    check_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None


def _free(name: str) -> str:
    taken = set(names())
    return next(candidate for number in count(2) if (candidate := f"{name}-{number}") not in taken)


def _publish_near(temporary: Path, name: str) -> str:
    """Publish under `name`, or under the first free of NAME-2, NAME-3...; returns the name it got."""
    candidates = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(candidate for candidate in candidates if publish(temporary, _path(candidate)))


def _publish_over(temporary: Path, name: str) -> str:
    temporary.replace(_path(name))
    flush(concepts_dir())
    return name
