"""Paths as users write them: text from a user may be a name or a path, and need not be one that can exist.

`user_path`, `is_file`, `is_dir` and `exists` take any text. What must be a path is checked once, by `check_path`; the
command line does so for every option and argument of type Path.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cdtool import schema
from cdtool.errors import InputError


def user_path(text: str | Path) -> Path:
    """A path as a user wrote it, `~` expanded where it stands for a home that is known."""
    try:
        return Path(os.path.expanduser(text))
    except ValueError:  # a NUL in the name of a user
        return Path(text)


def check_path(path: Path) -> None:
    """Raises InputError for what the file system cannot take as a path: too long, with a NUL, not encodable."""
    try:
        os.lstat(path)
    except ValueError:  # UnicodeEncodeError is one
        raise InputError(f'"{_shown(path)}" cannot be a path: its characters are not allowed.', _A_PATH) from None
    except OSError as error:
        if error.errno in _NO_PATH:
            raise InputError(f'"{_shown(path)}" cannot be a path: {error.strerror}.', _A_PATH) from None


_NO_PATH = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_A_PATH = "Give the path of a file or folder."


def _shown(path: Path) -> str:
    return schema.shortened(schema.printable(str(path).encode(errors="replace").decode()), 80)


def is_file(path: Path | str) -> bool:
    """Whether there is such a file; text that cannot be a path (too long, with a NUL) names none."""
    return os.path.isfile(path)


def is_dir(path: Path | str) -> bool:
    """Whether there is such a folder; text that cannot be a path names none."""
    return os.path.isdir(path)


def exists(path: Path | str) -> bool:
    """Whether there is such a file or folder; text that cannot be a path names none."""
    return os.path.exists(path)
