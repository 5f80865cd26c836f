"""The one place that prints: results to stdout, talk to stderr; for a person, as JSON, or the bare names."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO, TypeVar

from cdtool.errors import InterruptedRun, UsageError
from cdtool.schema import printable, shortened

SCHEMA = 1  # of every JSON object; counts up when a key changes its meaning or goes
_LONGEST = 2000  # characters of a line of talk
EVERY = 5.0  # seconds between plain progress lines
T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """How a command speaks: "human", "json" (one object per result) or "quiet" (bare names)."""

    mode: Literal["human", "json", "quiet"] = "human"

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """One result: a line on stdout, or `data` as one JSON object."""
        self.results([text], data)

    def results(self, lines: Iterable[str], data: Mapping[str, Any]) -> None:
        """Several results: a line each, or one JSON object for them all."""
        if self.mode == "json":
            lines = [json.dumps({"schema": SCHEMA, **data}, default=str)]
        for line in lines:
            _write(line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], data: Mapping[str, Any]) -> None:
        """Rows under column heads; quiet prints the first column only."""
        if self.mode == "quiet":
            self.results([row[0] for row in rows], data)
        else:
            self.results(_aligned([columns, *rows]) if rows else [], data)

    def facts(self, facts: Mapping[str, str], data: Mapping[str, Any]) -> None:
        """Names and values, a line each; the same lines when quiet."""
        self.results(_aligned(list(facts.items())), data)

    def talk(self, text: str) -> None:
        """A sentence for whoever watches; nothing when quiet."""
        if self.mode != "quiet":
            _write(text, sys.stderr)

    def warn(self, text: str) -> None:
        """A sentence that something may not be as meant; also when quiet."""
        _write(f"Warning: {text}", sys.stderr)

    def progress(
        self,
        steps: Iterable[T],
        total: int,
        *,
        start: int = 0,
        label: str = "step",
        describe: Callable[[T], str] = lambda _: "",
    ) -> Iterator[T]:
        """Pass `steps` on and show how far they are: `start` of `total` were done before.

        A bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet.
        """
        if self.mode == "quiet":
            yield from steps
        elif sys.stderr.isatty():
            yield from _bar(steps, total, start, label, describe)
        else:
            yield from _lines(steps, total, start, label, describe)

    def confirm(self, question: str, yes: bool) -> None:
        """Ask before something that cannot be undone, unless `yes` was given.

        Raises InterruptedRun for a no, UsageError where there is no terminal to ask on.
        """
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{question} There is no terminal to answer on.", "Add --yes.")
        _write(f"{question} [y/N] ", sys.stderr, end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise InterruptedRun("Nothing was changed.")


def _write(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print text without what steers a terminal, whoever wrote it; talk leaves the middle of endless lines out."""
    text = printable(text, keep="\n\t")
    if stream is not None:
        text = "\n".join(shortened(line, _LONGEST) for line in text.split("\n"))
    print(text, file=stream or sys.stdout, end=end, flush=True)


def sink(json: bool = False, quiet: bool = False) -> Output:
    """The output of a command with these flags. Raises UsageError for both."""
    if json and quiet:
        raise UsageError("--json and --quiet exclude each other.", "Give one of them.")
    return Output("json" if json else "quiet" if quiet else "human")


def quiet_libraries(*, diffusers: bool = True) -> None:
    """Turn the bars and warnings of the model libraries off; to be called before they are used.

    `diffusers` takes seconds to import; what needs text encoders alone does without.
    """
    quiet = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    for library in ("accelerate", "diffusers", "huggingface_hub", "torch", "transformers"):
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
        logging.getLogger(library).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    silenced = [transformers_logging]
    if diffusers:
        from diffusers.utils import logging as diffusers_logging

        silenced.append(diffusers_logging)
    for theirs in silenced:
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()


def size(count: float) -> str:
    """Bytes for people: "38.3 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds for people: "40s", "3m 20s", "1h 05m"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _lines(steps: Iterable[T], total: int, start: int, label: str, describe: Callable[[T], str]) -> Iterator[T]:
    began, spoken = 0.0, -EVERY
    for done, step in enumerate(steps, start + 1):
        now = time.monotonic()
        began = began or now  # the first step's own time is that of warming up
        if now - spoken >= EVERY or done == total:
            left = (now - began) / max(1, done - start - 1) * (total - done)
            eta = f"eta {duration(left)}" if start + 1 < done < total else ""
            parts = [f"{label} {done}/{total}", describe(step), eta]
            _write("  ".join(filter(None, parts)), sys.stderr)
            spoken = now
        yield step


def _bar(steps: Iterable[T], total: int, start: int, label: str, describe: Callable[[T], str]) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=start, words="")
        for step in steps:
            bar.update(task, advance=1, words=describe(step))
            yield step
