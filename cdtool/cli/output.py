"""The one place that prints: results to stdout, talk to stderr; for a person, as JSON, or the bare names."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TextIO, TypeVar

from cdtool.errors import InterruptedRun, UsageError
from cdtool.schema import printable, shortened

SCHEMA = 1  # of every JSON object; counts up when a key changes its meaning or goes
_LONGEST = 2000  # characters of a line of talk
EVERY = 5.0  # seconds between plain progress lines
T = TypeVar("T")


class Progress(Protocol):
    """A step that knows how far the whole is."""

    @property
    def done(self) -> int:
        """What is done."""

    @property
    def total(self) -> int:
        """Of how much."""


S = TypeVar("S", bound=Progress)


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
        advance: Callable[[T], int] = lambda _: 1,
    ) -> Iterator[T]:
        """Pass `steps` on and show how far they are: `start` of `total` were done before.

        A bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet.
        """
        if self.mode == "quiet":
            yield from steps
        elif sys.stderr.isatty():
            yield from _bar(steps, total, start, label, describe, advance)
        else:
            yield from _lines(steps, total, start, label, describe, advance)

    def follow(self, steps: Iterator[S], *, label: str) -> Iterator[S]:
        """Pass steps on that know themselves how far they are, and show it; nothing where all is done at the first."""
        first = next(steps)
        if first.done >= first.total:
            yield first
            yield from steps
            return
        before = 0

        def advance(step: S) -> int:
            nonlocal before
            amount, before = step.done - before, step.done
            return amount

        yield from self.progress(itertools.chain([first], steps), first.total, label=label, advance=advance)

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


_QUIET = contextlib.ExitStack()


def quiet_libraries(*, diffusers: bool = True) -> None:
    """Keep the model libraries quiet from now on; to be called before they are used.

    `diffusers` takes seconds to import; what needs text encoders alone does without.
    """
    from cdtool.models.libraries import quiet

    _QUIET.enter_context(quiet(diffusers=diffusers))


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


def _lines(
    steps: Iterable[T], total: int, start: int, label: str, describe: Callable[[T], str], advance: Callable[[T], int]
) -> Iterator[T]:
    done, spoken = start, -EVERY
    began: tuple[float, int] | None = None  # once the first step is over: its own time is that of warming up
    for step in steps:
        amount, now = advance(step), time.monotonic()
        done += amount
        began = began or (now, done)
        if amount and (now - spoken >= EVERY or done == total):
            left = (now - began[0]) / max(1, done - began[1]) * (total - done)
            eta = f"eta {duration(left)}" if began[1] < done < total else ""
            parts = [f"{label} {done}/{total}", describe(step), eta]
            _write("  ".join(filter(None, parts)), sys.stderr)
            spoken = now
        yield step


def _bar(
    steps: Iterable[T], total: int, start: int, label: str, describe: Callable[[T], str], advance: Callable[[T], int]
) -> Iterator[T]:
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
            bar.update(task, advance=advance(step), words=describe(step))
            yield step
