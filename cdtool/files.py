"""Files that appear under their name whole or not at all, never over another by accident; and files of prompts."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cdtool import schema
from cdtool.errors import InputError, NotFoundError, ResourceError

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLAIM_SECONDS = 60.0  # after which an empty file is the claim of a process that died, not of one about to fill it
_WAIT_SECONDS = 60.0  # for another process that holds a lock; what is done under one takes milliseconds


# ---------------------------------------------------------------- writing


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends without an error.

    What was at `path` stays until then, and no reader ever sees a part of the new file. `durable` flushes file and
    folder to the disk, so that the file outlives a power cut too.
    """
    with workplace(path.absolute().parent) as work:
        yield work / path.name
        if durable:
            flush(work / path.name)
        (work / path.name).replace(path)
        if durable:
            flush(path.absolute().parent)


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`, gone when the block ends; `sweep` removes it where its process was killed."""
    from filelock import FileLock

    work = folder / f".{uuid.uuid4().hex[:16]}.partial"
    lock = work.with_suffix(".lock")
    try:
        with FileLock(lock):  # the system releases it with the process, however that ends
            work.mkdir()
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.unlink(missing_ok=True)


def publish(source: Path, target: Path, *, durable: bool = True) -> bool:
    """Give a file another name; False, and nothing happened, where that one is in use."""
    try:
        os.link(source, target)
        source.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not _publish_without_links(source, target):
            return False
    if durable:
        flush(target.parent)
    return True


def _publish_without_links(source: Path, target: Path) -> bool:
    try:
        # An empty file claims the name; names() does not show it, and the next step fills it at once.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    source.replace(target)
    return True


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # which opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot flush a folder
            raise
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of what is done under the lock of `folder`. Raises ResourceError after a minute."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=_WAIT_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise ResourceError(f"Another process has held {folder} for a minute.", "Wait for it, or end it.") from None
    try:
        yield
    finally:
        lock.release()


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder of cdtool's own: workplaces, and empty files that claim a name."""
    sweep_workplaces(folder)
    for path in folder.iterdir():
        if _is_stale_claim(path):
            path.unlink(missing_ok=True)


def sweep_workplaces(folder: Path) -> None:
    """Remove the workplaces that killed processes left in `folder`, which may be a user's."""
    from filelock import FileLock, Timeout

    for lock in folder.glob(".?*.lock"):
        with contextlib.suppress(OSError, Timeout, NotImplementedError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(".partial"), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _is_stale_claim(path: Path) -> bool:
    try:
        about = path.stat()
    except OSError:
        return False  # gone meanwhile
    old = time.time() - about.st_mtime > _CLAIM_SECONDS
    return old and stat.S_ISREG(about.st_mode) and not about.st_size and not path.name.startswith(".")


# ---------------------------------------------------------------- room and rights, before the work


def check_writable(folder: Path, needed: int = 0) -> None:
    """Check that files of `needed` bytes can be written into `folder`, which need not be there yet.

    Raises ResourceError for a folder that cannot be made or written, and for a disk without that room.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise ResourceError(f"{folder} cannot be written: {there} is not a folder.", _ELSEWHERE)
    if not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(f"{folder} cannot be written: {there} is read-only.", _ELSEWHERE)
    free = shutil.disk_usage(there).free
    if free < max(needed, 1):
        raise ResourceError(
            f"The disk of {folder} is full: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free.",
            "Free some space, or choose another folder.",
        )


_ELSEWHERE = "Choose another folder; CDTOOL_HOME moves the data directory."


def write_error(path: Path, error: BaseException) -> ResourceError:
    """The error of a file that could not be written, from whatever a library raised about it."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    code = getattr(error, "errno", None)
    full = code in _FULL or "No space left" in reason or "os error 28" in reason
    if not full and "inline_container" in reason:  # all that torch says of a write that failed
        full = shutil.disk_usage(path.absolute().parent).free < 1_000_000
    if full:
        return ResourceError(f"{path} could not be written: the disk is full.", "Free some space and run it again.")
    return ResourceError(f"{path} could not be written: {reason}.", _ELSEWHERE)


# ---------------------------------------------------------------- reading


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or a device, on which reading could wait for ever, is an OSError."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - it is what this returns
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: Path, most: int = 16_000_000) -> bytes:
    """The content of a regular file of at most `most` bytes; anything else is an OSError."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"It has more than {most / 1e6:g} MB", str(path))
    return content


def read_text(path: Path, most: int = 64_000_000) -> str:
    """The UTF-8 text of a file or a pipe, without waiting for a pipe that nobody writes to.

    Raises OSError, for more than `most` bytes too, and UnicodeDecodeError.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        os.set_blocking(file.fileno(), True)  # reading waits for a writer that is there, and only for that
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"It has more than {most / 1e6:g} MB", str(path))
    return content.decode("utf-8-sig")


def parse_json(path: Path, most: int = 16_000_000) -> Any:
    """The JSON of a regular file of at most `most` bytes. Raises OSError, or SchemaError (a ValueError)."""
    return schema.loads(read_regular(path, most))


STDIN = "-"  # the path that stands for standard input


def read_prompts(path: Path) -> list[str]:
    """The prompts of a UTF-8 text file, or of standard input where `path` is "-"; at least one.

    Raises NotFoundError where there is no such file, InputError for a folder, for what is no text and for no prompt.
    """
    named = "standard input" if str(path) == STDIN else str(path)
    try:
        text = sys.stdin.read() if str(path) == STDIN else read_text(path)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file of prompts {path}.", "Check the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file of prompts.", "Give a file with one a line.") from None
    except UnicodeDecodeError:
        raise InputError(f"The prompts of {named} are not UTF-8 text.", "Save them as UTF-8, one a line.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The prompts of {named} cannot be read ({reason}).", "Check the path and its rights."
        ) from None
    found = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not found:
        raise InputError(f"There is no prompt in {named}.", "Write one a line.")
    return found


# ---------------------------------------------------------------- who is at work (prior sets in the making)


def owner() -> str:
    """How this process signs what it is at work on: machine and process id."""
    return f"{_host()}.{os.getpid()}"


def is_abandoned(signature: str) -> bool:
    """Whether the `owner` of something was a process of this machine that has died."""
    host, _, pid = signature.rpartition(".")
    return host == _host() and pid.isdigit() and not _alive(int(pid))


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname()) or "host"


def _alive(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is no question but Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
