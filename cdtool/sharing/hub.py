"""Concepts on the hub: pushed with their card, pulled with the checks of an import."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cdtool.errors import InputError, NotFoundError, ResourceError, UsageError
from cdtool.files import workplace
from cdtool.sharing import card as cards
from cdtool.store import concept as concepts
from cdtool.store import hub, registry, subject

if TYPE_CHECKING:
    from cdtool.store.registry import Concept

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def push(
    concept: str | Path | Concept,
    repository: str,
    *,
    public: bool = False,
    images: Sequence[str | Path] | None = None,
    licence: str = "",
) -> str:
    """Put a concept and its card on the hub; a repository that does not exist is made, private unless `public`.

    Args:
        concept: a concept, its name or its file.
        repository: OWNER/NAME on the hub.
        public: whether everybody may see a repository that is made.
        images: folders or files that `cdtool sample` wrote; `samples/CONCEPT` where that exists.
        licence: the identifier of the licence the concept is given under, such as "cc-by-4.0".

    What goes: the concept's file without the folders of this machine in it, the card, its pictures without records.
    Photos, notes and class images stay. Returns the page's address.

    Raises UsageError for an impossible repository or licence, NotFoundError for an unknown concept, ResourceError
    where the hub does not answer or does not allow it.
    """
    entry = subject.load(subject.text_of(concept))
    check_repository(repository)
    places = None if images is None else [Path(one) for one in images]
    card = cards.gather(entry, images=places, licence=licence, repository=repository)
    with workplace(_folder()) as work, _answering(repository):
        from huggingface_hub import HfApi

        write(card, work / "push")
        api = HfApi()
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=work / "push", commit_message=f"{entry.name}, by cdtool"
        )  # fmt: skip
        return str(made)


def write(card: cards.Card, folder: Path) -> None:
    """What a push uploads: the concept's file, README.md and its pictures."""
    folder.mkdir(parents=True)
    path = folder / f"{card.concept.name}{registry.SUFFIX}"
    concepts.write(path, card.manifest, concepts.read_tensors(card.concept.path))
    cards.write(card, folder)


def pull(
    repository: str,
    *,
    name: str | None = None,
    file: str | None = None,
    revision: str | None = None,
    force: bool = False,
) -> Concept:
    """Fetch a concept from the hub into the registry, with the checks of an import.

    Args:
        repository: OWNER/NAME on the hub.
        name: what it is called here; as its file is called.
        file: which concept, where the repository holds several.
        revision: a branch, a tag or a commit; the newest.
        force: replace a concept of this name.

    Raises UsageError for an impossible repository and for several concepts without `file`, NotFoundError where the hub
    has no such repository or does not answer, InputError where it holds no concept of cdtool, ConceptError for a
    damaged one, NameTakenError for a name in use.
    """
    check_repository(repository)
    with workplace(_folder()) as work:
        with _answering(repository):
            from huggingface_hub import HfApi

            api = HfApi()
            chosen = _choose(api, repository, file, revision)
            called = name or Path(chosen).stem
            registry.check_name(called)
            registry.check_free(called, force=force)
            fetched = api.hf_hub_download(repository, chosen, revision=revision, local_dir=work / "pull")
        return registry.adopt(Path(fetched), called, force=force)


def check_repository(repository: str) -> None:
    """Raises UsageError for what cannot be a repository."""
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f'"{repository}" is no repository of the hub.', "It is OWNER/NAME, like ada/dog.")


def _choose(api: Any, repository: str, file: str | None, revision: str | None) -> str:
    """The concept to fetch: only headers are read until it is known, since a repository may hold whole models."""
    files = [name for name in api.list_repo_files(repository, revision=revision) if name.endswith(registry.SUFFIX)]
    if file and file not in files:
        raise NotFoundError(f"{repository} holds no file {file}.", f"It holds {', '.join(files) or 'no safetensors'}.")
    found = [name for name in ([file] if file else files) if _is_concept(api, repository, name, revision)]
    if not found:
        raise InputError(
            f"{file or repository} holds no concept of cdtool.",
            'Another tool\'s LoRA can be downloaded and imported: cdtool import FILE --token "V* dog"',
        )
    if len(found) > 1:
        raise UsageError(f"{repository} holds {len(found)} concepts: {', '.join(found)}.", "Name one with --file.")
    return str(found[0])


def _is_concept(api: Any, repository: str, file: str, revision: str | None) -> bool:
    header = api.parse_safetensors_file_metadata(repository, file, revision=revision)
    return concepts.KEY in (header.metadata or {})


def _folder() -> Path:
    """The folder of concepts, made where it does not exist: what is fetched or sent lies there meanwhile."""
    folder = registry.concepts_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _answering(repository: str) -> Iterator[None]:
    """Let the hub be asked meanwhile; what it answers instead of a result becomes a sentence."""
    with hub.online(), warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the library's own
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalTokenNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
            SafetensorsParsingError,
        )

        # The errors of whichever HTTP library the hub's was built on.
        unanswered = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, OSError))
        login = "Log in with a token that may do this: hf auth login"
        try:
            yield
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise NotFoundError(f"The hub has no {repository} that you may see.", f"Check the name. {login}") from None
        except SafetensorsParsingError:
            raise InputError(
                f"A file of {repository} is damaged or no safetensors file.", "Name another with --file."
            ) from None
        except LocalTokenNotFoundError:
            raise ResourceError("The hub asks who you are.", login) from None
        except unanswered as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            answer = getattr(error, "response", None)
            if answer is not None and answer.status_code in (401, 403):
                raise ResourceError(f"The hub does not let you do this with {repository}.", login) from None
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ResourceError(f"The hub did not do it: {reason}.", "Try again when you are online.") from None
