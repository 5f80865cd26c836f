"""Ctrl-C and SIGTERM: an interruption anywhere; during long work the first one asks it to save and stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
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
        yield lambda: bool(came)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
