"""cdtool prior list, add, show and remove: sets of images of a class that keep a base from forgetting it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.errors import InputError, NotFoundError, TokenError, nearest
from cdtool.priors import sets
from cdtool.priors.sets import PriorSet
from cdtool.store import registry
from cdtool.tokens import Token, parse_specs

if TYPE_CHECKING:
    from PIL import Image

    from cdtool.cli.output import Output

SHOWN = 48  # images of a contact sheet at most


def _complete(incomplete: str) -> list[str]:
    return [name for name in sets.names() if name.startswith(incomplete)]


SetName = Annotated[str, typer.Argument(metavar="SET", help="A prior set's name.", autocompletion=_complete)]
SetNames = Annotated[list[str], typer.Argument(metavar="SET...", help="Names of prior sets.", autocompletion=_complete)]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="The set's name; the class noun.")]
Class = Annotated[str | None, typer.Option("--class", metavar="CLASS", help="The class noun; the name's.")]
Style = Annotated[bool, typer.Option("--style", help="The class is a style: painting in the style of CLASS.")]
IfMissing = Annotated[bool, typer.Option("--if-missing", help="Do nothing, successfully, if the set exists.")]
Grid = Annotated[Path | None, typer.Option("--grid", metavar="FILE", help="Also write a labelled contact sheet.")]


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the prior sets on this machine.

    Examples:
      cdtool prior list
      cdtool prior list --json
    """
    out = output.sink(json, quiet)
    entries, half = list(sets.entries()), sets.unfinished()
    columns = ("NAME", "CLASS", "IMAGES", "SOURCE", "SIZE", "CREATED")
    data = {"sets": [_data(entry) for entry in entries], "unfinished": [asdict(one) for one in half]}
    out.table(columns, [_row(entry) for entry in entries], data)
    for one in half:
        out.talk(f"Unfinished: {one.name}, {one.images} images; the same command goes on with it.")
    if not entries:
        out.talk('No prior sets yet. Make one: cdtool prior make "dog" --from CORPUS, or --generate 200')


def add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Images, with captions beside them or without.")],
    name: Name = None,
    noun: Class = None,
    style: Style = False,
    force: options.Force = False,
    if_missing: IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy a folder of your own as a set of class images.

    Examples:
      cdtool prior add ./huskies --class husky
      cdtool prior add ./dogs --name my-dogs --class dog
    """
    from cdtool.priors import make

    out = output.sink(json, quiet)
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}.", "Check the path.")
    token = class_of(noun or name or folder.resolve().name)
    own = name or registry.slug(token.noun)
    if if_missing and own in sets.names():
        told(out, sets.find(own), "There is a prior set of this name already; nothing to do.")
        return
    sets.check_free(own, force=force)
    made, skipped = make.take_over(own, folder, token.noun, style=style, force=force)
    for item in skipped:
        out.talk(f"Skipped {item.path.name}: {item.reason}.")
    told(out, made, f'Its class is "{token.noun}".' if noun else f'Its class is "{token.noun}"; --class says another.')


def show(set_name: SetName, grid: Grid = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show what a set holds: images, captions, source.

    Examples:
      cdtool prior show dog
      cdtool prior show dog --grid prior.png
    """
    out = output.sink(json, quiet)
    options.check_picture(grid, "--grid")
    entry = sets.find(set_name)
    manifest = entry.manifest
    assert manifest is not None
    captions = Counter(image.caption or "(the class's template)" for image in manifest.images)
    near = [image.cosine for image in manifest.images if image.cosine is not None]
    facts = {
        "name": entry.name,
        "class": manifest.noun + (", a style" if manifest.style else ""),
        "images": f"{len(manifest.images)}, short side {manifest.side} px or more",
        "source": manifest.source,
        **{key: str(value) for key, value in manifest.origin.items()},
        "similarity": f"{min(near):.2f} to {max(near):.2f}" if near else "",
        "captions": "; ".join(f"{text} ({times})" if times > 1 else text for text, times in captions.most_common(8))
        + (f"; and {len(captions) - 8} more" if len(captions) > 8 else ""),
        "size": output.size(entry.bytes),
        "folder": str(entry.folder),
        "created": f"{manifest.created} by cdtool {manifest.version}",
    }
    if grid is not None:
        grid = options.free_path(grid)
        _sheet(entry).save(grid)
        out.talk(f"Contact sheet: {grid}")
    out.facts({key: text for key, text in facts.items() if text}, _data(entry, whole=True))


def remove(names: SetNames, yes: options.Yes = False, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Delete prior sets, or what is left of unfinished ones. On a terminal it asks first.

    Examples:
      cdtool prior remove cat
      cdtool prior remove husky teddies --yes
    """
    out = output.sink(json, quiet)
    known = [*sets.names(), *(one.name for one in sets.unfinished())]
    for name in names:
        if name not in known:
            raise NotFoundError(
                f'There is no prior set "{name}".', nearest(name, known) or "See: cdtool prior list"
            )  # fmt: skip
    out.confirm(f"Remove {', '.join(names)}?", yes)
    for name in names:
        sets.remove(name)
    out.results(names, {"removed": names})


# ---------------------------------------------------------------- shared


def class_of(text: str) -> Token:
    """The class a text names; a modifier token before the noun is dropped."""
    try:
        (token,) = parse_specs([text])
    except TokenError:
        raise InputError(f'"{text}" names no class.', 'Give its noun, like "dog".') from None
    return token


def told(out: Output, entry: PriorSet, hint: str) -> None:
    """A set as the result of a command, with what to know about it."""
    images = len(entry.manifest.images) if entry.manifest else 0
    out.talk(f"{images} images, {output.size(entry.bytes)}. {hint}")
    out.result(entry.name, _data(entry))


def _row(entry: PriorSet) -> tuple[str, ...]:
    manifest = entry.manifest
    if manifest is None:
        return (entry.name, "damaged", "", "", "", "")
    told = manifest.created[:16].replace("T", " ")
    return (
        entry.name, manifest.noun, str(len(manifest.images)), manifest.source, output.size(entry.bytes), told,
    )  # fmt: skip


def _data(entry: PriorSet, *, whole: bool = False) -> dict[str, Any]:
    """A set as JSON has it; `whole` with every image."""
    data: dict[str, Any] = {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}
    if entry.manifest is None:
        return data | {"damaged": True, "problem": entry.problem}
    about = asdict(entry.manifest)
    images = about.pop("images")
    about |= {"folder": str(entry.folder), "damaged": False, "count": len(images)}
    return about | data | ({"images": images} if whole else {})


def _sheet(entry: PriorSet) -> Image.Image:
    from cdtool.images.sheets import labelled
    from cdtool.priors import choose

    assert entry.manifest is not None
    shown = entry.manifest.images[:SHOWN]
    return labelled([(image.caption, choose.open_picture(entry, image)) for image in shown])
