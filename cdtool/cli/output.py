"""The one place that prints: results to stdout, talk to stderr; for a person, as JSON, or the bare names."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TextIO, TypeVar

from cdtool.errors import InterruptedRun, UsageError
from cdtool.schema import printable, shortened

SCHEMA = 1  # of every JSON object; counts up when a key changes its meaning or goes
_LONGEST = 2000  # characters of a line of talk
EVERY = 5.0  # seconds between plain progress lines
SEEN = 2.0  # seconds of steady work before the rest is estimated
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
        """Rows under column heads, fitted to a terminal; quiet prints the first column only."""
        if self.mode == "quiet":
            self.results([row[0] for row in rows], data)
        elif rows:
            self._aligned([columns, *rows], data)
        else:
            self.results([], data)

    def facts(self, facts: Mapping[str, str], data: Mapping[str, Any]) -> None:
        """Names and values, a line each and on a terminal as many as it takes; the same lines when quiet."""
        self._aligned(list(facts.items()), data)

    def _aligned(self, rows: Sequence[Sequence[str]], data: Mapping[str, Any]) -> None:
        fits = sys.stdout.isatty() and self.mode == "human"
        self.results(_fitted(rows, terminal_width()) if fits else _aligned(rows), data)

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
        """Pass `steps` on and show how far they are.

        A bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet.

        start: how much of `total` was done before.
        label: what is counted.
        describe: what is said of the last step.
        advance: how much a step counts; 0 for one that only passes by.
        """
        if self.mode == "quiet":
            yield from steps
            return
        show = _bar if sys.stderr.isatty() else _lines
        yield from show(_counted(steps, Pace(total, start), describe, advance), label)

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
    for hear in _LISTENERS:
        hear(text)


_LISTENERS: list[Callable[[str], None]] = []


@contextlib.contextmanager
def heard_by(hear: Callable[[str], None]) -> Iterator[None]:
    """While open, `hear` gets all that is printed, too."""
    _LISTENERS.append(hear)
    try:
        yield
    finally:
        _LISTENERS.remove(hear)


def sink(json: bool = False, quiet: bool = False) -> Output:
    """The output of a command with these flags. Raises UsageError for both."""
    if json and quiet:
        raise UsageError("--json and --quiet exclude each other.", "Give one of them.")
    return Output("json" if json else "quiet" if quiet else "human")


_QUIET = contextlib.ExitStack()
atexit.register(_QUIET.close)  # while the libraries are still there; at the very end they are taken apart


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


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned rows whose cells are wrapped between words to `width` columns.

    A table that cannot be wrapped so far becomes a block of lines for each row, under its heads.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > width and widths != least:
        slack = [wide - narrow for wide, narrow in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    if sum(widths) + 2 * (len(widths) - 1) <= width or len(widths) == 2:
        return [line for row in rows for line in _wrapped(row, widths)]
    head, *rest = rows
    blocks = [_fitted([pair for pair in zip(head, row, strict=True) if pair[1]], width) for row in rest]
    return [line for block in blocks for line in [*block, ""]][:-1]


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row in as many lines as its fullest cell needs."""
    cells = [
        textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) if cell else []
        for cell, width in zip(row, widths, strict=True)
    ]
    lines = itertools.zip_longest(*cells, fillvalue="")
    return ["  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def terminal_width() -> int:
    """Columns of the terminal that results go to."""
    return shutil.get_terminal_size().columns


@dataclass
class Pace:
    """How far work is, and how long the rest will take."""

    total: int
    done: int = 0
    words: str = ""
    _first: tuple[float, int] | None = None  # when the first step was over, and how much was done then

    def count(self, amount: int, words: str) -> None:
        """`amount` more is done."""
        self.done, self.words = self.done + amount, words or self.words
        if self._first is None:
            self._first = (time.monotonic(), self.done)

    def left(self) -> str:
        """The time left, "" as long as too little was seen to tell: the first step holds what happens once."""
        if self._first is None or self.done >= self.total:
            return ""
        began, before = self._first
        taken, done = time.monotonic() - began, self.done - before
        rest = taken / max(done, 1) * (self.total - self.done)
        return f"eta {duration(rest)}" if taken >= SEEN and done >= 2 and rest >= 1 else ""


def _counted(
    steps: Iterable[T], pace: Pace, describe: Callable[[T], str], advance: Callable[[T], int]
) -> Iterator[tuple[T, Pace]]:
    for step in steps:
        pace.count(advance(step), describe(step))
        yield step, pace


def _lines(steps: Iterator[tuple[T, Pace]], label: str) -> Iterator[T]:
    spoken, said = -EVERY, -1
    began = time.monotonic()
    for step, pace in steps:
        now = time.monotonic() - began
        if pace.done != said and (now - spoken >= EVERY or pace.done == pace.total):
            parts = [f"{label} {pace.done}/{pace.total}", pace.words, pace.left()]
            _write("  ".join(filter(None, parts)), sys.stderr)
            spoken, said = now, pace.done
        yield step


def _bar(steps: Iterator[tuple[T, Pace]], label: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, words="", left="")
        for step, pace in steps:
            bar.update(task, total=pace.total, completed=pace.done, words=pace.words, left=pace.left())
            yield step
