"""cdtool cache list and prune: what can be made again, and how much of the disk it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cdtool import settings
from cdtool.cli import options, output
from cdtool.compression.goals import parse_bytes
from cdtool.errors import UsageError, nearest

Most = Annotated[
    str | None,
    typer.Option("--max-size", metavar="SIZE", help="What may stay, like 500MB; those used longest ago go first."),
]
Kind = Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only this kind, as `cache list` names it.")]


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List what the cache holds.

    Image features, latents, text statistics and names of modules: all of it is made again where it is missing. It is
    kept below 4 GB by itself.

    Examples:
      cdtool cache list
      cdtool cache list --json
    """
    from cdtool import cache

    found = cache.usage()
    rows = [(each.kind, str(each.entries), output.size(each.bytes)) for each in found]
    data = {"path": str(settings.cache_dir()), "limit": cache.LIMIT, "kinds": [asdict(each) for each in found]}
    output.sink(json, quiet).table(("KIND", "ENTRIES", "SIZE"), rows, data)


def prune(most: Most = None, kind: Kind = None, json: options.Json = False) -> None:
    """Make the cache smaller.

    Without --max-size all of it goes. Nothing is lost: it is made again when it is needed.

    Examples:
      cdtool cache prune --kind latents
      cdtool cache prune --max-size 500MB
      cdtool cache prune
    """
    from cdtool import cache

    kinds = [each.kind for each in cache.usage()]
    if kind is not None and kind not in kinds:
        raise UsageError(f'The cache holds nothing of the kind "{kind}".', nearest(kind, kinds) or "cdtool cache list")
    gone = cache.prune(parse_bytes(most) if most else 0, kind)
    voice = output.sink(json)
    voice.talk(f"Removed {gone.entries:,} of what the cache held, {output.size(gone.bytes)}.")
    voice.results([], {"removed": gone.entries, "bytes": gone.bytes})
