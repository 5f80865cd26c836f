"""What is shown of a training while it runs, and told at its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdtool.cli import output
from cdtool.store import registry

if TYPE_CHECKING:
    from cdtool.cli.output import Output
    from cdtool.training.event import Event


def show(out: Output, events: Iterator[Event], steps: int, folder: Path) -> None:
    """Follow a training: a bar for class images that are generated and one for the steps, the rest as lines."""
    counted = (event for event in _followed(out, events, folder) if event.kind in ("class image", "step"))
    for kind, group in itertools.groupby(counted, lambda event: event.kind):
        _show_bar(out, kind, group, steps)


def _show_bar(out: Output, kind: str, group: Iterator[Event], steps: int) -> None:
    first = next(group)
    total, describe = (steps, _loss) if kind == "step" else (first.of, _nothing)
    for _ in out.progress(itertools.chain([first], group), total, start=first.step - 1, label=kind, describe=describe):
        pass


def _followed(out: Output, events: Iterator[Event], folder: Path) -> Iterator[Event]:
    """The same events; what has no bar is told or written on the way."""
    for event in events:
        if event.kind == "note":
            out.talk(event.text)
        elif event.kind == "warning":
            out.warn(event.text)
        elif event.kind == "latents" and event.step == event.of:
            out.talk(f"Encoded {event.step} crops in {output.duration(event.seconds)}.")
        elif event.kind == "preview":
            _write_previews(event, out, folder)
        yield event


def _write_previews(event: Event, out: Output, folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(event.images, 1):
        path = folder / f"step-{event.step:05d}-{number}.png"
        Image.fromarray(pixels).save(path)
        out.talk(f"Preview: {path}")


def _loss(event: Event) -> str:
    prior = "" if event.prior_loss != event.prior_loss else f"  prior {event.prior_loss:.3f}"
    return f"loss {event.loss:.3f}{prior}"


def _nothing(_: Event) -> str:
    return ""


def result(name: str) -> dict[str, Any]:
    """What a command that trained a concept answers with --json."""
    entry = registry.find(name)
    pick = entry.manifest.report.get("pick") if entry.manifest else None
    return {"name": entry.name, "path": str(entry.path), "bytes": entry.bytes} | ({"pick": pick} if pick else {})
