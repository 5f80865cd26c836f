"""cdtool list, show, remove and rename: the registry of concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Annotated, Any

import typer

from cdtool import schema
from cdtool.cli import options, output
from cdtool.errors import NotFoundError, UsageError, nearest
from cdtool.store import concept, registry
from cdtool.store.concept import Manifest
from cdtool.store.registry import Concept

Spectrum = Annotated[bool, typer.Option("--spectrum", help="Show the singular values of each matrix instead.")]
Picture = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Where --spectrum also plots to: .png, .pdf or .svg.")
]
Undo = Annotated[bool, typer.Option("--undo", help="Bring back what was removed under these names.")]
ForGood = Annotated[bool, typer.Option("--for-good", help="Keep nothing for --undo; frees the disk at once.")]
NewName = Annotated[str, typer.Argument(metavar="NEW-NAME", help="The name it gets.")]


def list_(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the concepts on this machine.

    Examples:
      cdtool list
      cdtool list --quiet
      cdtool list --json
    """
    out = output.sink(json, quiet)
    entries = list(registry.concepts())
    columns = ("NAME", "KIND", "TOKENS", "BASE", "SIZE", "CREATED", "SCORE")
    out.table(columns, [_row(entry) for entry in entries], {"concepts": [_data(entry) for entry in entries]})
    for entry in entries:
        if entry.manifest is None:
            out.talk(f"{entry.problem} It can be removed: cdtool remove {entry.name}")
    if not entries:
        out.talk('No concepts yet. Make one: cdtool train ./photos --token "V* dog"')


def show(
    concept_name: options.Concept,
    picture: Picture = None,
    spectrum: Spectrum = False,
    json: options.Json = False,
) -> None:
    """Show what a concept records: tokens, base, scores.

    Also its settings, sources, the report of its merge and where it lies. With --spectrum: the sum of its leading
    singular values, as a share of them all, for each matrix.

    Examples:
      cdtool show dog
      cdtool show ./shared/rex.safetensors --json
      cdtool show dog --spectrum spectrum.png
    """
    if picture and not spectrum:
        raise UsageError(f'What is "{picture}"?', f"To plot the singular values there: --spectrum {picture}")
    entry = registry.look(concept_name)
    if entry.manifest is None and not spectrum:
        file = f"{entry.path} ({output.size(entry.bytes)})"
        output.sink(json).facts({"name": entry.name, "damaged": entry.problem, "file": file}, _data(entry))
        return
    if spectrum:
        _show_spectrum(output.sink(json), registry.find(concept_name), picture)
        return
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
        "made from": ", ".join(_parent(parent) for parent in manifest.parents),
        "merge": _merge(manifest.report),
        "picked": _picked(manifest.report),
        "score": _score(registry.note(entry.name)),
        "created": f"{_when(manifest.created)} by cdtool {manifest.version}",
        "file": f"{entry.path} ({output.size(entry.bytes)})",
    }
    out = output.sink(json)
    out.facts({name: text for name, text in facts.items() if text}, _data(entry) | {"weights": weights})


@dataclass(frozen=True)
class _Merged:
    """What is shown of a merge's report."""

    fidelity: Mapping[str, float]
    saved_error: float
    drift: float


@dataclass(frozen=True)
class _Pick:
    """What is shown of a choice among checkpoints."""

    step: int
    of: int
    stages: tuple[Any, ...]


def _merge(report: Mapping[str, Any]) -> str:
    """What a merge kept, in a line; "" for a report of anything else."""
    try:
        found = schema.build(_Merged, report)
    except schema.SchemaError:
        return ""
    kept = ", ".join(f"{name} {value:.3f}" for name, value in found.fidelity.items())
    return f"fidelity {kept}; constraint error {found.saved_error:.1e}; drift {found.drift:.2f}"


def _picked(report: Mapping[str, Any]) -> str:
    """Which checkpoint it is, in a line; "" where it was not chosen."""
    try:
        found = schema.build(_Pick, report.get("pick"))
    except schema.SchemaError:
        return ""
    return f"step {found.step} of {found.of}, from {len(found.stages) - 1} checkpoints"


def _show_spectrum(out: output.Output, entry: Concept, picture: Path | None) -> None:
    from cdtool.models import spectra
    from cdtool.reports import charts

    if picture:
        charts.check(picture)
    tensors = concept.read_tensors(entry.path)
    steps = out.progress(spectra.decompose(tensors), len(spectra.matrices(tensors)), label="matrix")
    found = {part.name: part.values.tolist() for part in steps}
    longest = max(map(len, found.values()), default=0)
    ranks = [2**power for power in range(longest.bit_length()) if 2**power <= longest]
    rows = [(_short(name), *(_share(values, rank) for rank in ranks)) for name, values in found.items()]
    out.table(("MATRIX", *map(str, ranks)), rows, {"name": entry.name, "spectrum": found})
    if picture and found:
        charts.spectra(entry.name, found, picture)
        out.talk(f"Plot: {picture}")


def _short(name: str) -> str:
    return name.removeprefix("unet.").removesuffix(".weight").replace(".transformer_blocks.", ".")


def _share(values: Sequence[float], rank: int) -> str:
    whole = sum(values)
    return f"{sum(values[:rank]) / whole:.0%}" if whole else "-"


def _parent(parent: Mapping[str, Any]) -> str:
    if parent.get("by") == "import":
        return f"{parent.get('file', '?')} (imported, {parent.get('format', '?')})"
    name = str(parent.get("name", "?"))
    if parent.get("by") != "compress":
        return name
    return f"{name} (compressed by {parent.get('how', '?')}, relative error {parent.get('error', '?')})"


def remove(
    names: options.Concepts,
    undo: Undo = False,
    for_good: ForGood = False,
    yes: options.Yes = False,
    json: options.Json = False,
) -> None:
    """Remove concepts. On a terminal it asks first; for some days --undo brings them back.

    Examples:
      cdtool remove three
      cdtool remove three --undo
      cdtool remove dog-2mb pets three --yes
    """
    from cdtool.store import trash

    out = output.sink(json)
    if undo:
        if for_good:
            raise UsageError("--undo and --for-good exclude each other.", "Give one of them.")
        for name in names:
            trash.undo(name)
        out.results(names, {"restored": names})
        return
    known = registry.names()
    for name in names:
        registry.check_single(name)
        if name not in known:
            raise NotFoundError(f'There is no concept "{name}".', nearest(name, known) or "See: cdtool list")
        if made := registry.dependents(name):
            out.talk(f"{name} went into {', '.join(made)}, which keeps its own copy.")
    out.confirm(f"Remove {', '.join(names)}?", yes)
    for name in names:
        if for_good:
            registry.remove(name)
            trash.empty(name)
        elif not trash.put(name):
            out.warn(f"The disk is full, so {name} was deleted, not kept.")
    if not for_good:
        out.talk(f"Kept for {trash.DAYS} days: cdtool remove {' '.join(names)} --undo")
    out.results(names, {"removed": names})


def rename(
    concept_name: options.Concept, new_name: NewName, force: options.Force = False, json: options.Json = False
) -> None:
    """Give a concept another name; its scores follow.

    Examples:
      cdtool rename moongate gate
      cdtool rename dog-best dog --force
    """
    registry.rename(concept_name, new_name, force=force)
    output.sink(json).result(new_name, {"name": new_name, "was": concept_name})


def _row(entry: Concept) -> tuple[str, ...]:
    manifest = entry.manifest
    if manifest is None:
        return (entry.name, "damaged", "", "", output.size(entry.bytes), "", "")
    kind, tokens, base, day = manifest.method, _tokens(manifest), manifest.base.name, _when(manifest.created)[:10]
    return (entry.name, kind, tokens, base, output.size(entry.bytes), day, _score(registry.note(entry.name)))


def _data(entry: Concept) -> dict[str, Any]:
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
