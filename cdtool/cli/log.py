"""`--log FILE`: all that a bug report needs, added to a file while a command runs."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TextIO

from cdtool import __version__
from cdtool.errors import ResourceError, UsageError
from cdtool.schema import shortened

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub", "numpy")
FLAG = "--log"


def taken(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--log FILE`, wherever before "--" it stands, and its file.

    Raises UsageError where the file is missing.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for place, word in enumerate(arguments[:end]):
        if word.startswith(f"{FLAG}="):
            return [*arguments[:place], *arguments[place + 1 :]], Path(word.partition("=")[2])
        if word == FLAG:
            if place + 1 >= end:
                raise UsageError("--log needs a FILE.", 'Like: cdtool --log run.txt train ./photos --token "V* dog"')
            return [*arguments[:place], *arguments[place + 2 :]], Path(arguments[place + 1])
    return list(arguments), None


class Log:
    """A log that is open: every line has its time, and reaches the file at once."""

    def __init__(self, path: Path) -> None:
        """Raises ResourceError where the file cannot be written."""
        try:
            self._file: TextIO = open(path, "a", encoding="utf-8", errors="backslashreplace", opener=_opened)  # noqa: SIM115 - `end` closes it
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ResourceError(f"The log {path} cannot be written: {reason}.", "Choose another file.") from None
        self._began = time.monotonic()
        self.trace = ""  # of the error that ended the command

    def add(self, text: str) -> None:
        """Add lines; a disk that fills meanwhile costs the log, not the work."""
        now = f"{time.monotonic() - self._began:9.3f}"
        with contextlib.suppress(OSError):
            self._file.write("".join(f"{now}  {shortened(line, 4000)}\n" for line in text.rstrip("\n").split("\n")))
            self._file.flush()

    def begin(self, arguments: Sequence[str]) -> None:
        """What ran, where, with what: no part of the environment but cdtool's own variables."""
        own = sorted(name for name in os.environ if name.startswith("CDTOOL_"))
        self.add(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  cdtool {__version__}")
        self.add(f"arguments  {list(arguments)!r}")
        self.add(f"folder  {Path.cwd()}")
        self.add(f"python  {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
        self.add("libraries  " + ", ".join(f"{name} {_version(name)}" for name in LIBRARIES))
        for name in own:
            self.add(f"{name}  {os.environ[name]!r}")

    def end(self, code: int) -> None:
        """How it ended: the traceback of an error, the exit code and the most memory it held."""
        if self.trace:
            self.add(self.trace)
        self.add(f"exit code {code}{_memory()}")
        with contextlib.suppress(OSError):
            self._file.close()


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)  # a pipe that nobody reads is an error


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    if os.name == "nt":
        return ""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
    return f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB of memory"
