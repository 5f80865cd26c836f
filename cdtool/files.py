"""Files that appear under their name whole or not at all, never over another by accident; and files of prompts."""

from __future__ import annotations

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

from cdtool.errors import InputError, NotFoundError

_LEFT = re.compile(r"\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]+\.partial")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_CLAIM_SECONDS = 60.0  # after which an empty file is the claim of a process that died, not of one about to fill it


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A hidden folder of this process inside `folder`; whatever a library leaves in it when killed is swept with it."""
    work = folder / f".{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(source: Path, target: Path) -> bool:
    """Give a file another name; False, and nothing happened, where that one is in use."""
    try:
        os.link(source, target)
        source.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _publish_without_links(source, target)
    return True


def sweep(folder: Path) -> None:
    """Remove what processes of this machine left in `folder` when they died: workplaces, and claims on names."""
    for path in folder.glob(".*.partial"):
        found = _LEFT.fullmatch(path.name)
        if found and is_abandoned(f"{found['host']}.{found['pid']}"):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.iterdir():
        if _is_stale_claim(path):
            path.unlink(missing_ok=True)


def owner() -> str:
    """How this process signs what it is at work on: machine and process id."""
    return f"{_host()}.{os.getpid()}"


def is_abandoned(signature: str) -> bool:
    """Whether the `owner` of something was a process of this machine that has died."""
    host, _, pid = signature.rpartition(".")
    return host == _host() and pid.isdigit() and not _alive(int(pid))


def _publish_without_links(source: Path, target: Path) -> bool:
    try:
        # An empty file claims the name; names() does not show it, and the next step fills it at once.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    source.replace(target)
    return True


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


def _is_stale_claim(path: Path) -> bool:
    try:
        about = path.stat()
    except OSError:
        return False  # gone meanwhile
    return stat.S_ISREG(about.st_mode) and not about.st_size and time.time() - about.st_mtime > _CLAIM_SECONDS


STDIN = "-"  # the path that stands for standard input


def read_prompts(path: Path) -> list[str]:
    """The prompts of a UTF-8 text file, or of standard input where `path` is "-"; at least one.

    Raises NotFoundError where there is no such file, InputError for a folder, for what is no text and for no prompt.
    """
    named = "standard input" if str(path) == STDIN else str(path)
    try:
        text = sys.stdin.read() if str(path) == STDIN else path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file of prompts {path}.", "Check the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file of prompts.", "Give a file with one a line.") from None
    except UnicodeDecodeError:
        raise InputError(f"The prompts of {named} are not UTF-8 text.", "Save them as UTF-8, one a line.") from None
    except OSError as error:
        raise InputError(f"The prompts of {named} cannot be read ({error.strerror}).", "Check its rights.") from None
    found = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not found:
        raise InputError(f"There is no prompt in {named}.", "Write one a line.")
    return found
