"""The exceptions cdtool raises on purpose: each is one sentence for the user, a next step, and an exit code.

CdtoolError
├── UsageError          2  the command line contradicts itself
│   └── SettingsError   2  a setting is unknown or out of range
├── NotFoundError       3  no such concept, base, prior set or file
├── InputError          4  something given cannot be used
│   ├── PhotoError      4  no usable photo
│   ├── TokenError      4  a token spec or a modifier token makes no sense here
│   ├── NameTakenError  4  the name is in use
│   ├── ConceptError    4  a concept file is damaged or of a newer format
│   └── BaseError       4  a base is damaged, of an unknown family, or not the concept's
├── ResourceError       5  out of memory or disk
├── GateError           6  a quality gate failed
├── TrainingError       1  the training loop found itself wrong (a non-finite loss, a weight that did not move)
└── InterruptedRun    130  stopped by the user, with the place to resume from
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CdtoolError(Exception):
    """What went wrong and why, in one sentence; `hint` says what to type next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CdtoolError):
    exit_code = 2


class SettingsError(UsageError):
    pass


class NotFoundError(CdtoolError):
    exit_code = 3


class InputError(CdtoolError):
    exit_code = 4


class PhotoError(InputError):
    pass


class TokenError(InputError):
    pass


class NameTakenError(InputError):
    pass


class ConceptError(InputError):
    pass


class BaseError(InputError):
    pass


class ResourceError(CdtoolError):
    exit_code = 5


class GateError(CdtoolError):
    exit_code = 6


class TrainingError(CdtoolError):
    pass


class InterruptedRun(CdtoolError):
    exit_code = 130


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known words closest to `word`, or ""."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5) if len(word) < 200 else []
    return f"Did you mean {' or '.join(close)}?" if close else ""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error, torch's own included, says that memory ran out; imports no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory", "not enough memory")
    )
