"""Files of prompts: one a line, empty lines and # comments left out."""

from __future__ import annotations

import sys
from pathlib import Path

from cdtool.errors import InputError, NotFoundError

STDIN = "-"  # the path that stands for standard input


def read(path: Path) -> list[str]:
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
