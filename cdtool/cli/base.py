"""cdtool base list, use and show: the pretrained pipelines concepts are trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdtool import sources
from cdtool.cli import options, output
from cdtool.errors import NotFoundError
from cdtool.images import corpora
from cdtool.paths import user_path
from cdtool.store import bases, families

BaseName = Annotated[
    str,
    typer.Argument(metavar="BASE", help="mini, an alias, a hub id, a folder or a .safetensors checkpoint.",
                   autocompletion=options.complete_bases),
]  # fmt: skip
OneBase = Annotated[
    str | None,
    typer.Argument(metavar="[BASE]", help="Default: the base in use.", autocompletion=options.complete_bases),
]
RareTokens = Annotated[
    Path | None,
    typer.Option("--rare-tokens", metavar="CAPTIONS", help="List words that a file of captions holds hardly ever."),
]
OwnVae = Annotated[
    str | None, typer.Option("--vae", metavar="PATH", help="Its autoencoder: a folder or a .safetensors file.")
]
Fetch = Annotated[bool, typer.Option("--fetch", help="Download it first; nothing else in cdtool uses the network.")]


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the bases on this machine; * marks the one in use.

    Examples:
      cdtool base list
      cdtool base list --json
    """
    out = output.sink(json, quiet)
    found = bases.installed()
    chosen = sources.base_name().value
    rows = [
        (base.name, "*" if base.name == chosen else "", base.pipeline, output.size(base.bytes), str(base.folder))
        for base in found
    ]
    data = [asdict(base) | {"in_use": base.name == chosen} for base in found]
    out.table(("NAME", "USE", "PIPELINE", "SIZE", "FOLDER"), rows, {"bases": data, "in_use": chosen})
    if absent := [name for name in bases.ALIASES if name not in {base.name for base in found}]:
        out.talk(f"Not here: {', '.join(absent)}. Get one with: cdtool base use NAME --fetch")


def use(
    base: BaseName, fetch: Fetch = False, vae: OwnVae = None, json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Choose the base that train uses from now on.

    Examples:
      cdtool base use sd15 --fetch
      cdtool base use ./my-model
      cdtool base use ./my-checkpoint.safetensors
      cdtool base use sd15 --vae ./vae-ft-mse-840000-ema-pruned.safetensors
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
    families.check_trainable(base, families.read(folder))
    name = base if bases.is_name(base) else str(user_path(base).resolve())
    own = str(user_path(vae).resolve()) if vae else ""
    if own:
        bases.locate_vae(own, folder)
    written = sources.write_base(name, own)
    in_force = sources.base_name()
    if in_force.value != name:
        out.warn(f"{in_force.origin} says {in_force.value}, which counts for more than {written}.")
    out.result(name, {"base": name, "folder": str(folder), "vae": own or None, "config": str(written)})


def show(
    base: OneBase = None, rare_tokens: RareTokens = None, json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Show a base: its pipeline, resolution and K/V.

    With --rare-tokens, words for a modifier token to begin as: those that occur 5 to 10 times in captions, of letters
    only, and no part of another entry of the vocabulary.

    Examples:
      cdtool base show
      cdtool base show sdxl --json
      cdtool base show sd15 --rare-tokens captions.txt -q
    """
    name = base or sources.base_name().value
    if rare_tokens is not None:
        _show_rare(str(name), rare_tokens, output.sink(json, quiet))
        return
    summary = bases.describe(bases.locate(name))
    facts = {
        "name": name,
        "pipeline": summary.pipeline,
        "resolution": f"{summary.resolution} px",
        "predicts": summary.prediction,
        "text width": str(summary.text_width),
        "K/V": f"{summary.matrices} matrices, {summary.numbers:,} numbers" if summary.matrices else "unknown",
        "folder": str(summary.folder),
    }
    output.sink(json, quiet).facts(facts, {"name": name} | asdict(summary))


def _show_rare(name: str, path: Path, out: output.Output) -> None:
    captions = corpora.captions(path)
    output.quiet_libraries()
    from cdtool.models import initializers, pipelines

    tokenizers = pipelines.load_tokenizers(bases.locate(name))
    found = initializers.rare_words(tokenizers, captions)
    out.talk(
        f"{len(found)} rare words by {len(captions):,} captions of {path.name}; use one with --token-init word:WORD"
    )
    rows = [(word, str(initializers.vocabulary_ids(tokenizers, word)[0]), str(count)) for word, count in found.items()]
    out.table(("WORD", "ID", "OCCURRENCES"), rows, {"base": name, "captions": len(captions), "words": found})
