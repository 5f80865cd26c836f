"""Which worker runs which cell of a suite, or which job of a batch: claims in a folder on a shared disk.

A claim is a file whose date its worker keeps new. Where that stops, because the worker was killed or its machine went
down, the cell is given back. Claims change only under one lock.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdtool.errors import CdtoolError
from cdtool.files import replacing

BEAT = 5.0  # s between two signs of life
STALE = 60.0  # s without one, after which a worker on another machine is taken for dead
ATTEMPTS = 3  # workers that may die with a cell before it counts as failed


@dataclass(frozen=True)
class Claim:
    """A cell and the worker that has it; `concepts` are those it may have to train, which no other worker does now."""

    cell: str
    host: str
    pid: int
    since: float  # s since 1970, by the worker's clock
    concepts: tuple[str, ...] = ()
    attempt: int = 1

    @property
    def worker(self) -> str:
        """Its machine and process."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True)
class Failure:
    """Why a cell could not be finished."""

    cell: str
    worker: str
    when: float
    message: str
    hint: str = ""


def take(
    folder: Path, cells: Sequence[str], concepts: Callable[[str], Sequence[str]], *, stale: float = STALE
) -> Claim | None:
    """Claim the first of these cells that no living worker has; None where there is none now.

    A cell waits while another worker trains one of its concepts. A cell whose workers died `ATTEMPTS` times fails.

    Args:
        folder: of the cells.
        cells: ids that are not finished, in the order in which they are wanted.
        concepts: of a cell's id, the concepts that still have to be trained.
        stale: seconds without a sign of life after which a worker is taken for dead.
    """
    with _locked(folder) as now:
        held = {claim.cell: claim for claim in claims(folder)}
        dead = {name for name, claim in held.items() if not _is_alive(folder, claim, now, stale)}
        busy = {concept for name, claim in held.items() if name not in dead for concept in claim.concepts}
        for cell in cells:
            if cell in held and cell not in dead:
                continue
            attempt = held[cell].attempt + 1 if cell in dead else 1
            if attempt > ATTEMPTS:
                _write(_failure_path(folder, cell), asdict(_died(held[cell])))
                _path(folder, cell).unlink(missing_ok=True)
                continue
            needed = tuple(concepts(cell))
            if not busy & set(needed):
                claim = Claim(cell, host(), os.getpid(), time.time(), needed, attempt)
                _write(_path(folder, cell), asdict(claim))
                return claim
    return None


@contextmanager
def kept(folder: Path, claim: Claim) -> Iterator[None]:
    """Show signs of life for a claim while open, and give it back at the end."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            _touch(_path(folder, claim.cell))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with _locked(folder):
            mine = _read(_path(folder, claim.cell), Claim)
            if mine is not None and mine.worker == claim.worker:  # else it was given to another one meanwhile
                _path(folder, claim.cell).unlink(missing_ok=True)


def claims(folder: Path) -> list[Claim]:
    """All claims, those of dead workers too."""
    found = (_read(path, Claim) for path in sorted(folder.glob("*.claim")))
    return [replace(claim, concepts=tuple(claim.concepts)) for claim in found if claim is not None]


def alive(folder: Path, claim: Claim, *, stale: float = STALE) -> bool:
    """Whether a claim's worker shows signs of life."""
    with _locked(folder) as now:
        return _is_alive(folder, claim, now, stale)


def fail(folder: Path, claim: Claim, error: CdtoolError) -> None:
    """Keep why a cell could not be finished."""
    found = Failure(claim.cell, claim.worker, time.time(), str(error), error.hint or "")
    _write(_failure_path(folder, claim.cell), asdict(found))


def failures(folder: Path) -> dict[str, Failure]:
    """The cells that failed, by id, and why."""
    found = (_read(path, Failure) for path in sorted(folder.glob("*.failed")))
    return {failure.cell: failure for failure in found if failure is not None}


def forget(folder: Path, cell: str) -> None:
    """Forget that a cell failed."""
    _failure_path(folder, cell).unlink(missing_ok=True)


def host() -> str:
    """The name of this machine, as claims have it."""
    return re.sub(r"[^\w.-]", "-", socket.gethostname()) or "host"


@contextmanager
def _locked(folder: Path) -> Iterator[float]:
    """Keep other workers out while claims change; gives the time by the disk's own clock."""
    from filelock import FileLock

    with FileLock(folder / ".claims.lock"):
        clock = folder / ".claims.clock"
        clock.touch()
        yield clock.stat().st_mtime


def _is_alive(folder: Path, claim: Claim, now: float, stale: float) -> bool:
    if claim.host == host() and not _runs(claim.pid):
        return False
    try:
        return now - _path(folder, claim.cell).stat().st_mtime <= stale
    except OSError:
        return False


def _runs(pid: int) -> bool:
    """Whether a process of this machine is there; where that cannot be asked, yes."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _died(claim: Claim) -> Failure:
    return Failure(claim.cell, claim.worker, time.time(), f"Its worker died {claim.attempt} times.",
                   "See the log of the worker; memory is the usual reason.")  # fmt: skip


def _path(folder: Path, cell: str) -> Path:
    return folder / f"{cell}.claim"


def _failure_path(folder: Path, cell: str) -> Path:
    return folder / f"{cell}.failed"


def _touch(path: Path) -> None:
    with suppress(OSError):  # the disk was away for a moment, or the claim went to another worker
        os.utime(path)


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path, durable=False) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _read(path: Path, kind: Any) -> Any:
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
