"""Ctrl-C and SIGTERM: an interruption anywhere; during long work the first one asks it to save and stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """While open, whether Ctrl-C or SIGTERM came; a second one raises KeyboardInterrupt."""
    asked: list[int] = []

    def hear(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    kept = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def command_again(*more: str) -> list[str]:
    """The words of this command line without those that say how it begins, and `more`."""
    return [*(word for word in sys.argv[1:] if word not in ("--resume", "--force", "--if-missing")), *more]


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """While open, SIGTERM raises KeyboardInterrupt as Ctrl-C does; gives whether one of them came.

    Libraries may turn a KeyboardInterrupt into another error (in the middle of an import, say), so whoever catches an
    error has to ask.
    """
    came: list[int] = []

    def hear(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where no handlers can be set
        yield lambda: False
        return
    kept = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _heard_again(came):
            yield lambda: bool(came)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _heard_again(came: Sequence[int]) -> Iterator[None]:
    """While open, a KeyboardInterrupt that Python drops comes again a moment later.

    It drops those raised in a destructor or in a callback of the import system, and would print a traceback.
    """
    before, open_ = sys.unraisablehook, [True]

    def again() -> None:
        if open_:
            os.kill(os.getpid(), came[-1])

    def dropped(what: Any) -> None:
        if not came or not isinstance(what.exc_value, KeyboardInterrupt):
            before(what)
            return
        timer = threading.Timer(0.01, again)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        open_.clear()
        sys.unraisablehook = before
