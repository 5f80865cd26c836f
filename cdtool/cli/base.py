"""cdtool base list, use and show: the pretrained pipelines concepts are trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdtool import settings
from cdtool.cli import options, output
from cdtool.errors import NotFoundError
from cdtool.images import corpora
from cdtool.store import bases

BaseName = Annotated[
    str,
    typer.Argument(metavar="BASE", help="mini, an alias, a hub id or a folder.", autocompletion=options.complete_bases),
]
OneBase = Annotated[
    str | None,
    typer.Argument(metavar="[BASE]", help="Default: the base in use.", autocompletion=options.complete_bases),
]
RareTokens = Annotated[
    Path | None,
    typer.Option("--rare-tokens", metavar="CAPTIONS", help="List words that a file of captions holds hardly ever."),
]
Fetch = Annotated[bool, typer.Option("--fetch", help="Download it first; nothing else in cdtool uses the network.")]


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the bases on this machine; * marks the one in use.

    Examples:
      cdtool base list
      cdtool base list --json
    """
    out = output.sink(json, quiet)
    offers = bases.at_hand()
    chosen = settings.base_name().value
    rows = [
        (offer.name, "*" if offer.name == chosen else "", offer.family, output.size(offer.bytes), str(offer.folder))
        for offer in offers
    ]
    data = [asdict(offer) | {"in_use": offer.name == chosen} for offer in offers]
    out.table(("NAME", "USE", "PIPELINE", "SIZE", "FOLDER"), rows, {"bases": data, "in_use": chosen})
    if absent := [name for name in bases.ALIASES if name not in {offer.name for offer in offers}]:
        out.talk(f"Not here: {', '.join(absent)}. Get one with: cdtool base use NAME --fetch")


def use(base: BaseName, fetch: Fetch = False, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Choose the base that train uses from now on.

    Examples:
      cdtool base use sd15 --fetch
      cdtool base use ./my-model
      cdtool base use mini
    """
    out = output.sink(json, quiet)
    try:
        folder = bases.locate(base)
    except NotFoundError:
        if not fetch:
            raise
        out.talk(f"Fetching {base}: weights are some gigabytes.")
        folder = bases.fetch(base)
    name = base if bases.is_name(base) else str(folder)
    written = settings.write_base(name)
    in_force = settings.base_name()
    if in_force.value != name:
        out.warn(f"{in_force.origin} says {in_force.value}, which counts for more than {written}.")
    out.result(name, {"base": name, "folder": str(folder), "config": str(written)})


def show(
    base: OneBase = None, rare_tokens: RareTokens = None, json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Show what a base is: its pipeline, resolution, prediction type and the weights a concept changes.

    With --rare-tokens, words to begin a V-word as: those that captions hold 5 to 10 times, of letters only, and no
    part of another entry of the vocabulary.

    Examples:
      cdtool base show
      cdtool base show sdxl --json
      cdtool base show sd15 --rare-tokens captions.txt -q
    """
    name = base or settings.base_name().value
    if rare_tokens is not None:
        _show_rare(str(name), rare_tokens, output.sink(json, quiet))
        return
    sheet = bases.describe(bases.locate(name))
    facts = {
        "name": name,
        "pipeline": sheet.family,
        "resolution": f"{sheet.resolution} px",
        "predicts": sheet.prediction,
        "text width": str(sheet.text_width),
        "K/V": f"{sheet.matrices} matrices, {sheet.numbers:,} numbers" if sheet.matrices else "unknown",
        "folder": str(sheet.folder),
    }
    output.sink(json, quiet).facts(facts, {"name": name} | asdict(sheet))


def _show_rare(name: str, path: Path, out: output.Output) -> None:
    captions = corpora.captions(path)
    output.quiet_libraries()
    from cdtool.models import pipelines, text

    tokenizers = pipelines.load_tokenizers(bases.locate(name))
    found = text.rare_words(tokenizers, captions)
    out.talk(
        f"{len(found)} rare words by {len(captions):,} captions of {path.name}; use one with --token-init word:WORD"
    )
    rows = [(word, str(text.initializer_ids(tokenizers, word)[0]), str(count)) for word, count in found.items()]
    out.table(("WORD", "ID", "OCCURRENCES"), rows, {"base": name, "captions": len(captions), "words": found})
