"""cdtool card, gallery, push and pull: what others see of concepts, and concepts from and to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options, output
from cdtool.store import registry

Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images", metavar="PATH", help="Folders or files that sample wrote." + options.default_of("samples/CONCEPT")
    ),
]
AllImages = Annotated[
    list[Path] | None,
    typer.Option(
        "--images", metavar="PATH", help="Folders or files that sample wrote." + options.default_of("samples/*")
    ),
]
Licence = Annotated[
    str, typer.Option("--licence", "--license", metavar="ID", help="What it is given under, like cc-by-4.0.")
]
Folder = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="The folder; CONCEPT-card.")]
Page = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page, an .html file.")]
Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the hub.")]
Some = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONCEPT...]", help="Which; all.", autocompletion=options.complete_concepts),
]
Public = Annotated[bool, typer.Option("--public", help="Let everybody see a repository that is made.")]
File = Annotated[str | None, typer.Option("--file", metavar="FILE", help="Which concept, where it holds several.")]
Revision = Annotated[str | None, typer.Option("--revision", metavar="R", help="A branch, a tag or a commit.")]


def card(
    concept_name: options.Concept,
    out: Folder = None,
    images: Images = None,
    licence: Licence = "",
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a concept's card: README.md and samples.

    It says what the concept is called in prompts, what it was trained on and how, and what `cdtool eval` measured
    last. `cdtool push` writes the same. It shows samples, never photos.

    Examples:
      cdtool card dog
      cdtool card dog -o dog-card --images ./samples/dog --licence cc-by-4.0 --force
    """
    voice = output.sink(json, quiet)
    from cdtool.sharing import card as cards

    entry = registry.find(concept_name)
    folder = out or Path(f"{entry.name}-card")
    path = cards.card(entry, folder, images=images, licence=licence, force=force)
    voice.result(str(path), {"concept": entry.name, "path": str(path)})


def gallery(
    concept_names: Some = None,
    out: Page = Path("gallery.html"),
    images: AllImages = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show concepts and samples on one page.

    The page holds its pictures and opens from disk. It shows what `cdtool sample` wrote, also of several concepts
    together, and the scores of the last evaluation; no photos.

    Examples:
      cdtool gallery
      cdtool gallery dog cat -o two.html
    """
    voice = output.sink(json, quiet)
    from cdtool.sharing import gallery as galleries

    path = galleries.gallery(out, concept_names or (), images=images)
    voice.result(str(path), {"path": str(path)})


def push(
    concept_name: options.Concept,
    repository: Repository,
    images: Images = None,
    licence: Licence = "",
    public: Public = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put a concept and its card on the hub.

    A repository that does not exist is made, private unless --public. The concept's file goes without names of
    folders in it, the samples without their records; photos and class images stay here. Log in first: hf auth login

    Examples:
      cdtool push dog ada/dog --licence cc-by-4.0
    """
    voice = output.sink(json, quiet)
    output.quiet_libraries()
    from cdtool.sharing import hub

    entry = registry.find(concept_name)
    address = hub.push(entry, repository, public=public, images=images, licence=licence)
    voice.talk(f"Others fetch it with: cdtool pull {repository}")
    voice.result(address, {"concept": entry.name, "repository": repository, "url": address})


def pull(
    repository: Repository,
    name: options.Name = None,
    file: File = None,
    revision: Revision = None,
    force: options.Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a concept from the hub.

    Its file passes the checks of `cdtool import`: nothing in it is run, and a damaged one is refused.

    Examples:
      cdtool pull ada/dog
      cdtool pull ada/pets --file cat.safetensors --name cat
    """
    voice = output.sink(json, quiet)
    called = name or (Path(file).stem if file else repository.rpartition("/")[2])
    if if_missing and called in registry.names():
        voice.talk(f'There is a concept "{called}" already; nothing to do.')
        voice.result(called, {"name": called, "repository": repository})
        return
    output.quiet_libraries()
    from cdtool.sharing import hub, pictures

    entry = hub.pull(repository, name=name, file=file, revision=revision, force=force)
    assert entry.manifest is not None
    words = pictures.words(entry.manifest)
    voice.talk(f'Try: cdtool sample {entry.name} "photo of a {" and a ".join(words)}"')
    voice.result(entry.name, {"name": entry.name, "path": str(entry.path), "repository": repository, "tokens": words})
