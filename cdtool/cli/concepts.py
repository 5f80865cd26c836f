"""cdtool list, show, remove and rename: the registry of concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from numbers import Real
from typing import Annotated, Any

import typer

from cdtool import concept, registry
from cdtool.cli import options, output
from cdtool.concept import Manifest
from cdtool.errors import NotFoundError, nearest
from cdtool.registry import Entry

NewName = Annotated[str, typer.Argument(metavar="NEW-NAME", help="The name it gets.")]


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the concepts on this machine.

    Examples:
      cdtool list
      cdtool list --quiet
      cdtool list --json
    """
    out = output.sink(json, quiet)
    entries = list(registry.entries())
    columns = ("NAME", "KIND", "TOKENS", "BASE", "SIZE", "CREATED", "SCORE")
    out.table(columns, [_row(entry) for entry in entries], {"concepts": [_data(entry) for entry in entries]})
    if not entries:
        out.talk('No concepts yet. Make one: cdtool train ./photos --token "V* dog"')


def show(concept_name: options.Concept, json: options.Json = False) -> None:
    """Show everything a concept records: its tokens, base, settings, sources and scores.

    Examples:
      cdtool show dog
      cdtool show ./shared/dog.safetensors --json
    """
    entry = registry.find(concept_name)
    manifest, shapes = concept.read_header(entry.path)
    weights = {
        "form": "low-rank" if concept.is_low_rank(shapes) else "dense",
        "tensors": len(shapes),
        "numbers": concept.numbers(shapes),
    }
    settings = ", ".join(f"{name} {value}" for name, value in manifest.settings.items())
    facts = {
        "name": entry.name,
        "kind": manifest.method,
        "tokens": _tokens(manifest),
        "begun as": ", ".join(token.initializer for token in manifest.tokens if token.initializer),
        "base": f"{manifest.base.name} ({manifest.base.family}, K/V {manifest.base.fingerprint[:12]})",
        "weights": f"{weights['form']}, {weights['tensors']} tensors, {weights['numbers']:,} numbers",
        "settings": settings,
        "photos": str(len(manifest.photos)) if manifest.photos else "",
        "made from": ", ".join(str(parent.get("name", "?")) for parent in manifest.parents),
        "score": _score(registry.note(entry.name)),
        "created": f"{_when(manifest.created)} by cdtool {manifest.version}",
        "file": f"{entry.path} ({output.size(entry.bytes)})",
    }
    out = output.sink(json)
    out.facts({name: text for name, text in facts.items() if text}, _data(entry) | {"weights": weights})


def remove(names: options.Concepts, yes: options.Yes = False, json: options.Json = False) -> None:
    """Delete concepts. On a terminal it asks first.

    Examples:
      cdtool remove dog
      cdtool remove dog moongate --yes
    """
    out = output.sink(json)
    known = registry.names()
    for name in names:
        if name not in known:
            raise NotFoundError(f'There is no concept "{name}".', nearest(name, known) or "See: cdtool list")
        if made := registry.dependents(name):
            out.talk(f"{name} went into {', '.join(made)}, which keeps its own copy.")
    out.confirm(f"Remove {', '.join(names)}?", yes)
    for name in names:
        registry.remove(name)
    out.results(names, {"removed": names})


def rename(
    concept_name: options.Concept, new_name: NewName, force: options.Force = False, json: options.Json = False
) -> None:
    """Give a concept another name; its scores follow.

    Examples:
      cdtool rename dog my-dog
      cdtool rename dog-2 dog --force
    """
    registry.rename(concept_name, new_name, force=force)
    output.sink(json).result(new_name, {"name": new_name, "was": concept_name})


def _row(entry: Entry) -> tuple[str, ...]:
    manifest = entry.manifest
    if manifest is None:
        return (entry.name, "damaged", "", "", output.size(entry.bytes), "", "")
    kind, tokens, base, created = manifest.method, _tokens(manifest), manifest.base.name, _when(manifest.created)
    return (entry.name, kind, tokens, base, output.size(entry.bytes), created, _score(registry.note(entry.name)))


def _data(entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}
    if entry.manifest is None:
        return data | {"damaged": True, "problem": entry.problem}
    return asdict(entry.manifest) | data | {"damaged": False, "note": registry.note(entry.name)}


def _tokens(manifest: Manifest) -> str:
    if len(manifest.tokens) == 1:
        return manifest.tokens[0].words()
    return ", ".join(token.words(place) for place, token in enumerate(manifest.tokens, 1))


def _score(note: Mapping[str, Any]) -> str:
    scores = note.get("scores")
    if not isinstance(scores, Mapping):
        return ""
    return " ".join(f"{name} {value:.3f}" for name, value in scores.items() if isinstance(value, Real))


def _when(created: str) -> str:
    try:
        return datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
