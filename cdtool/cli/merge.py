"""cdtool merge: several concepts in one file, and how good the merge is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdtool.cli import options, output
from cdtool.errors import GateError, UsageError
from cdtool.store import bases, registry, subject

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.merging.diagnostics import Report
    from cdtool.merging.merge import Merged
    from cdtool.store.registry import Concept
    from cdtool.store.subject import Composition

WELL = 0.7  # fidelity from which a merged concept looks as it did alone
Captions = Annotated[
    Path | None,
    typer.Option("--captions", metavar="FILE", help="Regularization captions to leave as they are, one a line."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what has this name; save though a concept is lost; another --base.")
]


def merge(
    concept: options.Concepts,
    name: options.Name = None,
    captions: Captions = None,
    base: options.Base = None,
    force: Force = False,
    if_missing: options.IfMissing = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge several concepts of one base into one file.

    It takes seconds and no training, and the file is small. Their tokens become V1, V2... in the order given. What the
    merge kept of each concept is told and recorded; where it lost one, nothing is saved and the exit code is 6.

    Examples:
    cdtool merge dog moongate -o pair
    cdtool sample pair "V1 dog in front of V2 moongate"
    cdtool merge pair cat -o three --captions my-captions.txt
    """
    out = output.sink(json, quiet)
    found = _find(concept, base, force)
    target = name or "-".join(entry.name for entry in found.concepts)
    if if_missing and target in registry.names():
        out.talk(f'There is a concept "{target}" already; nothing to do.')
        out.result(target, _data(registry.find(target)))
        return
    if not force:
        registry.check_free(target)
    merged = _merge(out, found, target, captions, force)
    _tell(out, merged.report)
    if merged.report.lost and not force:
        if json:
            out.result(target, {"name": target, "saved": False, "report": merged.report.data()})
        raise GateError(
            f"The merge lost {' and '.join(merged.report.lost)}, so it is not saved.",
            "Train them together (a folder and a --token each), or save it all the same with --force.",
        )
    entry = registry.save(merged.manifest, merged.tensors, force=force)
    _note(entry, found)
    out.talk(f'Saved. Try: cdtool sample {entry.name} "{_example(found)}"')
    out.result(entry.name, _data(entry) | {"saved": True, "report": merged.report.data()})


def _find(names: Sequence[str], base: str | None, force: bool) -> Composition:
    """The concepts, checked as far as that needs no numbers."""
    if len(names) < 2:
        raise UsageError("A merge needs two concepts or more.", "Like: cdtool merge dog moongate -o pair")
    found = [subject.find(one, base, force=True).concepts for one in names]
    if not all(found):
        raise UsageError("A base has no learned word to merge.", "Name concepts; see: cdtool list")
    paths = [part.path.resolve() for parts in found for part in parts]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise UsageError(f'"{twice.stem}" is named twice.', "Name each concept once.")
    return subject.find("+".join(names), base, force=bool(base) and force)


def _merge(out: Output, found: Composition, target: str, captions: Path | None, force: bool) -> Merged:
    folder = bases.locate(found.base)
    output.quiet_libraries(diffusers=False)
    from cdtool.merging import captions as reg_captions
    from cdtool.merging import diagnostics
    from cdtool.merging import merge as merging
    from cdtool.models import pipelines

    texts = reg_captions.read(reg_captions.find(captions, folder))
    loaded = pipelines.load(found.base, precision="fp32", device="cpu", parts=("text",))
    merging.check(loaded, found, force=force)
    for warning in diagnostics.shared_initializers(found.concepts):
        out.warn(warning)
    key = reg_captions.key_of(loaded, texts)
    known = reg_captions.stored(key)
    if known is None:
        for _ in out.progress(reg_captions.encode(loaded, texts, key), len(texts), label="caption"):
            pass
        known = reg_captions.known(loaded, texts)
    return merging.merge(loaded, found, target, known, force=force)


def _tell(out: Output, report: Report) -> None:
    """What came out, in words on stderr; the figures are in `cdtool show` and --json."""
    for warning in report.warnings:
        out.warn(warning)
    for name, kept in report.fidelity.items():
        out.talk(f"{name}: {_verdict(kept)} ({kept:.0%} of what it changes)")
    out.talk(
        f"Other captions move by {report.drift:.0%} of what the concepts change. All figures: cdtool show, --json."
    )


def _verdict(kept: float) -> str:
    """A fidelity in words."""
    from cdtool.merging.diagnostics import LOST

    if not kept >= LOST:
        return "lost"
    return "kept well" if kept >= WELL else "kept in part"


def _note(entry: Concept, found: Composition) -> None:
    """What this machine knows of the parents and the merge can use: where the base and the photos of each token lie."""
    notes = [registry.note(parent.name) if parent.name in registry.names() else {} for parent in found.concepts]
    known: dict[str, Any] = {"base": notes[0]["base"]} if notes[0].get("base") else {}
    photos = [note.get("photos", []) for note in notes]
    tokens = [parent.manifest.tokens if parent.manifest else () for parent in found.concepts]
    if all(len(folders) == len(own) for folders, own in zip(photos, tokens, strict=True)):
        known["photos"] = [folder for folders in photos for folder in folders]
    if known:
        registry.add_note(entry.name, **known)


def _example(found: Composition) -> str:
    words = [f"V{place} {token.noun}" for place, token in enumerate(found.tokens, 1)]
    return " in front of ".join(words[:2]) + "".join(f" and {word}" for word in words[2:])


def _data(entry: Concept) -> dict[str, Any]:
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes}
