"""A disk that fails: the n-th operation on files below a folder ends in an error, and everything after it works."""

from __future__ import annotations

import collections
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

WRITING = set("wax+")


class Disk:
    """Counts the operations that change files below `folder`, and fails the one numbered `fails` with `code`."""

    def __init__(self, folder: Path, fails: int, code: int, *, from_then_on: bool, but: Path | None) -> None:
        self.but = str(but or "\0")  # a folder below it whose files do not count
        self.folder, self.fails, self.code, self.from_then_on = str(folder), fails, code, from_then_on
        self.count = 0
        self.kinds: collections.Counter[str] = collections.Counter()

    def touch(self, kind: str, *paths: Any) -> None:
        """An operation of a kind on these paths."""
        names = [os.fspath(path) for path in paths if isinstance(path, str | os.PathLike)]
        if not any(name.startswith(self.folder) and not name.startswith(self.but) for name in names):
            return
        self.count += 1
        self.kinds[kind] += 1
        if self.count == self.fails or (self.from_then_on and self.count > self.fails):
            raise OSError(self.code, os.strerror(self.code), os.fspath(paths[-1]))


@contextmanager
def failing(
    folder: Path, fails: int, code: int, *, from_then_on: bool = False, but: Path | None = None
) -> Iterator[Disk]:
    """While open, the disk below `folder` fails at operation `fails` (from 1), once or from then on."""
    disk = Disk(folder, fails, code, from_then_on=from_then_on, but=but)
    import safetensors.torch
    import torch

    def spoiled(function: Any, places: int) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            disk.touch(function.__name__, *arguments[:places])
            return function(*arguments, **named)

        return call

    real_open, real_os_open, real_fsync = io.open, os.open, os.fsync

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if WRITING & set(mode):
            disk.touch("open", file)
        return real_open(file, mode, *arguments, **named)

    def os_opened(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            disk.touch("open", path)
        return real_os_open(path, flags, *arguments, **named)

    def flushed(handle: int) -> None:
        disk.touch("fsync", disk.folder)
        real_fsync(handle)

    def saved(function: Any, at: int) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            disk.touch("save", arguments[at] if len(arguments) > at else named.get("filename", ""))
            return function(*arguments, **named)

        return call

    with (
        mock.patch("io.open", opened),
        mock.patch("builtins.open", opened),
        mock.patch("os.open", os_opened),
        mock.patch("os.fsync", flushed),
        mock.patch("os.replace", spoiled(os.replace, 2)),
        mock.patch("os.rename", spoiled(os.rename, 2)),
        mock.patch("os.link", spoiled(os.link, 2)),
        mock.patch("os.mkdir", spoiled(os.mkdir, 1)),
        mock.patch("safetensors.torch.save_file", saved(safetensors.torch.save_file, 1)),
        mock.patch("torch.save", saved(torch.save, 1)),
    ):
        yield disk


CODES = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO, "denied": errno.EACCES}
